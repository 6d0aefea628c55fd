"""Roughness of a line against its definitions, and its power to separate a smooth function from a staircase."""

import json
import math

import numpy as np
import pytest
import torch
from scipy.stats import t as student

from gradprobe.errors import UsageError
from gradprobe.landscapes.planes import axis, line
from gradprobe.statistics.roughness import landscape_row, roughness, tv_exponent


def test_roughness_equals_its_definitions():
    losses = np.random.default_rng(0).normal(size=200)
    losses[50:60] = 1.0
    steps = [abs(losses[i + 1] - losses[i]) for i in range(199)]
    rough = roughness(losses, 0.01)
    assert rough.mean == pytest.approx(sum(steps) / 199) and rough.total == pytest.approx(sum(steps))
    assert rough.median == sorted(steps)[99] and rough.largest == max(steps) and rough.zero_share == 9 / 199
    bends = [abs(losses[i + 1] - 2 * losses[i] + losses[i - 1]) for i in range(1, 199)]
    assert rough.second_difference == pytest.approx(sum(bends) / 198)
    assert (rough.step, rough.points) == (0.01, 200)
    pooled = roughness(losses.reshape(4, 50), 0.01)
    rows = [roughness(row, 0.01) for row in losses.reshape(4, 50)]
    assert pooled.mean == pytest.approx(np.mean([r.mean for r in rows]))
    assert pooled.total == pytest.approx(np.mean([r.total for r in rows]))
    assert pooled.largest == max(r.largest for r in rows)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_not_hidden(bad):
    losses = np.linspace(0, 1, 9)
    losses[[3, 4]] = bad
    rough = roughness(losses, 0.1)
    numbers = (rough.mean, rough.median, rough.largest, rough.total, rough.zero_share, rough.second_difference)
    assert all(math.isnan(value) for value in numbers)
    assert math.isnan(tv_exponent(losses, 2).exponent)
    losses[4] = 0
    losses[3] = math.inf
    assert roughness(losses, 0.1).largest == math.inf


def along_a_line(kind, points):
    """Losses of a real tensor function: smooth, or over which of 2000 tokens are among the best (a staircase)."""
    generator = torch.Generator().manual_seed(1)
    values, scores, d = (torch.randn(2000, generator=generator, dtype=torch.float64) for _ in range(3))

    def loss(params):
        s = params["s"]
        if kind == "smooth":
            return ((9 * s).sin() * values)[:8].sum()
        return values[s.topk(400).indices.sort().values].sum()

    return line(loss, {"s": scores}, {"s": d}, axis(0.3, points))


def test_total_variation_of_a_smooth_function_is_constant_over_grids_and_a_staircases_is_not():
    smooth = [roughness(along_a_line("smooth", n), 0.6 / (n - 1)) for n in (41, 161)]
    hard = [roughness(along_a_line("hard", n), 0.6 / (n - 1)) for n in (41, 161)]
    assert smooth[1].total == pytest.approx(smooth[0].total, rel=1e-3)
    assert smooth[0].largest / smooth[1].largest == pytest.approx(4, rel=0.1)
    assert (np.diff(along_a_line("smooth", 41)) > 0).any() and (np.diff(along_a_line("smooth", 41)) < 0).any()
    assert hard[1].total > 1.3 * hard[0].total
    assert hard[1].largest > 0.5 * hard[0].largest
    assert smooth[1].zero_share == 0 and hard[1].zero_share > 0.1
    assert abs(tv_exponent(along_a_line("smooth", 161), 4).exponent) < 1e-3
    assert 0.2 < tv_exponent(along_a_line("hard", 161), 4).exponent < 0.5


@pytest.mark.parametrize("p, tolerance", [(0.0, 1e-3), (0.5, 0.05), (1.0, 0.05)])
def test_exponent_of_known_paths(p, tolerance):
    rng, n = np.random.default_rng(0), 8 * 2000 + 1
    path = {0.0: np.sin(np.linspace(0, 7, n)), 0.5: rng.normal(size=n).cumsum(), 1.0: rng.normal(size=n)}[p]
    variation = tv_exponent(path, 8)
    assert variation.exponent == pytest.approx(p, abs=tolerance)
    assert variation.fine == np.abs(np.diff(path)).sum() and variation.coarse == np.abs(np.diff(path[::8])).sum()


def test_exponent_at_the_edges():
    assert tv_exponent(np.ones(9), 2).exponent == 0
    assert tv_exponent([0.0, 1.0, 0.0, 1.0, 0.0], 2).exponent == math.inf


@pytest.mark.parametrize(
    "ask, message",
    [
        (lambda: roughness([1.0, 2.0], 0.1), "at least 3"),
        (lambda: roughness(1.0, 0.1), r"shape \(\)"),
        (lambda: roughness(np.ones((0, 5)), 0.1), r"shape \(0, 5\)"),
        (lambda: roughness([1.0, 2.0, 3.0], 0.0), "step=0"),
        (lambda: roughness([1.0, 2.0, 3.0], math.nan), "step=nan"),
        (lambda: tv_exponent(np.ones(9), 1), "factor=1"),
        (lambda: tv_exponent(np.ones(10), 2), "give 9 points"),
        (lambda: tv_exponent(np.ones(5), 4), "give 9 points"),
    ],
)
def test_roughness_refuses_what_is_no_line(ask, message):
    with pytest.raises(UsageError, match=message):
        ask()


def surfaces(seed, shape=(5, 9, 12)):
    rng = np.random.default_rng(seed)
    return rng.normal(size=shape).cumsum(1) + rng.normal(size=shape[-1])


def test_a_row_is_the_definition_image_by_image():
    ours, base = surfaces(0), surfaces(1)
    a, b = np.linspace(-1, 1, 5), np.linspace(-2, 2, 9)
    row = landscape_row(ours, a, b, base)

    def mean_step(losses, dim):
        return np.abs(np.diff(losses.mean(-1), axis=dim)).mean()

    for name, dim in (("d2", 1), ("d1", 0)):
        assert row[f"{name}_variation"] == pytest.approx(mean_step(ours, dim)) and row[f"{name}_step"] == 0.5
        assert row[f"{name}_ratio"] == pytest.approx(mean_step(ours, dim) / mean_step(base, dim))
        bends = [np.abs(np.diff(x.mean(-1), n=2, axis=dim)).mean() for x in (ours, base)]
        assert row[f"{name}_second_ratio"] == pytest.approx(bends[0] / bends[1])
        without = [mean_step(np.delete(ours, i, -1), dim) / mean_step(np.delete(base, i, -1), dim) for i in range(12)]
        half = student.ppf(0.975, 11) * np.sqrt(11 / 12 * np.sum((np.log(without) - np.log(without).mean()) ** 2))
        assert row[f"{name}_ratio_high"] == pytest.approx(row[f"{name}_ratio"] * np.exp(half))
        assert row[f"{name}_ratio_low"] == pytest.approx(row[f"{name}_ratio"] / np.exp(half))
    assert row["range"] == pytest.approx(np.ptp(ours.mean(-1)))
    assert (row["rows"], row["columns"], row["d2_factor"]) == (5, 9, 2)
    with pytest.raises(UsageError, match="on one grid"):
        landscape_row(ours, a, b, base[:, :5])


@pytest.mark.parametrize("spoil", [np.nan, np.inf])
def test_a_loss_that_is_no_number_makes_no_numbers(spoil):
    losses = surfaces(0)
    losses[2, 3, 4] = spoil
    row = landscape_row(losses, np.arange(5.0), np.arange(9.0), surfaces(1))
    assert row["d2_variation"] is None and row["d2_ratio"] is None and row["range"] is None
    json.dumps(row, allow_nan=False)


def test_one_image_or_a_constant_loss_has_no_interval():
    one = landscape_row(surfaces(0)[..., :1], np.arange(5.0), np.arange(9.0))
    assert one["d2_variation"] > 0 and one["d2_low"] is None and one["d2_high"] is None
    flat = landscape_row(np.ones((1, 9, 4)), np.zeros(1), np.arange(9.0), np.ones((1, 9, 4)))
    assert flat["d2_zero_share"] == 1 and flat["d2_ratio"] is None and "d1_variation" not in flat


@pytest.mark.parametrize("images", [16, 64])
def test_intervals_of_the_ratio_cover_the_truth(images):
    """Jumps at random places of images that differ: the mean steps' ratio of large populations is in 95 % of them."""
    rng = np.random.default_rng(0)
    b = np.linspace(-0.3, 0.3, 31)
    slopes = lambda n: rng.gamma(4, size=(n, 1, 1, images))  # noqa: E731
    line = (b * 3)[None, None, :, None]
    hits = 0
    for ours, base in zip(slopes(400) * line, slopes(400) * line, strict=True):
        row = landscape_row(ours, np.zeros(1), b, base)
        hits += row["d2_ratio_low"] <= 1 <= row["d2_ratio_high"]
    assert 0.92 <= hits / 400 <= 0.98
