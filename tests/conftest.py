"""What all tests share: where the real assets are, and one thread so that parallel tests do not fight."""

import os
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]


def pytest_configure(config):
    if os.environ.get("PYTEST_XDIST_WORKER"):
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder of real weights and images; without it the test is skipped."""
    folder = Path(os.environ.get("GRADPROBE_ASSETS", ROOT.parent / "shared" / "assets"))
    if not folder.is_dir():
        pytest.skip("no real assets: set GRADPROBE_ASSETS to the folder that holds them")
    return folder
