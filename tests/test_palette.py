"""Palettes of PNG files: small where nothing is lost to the eye, untouched otherwise."""

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from gradprobe.plotting.palette import to_palette
from gradprobe.plotting.style import look, save_figure


def drawn(path):
    with look():
        figure = Figure(figsize=(3, 2))
        figure.subplots().plot([0, 1, 2], [1, 0, 2])
    return save_figure(figure, path)


def read(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), int), image.info["dpi"]


def test_a_drawing_gets_smaller_and_looks_the_same(tmp_path):
    path = drawn(tmp_path / "a.png")
    size, (before, dpi) = path.stat().st_size, read(path)
    assert to_palette(path).stat().st_size < 0.7 * size
    after, same = read(path)
    assert np.abs(after - before).mean() < 0.5
    assert np.allclose(same, dpi, atol=0.1)
    assert to_palette(drawn(tmp_path / "b.png")).read_bytes() == path.read_bytes()


def test_photographs_and_other_files_stay(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "n.png")
    vector = drawn(tmp_path / "a.svg")
    for path in (tmp_path / "n.png", vector):
        before = path.read_bytes()
        assert to_palette(path).read_bytes() == before
