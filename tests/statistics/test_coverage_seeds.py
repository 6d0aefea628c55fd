"""Coverage in simulation of intervals over seeds, in which images are nested, as in docs/statistics.md."""

from functools import cache

import numpy as np
import pytest
from scipy.special import ndtri
from scipy.stats import t as student
from test_agreement import drawn, measured
from test_coverage import MOST, RNG, gradients, holds, share, tables, total

from gradprobe.statistics import estimates as st
from gradprobe.statistics.agreement import cut_estimate
from gradprobe.statistics.estimates import Estimate
from gradprobe.statistics.nested import nested
from gradprobe.statistics.ratios import Paired, over_seeds, paired_ratio, relative_variance, seeds_difference
from gradprobe.statistics.roughness import landscape_row

pytestmark = pytest.mark.slow


# --- retention over seeds ---


def trainings(rng, seeds, images, unpruned, mean, spread, shared):
    """Tables of several trainings, whose true retentions are beta-distributed; shared: all on the same images."""
    strength = mean * (1 - mean) / spread**2 - 1 if spread else None
    kept = rng.beta(mean * strength, (1 - mean) * strength, seeds) if strength else np.full(seeds, mean)
    if not shared:
        return [tables(rng, images, unpruned, q, 0, 1)[0][0] for q in kept]
    known, hard = rng.random(images) < unpruned, rng.normal(size=images)
    right = [known & (np.sqrt(0.7) * hard + np.sqrt(0.3) * rng.normal(size=images) < ndtri(q)) for q in kept]
    return [Paired(int(r.sum()), 0, int((known & ~r).sum())) for r in right]


@pytest.mark.parametrize(
    ("seeds", "images", "unpruned", "mean", "spread", "shared", "low", "high"),
    [
        (5, 1000, 0.993, 0.999, 0.0005, False, 0.97, 1),  # images alone, as over images
        (5, 1000, 0.993, 0.98, 0.01, False, 0.92, MOST),
        (5, 1000, 0.993, 0.6, 0.2, False, 0.93, MOST),
        (5, 1000, 0.993, 0.1, 0.03, False, 0.93, MOST),
        (5, 400, 0.72, 0.6, 0.0, False, 0.93, 0.98),
        (5, 400, 0.72, 0.6, 0.03, False, 0.93, MOST),
        (5, 400, 0.72, 0.01, 0.005, False, 0.92, MOST),
        (8, 400, 0.72, 0.6, 0.03, False, 0.93, MOST),
        (10, 1000, 0.993, 0.98, 0.01, False, 0.93, MOST),
        (10, 1000, 0.993, 0.6, 0.2, False, 0.93, MOST),
        (10, 400, 0.72, 0.01, 0.005, False, 0.92, MOST),
        (5, 64, 0.99, 0.95, 0.03, False, 0.88, 0.94),  # few images near 1: stated
        (5, 400, 0.72, 0.6, 0.0, True, 0.97, 1),  # the images' share is counted in full: stated
        (5, 400, 0.72, 0.6, 0.1, True, 0.93, 0.98),
    ],
)
def test_retention_over_seeds(seeds, images, unpruned, mean, spread, shared, low, high):
    rng, hits = RNG(4), []
    for _ in range(2000):
        counts = trainings(rng, seeds, images, unpruned, mean, spread, shared)
        each = [paired_ratio(c) for c in counts]
        variances = [((c.both + 1) / (c.both + c.theirs + 1)) ** 2 * relative_variance(c) for c in counts]
        interval = over_seeds([e.value for e in each], variances, each, shared, 1 / unpruned)
        assert 0 <= interval.low <= interval.high <= 1 / unpruned + 1e-9 and interval.low < interval.high
        hits.append(holds(interval, mean))
    share(f"{seeds} seeds of {mean} -+ {spread}, {images} images, shared {shared}", hits, low, high)


# --- other statistics over seeds ---


def intervals_of_seeds(rng, trials, count, mean, spread, shared):
    """Yield the estimates of so many seeds on the atanh scale: errors of 0.1 within one, known with 15 degrees."""
    for _ in range(trials):
        error = rng.normal(size=1 if shared else count)
        half = student.ppf(0.975, 15) * 0.1 * np.sqrt(rng.chisquare(15, count) / 15)
        z = mean + spread * rng.normal(size=count) + 0.1 * error
        yield [Estimate(*each) for each in np.tanh([z, z - half, z + half]).T.tolist()]


@cache
def cosines_of_signals(size):
    """Return signals, and atanh of the mean cosine at each: the square of the mean unit gradient along the signal."""
    grid, rng = np.geomspace(0.5, 90, 200), RNG(13)
    along, across = np.sqrt(2) * rng.normal(size=100_000), 2 * rng.chisquare(size - 1, 100_000)
    shifted = (s * np.sqrt(size) / 2 + along for s in grid)
    return grid, np.arctanh([np.mean(x / np.sqrt(x**2 + across)) ** 2 for x in shifted])


@pytest.mark.parametrize("count", [5, 10])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(
    ("signal", "spread", "size", "low", "high"),
    [
        (0.0, 0.0, 60, 0.94, 1),  # C = 0: each seed's interval is too wide there
        (4.0, 0.0, 60, 0.94, 0.995),  # seeds that do not differ
        (4.0, 0.3, 60, 0.925, 0.98),
        (20.0, 0.2, 10, 0.925, 0.98),
    ],
)
def test_coherence_over_seeds(count, shared, signal, spread, size, low, high):
    """Batches nested in seeds, whose signal is log-normal; shared: the same noise of 16 batches in all seeds."""
    rng, hits = RNG(12), []
    signals = signal * np.exp(spread * RNG(14).normal(size=100_000))
    zeta = np.interp(signals, *cosines_of_signals(size)) if signal else np.zeros(1)
    truth = float(np.tanh(zeta.mean()))
    for _ in range(1000):
        own = signal * np.exp(spread * rng.normal(size=count))
        common = gradients(rng, 16, 0, size, 0)
        each = []
        for s in own:
            g = common.copy() if shared else gradients(rng, 16, 0, size, 0)
            g[:, :, 0] += s * np.sqrt(size) / 2
            each.append(st.of_cosine(total(g)))
        interval = nested(each, "atanh", shared)
        assert -1 <= interval.low <= interval.high <= 1
        hits.append(holds(interval, truth))
    share(f"C {truth:.2f} over {count} seeds, spread {np.std(zeta):.2f}, shared {shared}", hits, low, high)


@pytest.mark.parametrize("count", [5, 10])
@pytest.mark.parametrize(("spread", "low", "high"), [(0.0, 0.93, 1), (0.3, 0.93, 0.99), (1.0, 0.925, 0.98)])
def test_steps_of_a_line_over_seeds(count, spread, low, high):
    """Lines of 32 images that jump, a line of its own for each seed, whose size is log-normal."""
    rng, grid = RNG(15), np.linspace(-0.3, 0.3, 21)

    def line():
        jumps = np.cumsum(rng.normal(size=(32, 21)) * (rng.random((32, 21)) < 0.3), 1)
        return 1 + 0.2 * jumps + rng.normal(size=(32, 1)) * grid

    lines = [np.abs(np.diff(line().mean(0))).mean() for _ in range(4000)]
    truth, hits = float(np.exp(np.mean(np.log(lines)))), []
    for _ in range(300):
        each = []
        for factor in np.exp(spread * rng.normal(size=count)):
            row = landscape_row(factor * line().T[None], np.zeros(1), grid)
            each.append(Estimate(row["d2_variation"], row["d2_low"], row["d2_high"]))
        hits.append(holds(nested(each, "log", False), truth))
    share(f"mean step over {count} seeds, spread {spread}", hits, low, high)


@pytest.mark.parametrize("count", [5, 10])
@pytest.mark.parametrize(("cos", "low", "high"), [(0.0, 0.93, 0.99), (0.6, 0.93, 0.99), (0.98, 0.93, 0.995)])
def test_fidelity_over_seeds(count, cos, low, high):
    """Disattenuated cosines that may exceed 1, pooled before they are cut."""
    rng, hits = RNG(16), []
    for _ in range(400):
        each = [measured(*drawn(rng, 16, 30, 4, cos, (1, 1), 0.3)).value for _ in range(count)]
        ends = [cut_estimate(one) for one in each]
        interval = nested(
            [Estimate(one.value, e.low, e.high) for one, e in zip(each, ends, strict=True)], "identity", False
        )
        hits.append(holds(interval, cos))
    share(f"fidelity {cos} over {count} seeds", hits, low, high)


# --- differences of retention over seeds ---


@pytest.mark.parametrize(
    ("spreads", "low", "high"), [((0.05, 0.05), 0.93, MOST), ((0.2, 0.02), 0.93, MOST), ((0.0, 0.0), 0.95, 1)]
)
def test_differences_over_seeds(spreads, low, high):
    rng, hits = RNG(5), []
    for _ in range(3000):
        values, variances = [], []
        for _ in range(5):
            a, b = (min(max(m + s * rng.normal(), 0), 1) for m, s in zip((0.6, 0.5), spreads, strict=True))
            right = rng.random((2, 500)) < np.array([[a], [b]])
            differ = int((right[0] != right[1]).sum())
            values.append(float(right[0].mean() - right[1].mean()))
            variances.append((differ + 1) / 500**2)
        hits.append(holds(seeds_difference(values, variances, False, 1.0), 0.1))
    share(f"difference over 5 seeds, spreads {spreads}", hits, low, high)
