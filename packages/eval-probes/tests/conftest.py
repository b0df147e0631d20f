import pytest


@pytest.fixture(params=[101, 96])
def small_blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set small, uneven block sizes, so that small data need many blocks; one bank block is a multiple of eight."""
    monkeypatch.setattr("eval_probes._neighbours._QUERY_ROWS", 37)
    monkeypatch.setattr("eval_probes._neighbours._BANK_ROWS", request.param)
    monkeypatch.setattr("eval_probes._knn._VOTE_ROWS", 41)
