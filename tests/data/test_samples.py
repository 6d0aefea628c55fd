"""Digits and photographs as scikit-learn gives them, without importing it."""

import subprocess
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits, load_sample_images

from gradprobe.data import samples
from gradprobe.data.photos import photographs


@pytest.mark.parametrize("layout", ["known", "another"])
def test_digits_are_those_of_scikit_learn(monkeypatch, tmp_path, layout):
    if layout == "another":
        monkeypatch.setattr(samples, "sklearn_datasets", lambda: tmp_path)
    images, target = samples.handwritten_digits.__wrapped__()
    data = load_digits()
    assert images.dtype == data.images.dtype and target.dtype == data.target.dtype
    assert np.array_equal(images, data.images) and np.array_equal(target, data.target)


def test_photographs_are_those_of_scikit_learn():
    for own, theirs in zip(photographs()[:2], load_sample_images().images, strict=True):
        assert own.dtype == theirs.dtype and np.array_equal(own, theirs)


def test_scenes_and_photographs_are_drawn_without_importing_it():
    code = """
import sys
from gradprobe.data.photo_scenes import photo_scenes
from gradprobe.data.photos import photos
from gradprobe.statistics import agreement, estimates, nested, proportions, ratios
photo_scenes("train", [0]), photos("train", [0])
slow = {"sklearn", "pandas", "scipy.stats", "scipy.optimize"} & set(sys.modules)
assert not slow, slow
"""
    subprocess.run([sys.executable, "-c", code], check=True)
