import pytest


@pytest.fixture(params=[101, 96])
def small_blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many uneven blocks, so that merging is exercised on small data; rows a multiple of eight or not."""
    monkeypatch.setattr("eval_probes._neighbours._QUERY_ROWS", 37)
    monkeypatch.setattr("eval_probes._neighbours._BANK_ROWS", request.param)
    monkeypatch.setattr("eval_probes._knn._VOTE_ROWS", 41)
