"""Digits that come with scikit-learn, read from its files: importing it takes a second."""

import gzip
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Digits(NamedTuple):
    """Handwritten digits of scikit-learn.

    Attributes:
        images: ``(1797, 8, 8)`` float64 from 0 to 16.
        target: ``(1797,)``, the digit of each.
    """

    images: np.ndarray
    target: np.ndarray


@cache
def handwritten_digits() -> Digits:
    """Return the digits of ``sklearn.datasets.load_digits``.

    Example:
        >>> handwritten_digits().images.shape, handwritten_digits().target[:4].tolist()
        ((1797, 8, 8), [0, 1, 2, 3])
    """
    path = sklearn_datasets() / "data" / "digits.csv.gz"
    if not path.is_file():  # a version with another layout
        from sklearn.datasets import load_digits

        data = load_digits()
        return Digits(data.images, data.target)
    with gzip.open(path, "rt", encoding="utf-8") as file:
        table = np.loadtxt(file, delimiter=",")
    return Digits(table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(int))


def sklearn_datasets() -> Path:
    """Return the folder of scikit-learn's data sets; finding it imports nothing."""
    spec = find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("No module named 'sklearn'", name="sklearn")
    return Path(spec.origin).parent / "datasets"
