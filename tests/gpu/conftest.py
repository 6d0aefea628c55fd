"""Tests of what a GPU computes; without one they are skipped.

``GRADPROBE_TEST_DEVICE=cpu`` runs the same code on a CPU, where it proves only that it runs.
"""

import os
from pathlib import Path

import pytest
import torch

DEVICE = os.environ.get("GRADPROBE_TEST_DEVICE", "cuda")


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.gpu)


@pytest.fixture(scope="session")
def device() -> str:
    if DEVICE == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU; GRADPROBE_TEST_DEVICE=cpu runs these tests on a CPU")
    return DEVICE
