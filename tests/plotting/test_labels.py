"""Names in a figure lie on no other name, no mark and no line to another name."""

import numpy as np
import pytest

from gradprobe.plotting.labels import MARK, Box, ends, placed, spread, text_size

BOUNDS = Box(0, 0, 220, 300)


def scene(count, seed, spread=1.0):
    """Points in a cluster of a panel, with names of many lengths."""
    rng = np.random.default_rng(seed)
    points = [(110 + 100 * spread * x, 150 + 140 * spread * y) for x, y in rng.uniform(-1, 1, (count, 2))]
    return points, [(float(rng.uniform(10, 60)), 6.5) for _ in range(count)]


@pytest.mark.parametrize(("count", "spread"), [(1, 1.0), (12, 1.0), (30, 0.6), (30, 0.05)])
def test_no_name_lies_on_another_on_a_mark_or_outside(count, spread):
    for seed in range(5):
        points, sizes = scene(count, seed, spread)
        boxes = placed(points, sizes, BOUNDS)
        kept = [box for box in boxes if box is not None]
        assert not any(a.meets(b) for i, a in enumerate(kept) for b in kept[i + 1 :])
        assert not any(box.meets(Box(x - MARK, y - MARK, x + MARK, y + MARK)) for box in kept for x, y in points)
        assert all(box.left >= 0 and box.bottom >= 0 and box.right <= 220 and box.top <= 300 for box in kept)
        assert len(kept) >= min(count, 12)  # in the open all have a place


def test_no_line_to_a_name_crosses_another_name():
    points, sizes = scene(25, 3, 0.4)
    boxes = placed(points, sizes, BOUNDS)
    for (x, y), box in zip(points, boxes, strict=True):
        if box is not None:
            to_x, to_y = ends((x, y), box)
            line = [(x + t / 12 * (to_x - x), y + t / 12 * (to_y - y)) for t in range(13)]
            assert not any(other.holds(*p) for other in boxes if other not in (None, box) for p in line)


def test_points_without_a_name_and_names_without_room_have_none():
    assert placed([(50.0, 50.0), (60.0, 50.0)], [None, (20.0, 6.0)], BOUNDS)[0] is None
    assert placed([(50.0, 50.0)], [(400.0, 6.0)], BOUNDS) == [None]


def test_the_first_names_have_the_choice():
    points = [(110.0, 150.0 + 0.3 * i) for i in range(40)]
    boxes = placed(points, [(50.0, 6.5)] * 40, BOUNDS)
    assert all(box is not None for box in boxes[:4]) and any(box is None for box in boxes)


def test_texts_are_as_wide_as_they_are_drawn():
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(dpi=72)
    canvas = FigureCanvasAgg(figure)
    for words in ("zoo", "PyramidDrop@1,2,3", "mean-attention 33"):
        for weight in ("normal", "bold"):
            text = figure.text(0, 0, words, fontsize=6, family="DejaVu Sans", fontweight=weight)
            drawn = text.get_window_extent(canvas.get_renderer()).width
            assert text_size(words, 6, weight == "bold")[0] == pytest.approx(drawn, rel=0.1)


@pytest.mark.parametrize("seed", range(20))
def test_spread_values_keep_their_order_their_distance_and_their_ends(seed):
    rng = np.random.default_rng(seed)
    values = rng.normal(0.5, 0.5, rng.integers(1, 15)).tolist()
    moved = spread(values, 0.05, 0.0, 1.0)
    assert np.argsort(moved, kind="stable").tolist() == np.argsort(values, kind="stable").tolist()
    assert all(np.diff(sorted(moved)) > 0.05 - 1e-6)
    assert min(moved) >= -1e-6 and max(moved) <= 1 + 1e-6
    assert spread(moved, 0.05, 0.0, 1.0) == pytest.approx(moved)  # what is apart stays


def test_too_many_values_share_the_room():
    assert spread([0.5] * 11, 0.5, 0.0, 1.0) == pytest.approx(np.linspace(0, 1, 11))
