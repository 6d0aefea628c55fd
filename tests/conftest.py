"""What all tests share: where the real assets are, and one thread so that parallel tests do not fight."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]


def pytest_configure(config):
    os.environ["GRADPROBE_CACHE"] = tempfile.mkdtemp(prefix="gradprobe-cache-")  # tests never touch the user's own
    if os.environ.get("PYTEST_XDIST_WORKER"):
        torch.set_num_threads(1)


def pytest_unconfigure(config):
    shutil.rmtree(os.environ["GRADPROBE_CACHE"], ignore_errors=True)


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder of real weights and images; third-party data that cannot ship, so without it the test is skipped.

    A folder that was named and is not there is an error, not a skip.
    """
    named = os.environ.get("GRADPROBE_ASSETS")
    folder = Path(named or ROOT.parent / "shared" / "assets")
    if named and not folder.is_dir():
        pytest.fail(f"GRADPROBE_ASSETS is {named}, which is no folder")
    if not folder.is_dir():
        pytest.skip("no real assets: set GRADPROBE_ASSETS to the folder that holds them")
    return folder


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run gradprobe in an empty folder; gives exit code, stdout and stderr."""
    from gradprobe import cli

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")

    def go(*arguments):
        monkeypatch.setattr("sys.argv", ["gradprobe", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        captured = capsys.readouterr()
        return stop.value.code, captured.out, captured.err

    return go
