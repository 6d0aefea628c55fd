"""A reader's folder: pictures, and the files that a page tells the reader to save."""

import sys

import numpy as np
import pytest
from PIL import Image

import gradprobe.probes


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Enter an empty folder with a picture ``x.jpg`` and pictures of two classes in ``photos/``; import from there."""
    random = np.random.default_rng(0)

    def save(path, side):
        Image.fromarray(random.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(path)

    for number in range(32):
        name = tmp_path / "photos" / str(number % 2) / f"{number}.png"
        name.parent.mkdir(parents=True, exist_ok=True)
        save(name, 40)
    save(tmp_path / "x.jpg", 112)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(gradprobe.probes, "_named", {})
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]
