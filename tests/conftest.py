import os
from pathlib import Path

import pytest
from faulty_run import METHOD, arguments
from pretrain.cli import main
from small_run import ROOT


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Real images for tests, laid beside the repository or named by CLUSTER_SSL_DATA."""
    folder = Path(os.environ.get("CLUSTER_SSL_DATA", ROOT.parent / "shared" / "data"))
    if not folder.exists():
        pytest.skip("no real images here: set CLUSTER_SSL_DATA to a folder that holds them")
    return folder


@pytest.fixture(scope="session")
def unharmed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that those of faulty_run.py would have been."""
    out = tmp_path_factory.mktemp("unharmed") / "run"
    assert main(arguments(METHOD, out)) == 0
    return out
