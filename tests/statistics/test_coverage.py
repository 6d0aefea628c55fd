"""Coverage of every printed interval in simulation, at the edges too, as in docs/statistics.md.

Bounds are those of the table: 0.93 to 0.97, or the deviation that is stated there. Each case prints its coverage
(``-s``), so that the table can be made again.
"""

import numpy as np
import pytest
from test_agreement import drawn, measured

from gradprobe.probes.cost.result import median, over
from gradprobe.statistics import estimates as st
from gradprobe.statistics.agreement import cut_estimate
from gradprobe.statistics.association import Units, associations
from gradprobe.statistics.proportions import Pairs, wilson
from gradprobe.statistics.ratios import (
    Paired,
    mean_of,
    paired_ratio,
    retained_difference,
)
from gradprobe.statistics.roughness import landscape_row

pytestmark = pytest.mark.slow
RNG = np.random.default_rng
MOST = 0.975  # 0.97 and two standard errors of a simulation


def share(name, hits, low, high):
    """Check a coverage against its bounds."""
    coverage = float(np.mean(hits))
    print(f"\n{name}: {coverage:.3f} of {len(hits)}")
    assert low <= coverage <= high, (name, coverage)


def holds(estimate, truth):
    return estimate.low <= truth <= estimate.high


# --- cosines ---


def gradients(rng, n, signal, size, heavy):
    scale = np.exp(heavy * rng.normal(size=(n, 1, 1)))
    own = rng.normal(size=(n, 1, size)) + rng.normal(size=(n, 2, size))
    own = scale * own
    own[:, :, 0] += signal * np.sqrt(size) / 2
    return own


def mean_cosine(rng, signal, size, heavy):
    """Cosine of independent batches with independent draws, of many."""
    g = gradients(rng, 100_000, signal, size, heavy)
    unit = g / np.linalg.norm(g, axis=-1, keepdims=True)
    return float(unit[:, 0].mean(0) @ unit[:, 1].mean(0))


def total(g):
    return st.coherence(np.einsum("brp,csp->brcs", g, g), 16).total


@pytest.mark.parametrize(
    ("signal", "batches", "size", "heavy", "low", "high"),
    [
        (0, 6, 60, 0, 0.97, 1),  # too wide at 0: var(g) is cut off at 0
        (0, 32, 60, 0, 0.96, 0.99),
        (0.35, 16, 60, 0, 0.93, MOST),
        (1, 6, 60, 0, 0.93, 0.98),
        (1, 16, 60, 0, 0.93, MOST),
        (4, 16, 60, 0.5, 0.93, MOST),
        (9, 6, 60, 0.5, 0.91, MOST),  # C = 0.88: stated
        (17, 6, 3, 0, 0.9, MOST),  # C = 0.98: stated
        (14, 32, 60, 0, 0.93, MOST),
        (20, 6, 10, 0.5, 0.87, 0.93),  # C = 0.97 of batches whose norms differ: stated
    ],
)
def test_coherence(signal, batches, size, heavy, low, high):
    rng = RNG(7)
    truth = mean_cosine(rng, signal, size, heavy)
    intervals = [st.of_cosine(total(gradients(rng, batches, signal, size, heavy))) for _ in range(3000)]
    assert all(-1 <= each.low <= each.high <= 1 for each in intervals)
    share(f"coherence {truth:.2f}, {batches} batches, heavy {heavy}", [holds(e, truth) for e in intervals], low, high)


@pytest.mark.parametrize(
    ("signals", "batches", "low", "high"),
    [((1, 0.35), 16, 0.93, MOST), ((14, 1), 6, 0.93, 0.98), ((14, 9), 6, 0.93, 0.98), ((1, 1), 16, 0.93, 0.98)],
)
def test_differences_and_ratios_of_coherence(signals, batches, low, high):
    rng = RNG(8)
    truths = [mean_cosine(rng, s, 60, 0) for s in signals]
    apart, ratios = [], []
    for _ in range(3000):
        common = gradients(rng, batches, 0, 60, 0)  # the same batches
        noise = rng.normal(size=(2, batches, 2, 60))
        pair = [common + 0.5 * n for n in noise]
        for g, s in zip(pair, signals, strict=True):
            g[:, :, 0] += s * np.sqrt(60) / 2
        apart.append(st.compare_cosines(*map(total, pair)))
    truths = []
    for s in signals:
        g = gradients(rng, 100_000, 0, 60, 0) + 0.5 * rng.normal(size=(100_000, 2, 60))
        g[:, :, 0] += s * np.sqrt(60) / 2
        unit = g / np.linalg.norm(g, axis=-1, keepdims=True)
        truths.append(float(unit[:, 0].mean(0) @ unit[:, 1].mean(0)))
    share(f"difference {signals}", [holds(c.difference, truths[0] - truths[1]) for c in apart], low, high)
    ratios = [holds(c.ratio, truths[0] / truths[1]) for c in apart if c.ratio is not None]
    if len(ratios) > 1000:
        share(f"ratio {signals}", ratios, 0.9, 0.98)  # few batches near 0: those whose baseline is clear of 0


@pytest.mark.parametrize(
    ("images", "draws", "cos", "noise", "heavy"),
    [
        (48, 4, 0.3, (1, 2), 0.0), (48, 4, 0.0, (1, 1), 0.5), (12, 4, 0.6, (1, 1), 0.3), (64, 4, 0.6, (1, 1), 1.0),
        (12, 4, 0.9, (1, 1), 0.5), (24, 4, 0.98, (0.05, 0.05), 0.3), (48, 8, 0.98, (2, 2), 0.3),
        (48, 4, 1.0, (1, 1), 0.5), (24, 4, -0.95, (0.5, 0.5), 0.5),
    ],
)  # fmt: skip
def test_fidelity(images, draws, cos, noise, heavy):
    rng = RNG(9)
    cosines = [measured(*drawn(rng, images, 30, draws, cos, noise, heavy)).value for _ in range(2000)]
    ends = [cut_estimate(each) for each in cosines if each is not None]
    assert all(-1 <= e.low <= e.value <= e.high <= 1 and e.low < e.high for e in ends)
    most = 0.99 if cos == 1 else MOST
    share(f"fidelity {cos}, {images} images, noise {noise}", [holds(e, cos) for e in ends], 0.93, most)


# --- retention over images ---


def tables(rng, n, unpruned, kept, gained, trials):
    """Images right with both, with ours alone, with the unpruned model alone."""
    p = np.array([unpruned * kept, (1 - unpruned) * gained, unpruned * (1 - kept)])
    counts = rng.multinomial(n, [*p, 1 - p.sum()], trials)[:, :3]
    return [Paired(*map(int, row)) for row in counts], float((p[0] + p[1]) / unpruned)


@pytest.mark.parametrize(
    ("images", "unpruned", "kept", "gained", "low", "high"),
    [
        (400, 0.993, 0.9995, 0.1, 0.99, 1),  # hardly an image differs: wide, as it must be
        (1000, 0.993, 0.9995, 0.1, 0.99, 1),
        (1000, 0.993, 1, 0, 1, 1),
        (1000, 0.993, 0.98, 0.1, 0.93, MOST),
        (400, 0.72, 0.85, 0.3, 0.93, MOST),
        (400, 0.72, 0.03, 0.01, 0.93, MOST),
        (400, 0.72, 0.001, 0.001, 0.93, MOST),
        (64, 0.99, 0.97, 0.2, 0.93, 0.99),
        (64, 0.5, 0.5, 0.5, 0.93, MOST),
    ],
)
def test_retention_over_images(images, unpruned, kept, gained, low, high):
    counts, truth = tables(RNG(1), images, unpruned, kept, gained, 4000)
    share(f"retention {truth:.4f}, {images} images", [holds(paired_ratio(c), truth) for c in counts], low, high)


@pytest.mark.parametrize(
    ("kept", "images", "low", "high"),
    [
        ((0.999,) * 4, 500, 0.98, 1),
        ((0.99, 0.95, 0.6, 0.8), 500, 0.93, MOST),
        ((0.1, 0.2, 0.05, 0.3), 100, 0.93, MOST),
        ((0.999, 0.999, 0.5, 0.02), 50, 0.93, 0.98),
    ],
)  # fmt: skip
def test_retention_over_kinds_of_questions(kept, images, low, high):
    rng = RNG(2)
    kinds = [tables(rng, images, 0.997, each, 0.2, 3000) for each in kept]
    truth = np.mean([t for _, t in kinds])
    means = [mean_of([paired_ratio(c) for c in row]) for row in zip(*(t for t, _ in kinds), strict=True)]
    share(f"kinds {kept}, {images} each", [holds(e, truth) for e in means], low, high)


@pytest.mark.parametrize(
    ("images", "unpruned", "ours", "theirs", "alike", "low", "high"),
    [
        (1000, 0.993, 0.999, 0.999, 0.5, 0.98, 1), (400, 0.72, 0.6, 0.3, 0.3, 0.93, MOST),
        (400, 0.72, 0.85, 0.85, 0.7, 0.93, MOST), (64, 0.72, 0.6, 0.3, 0.3, 0.93, 0.98),
        (1000, 0.99, 0.999, 0.1, 0.0, 0.93, 0.98), (1000, 0.99, 0.98, 0.97, 0.8, 0.93, MOST),
    ],
)  # fmt: skip
def test_differences_of_retention_over_images(images, unpruned, ours, theirs, alike, low, high):
    rng, hits = RNG(3), []
    for _ in range(3000):
        known, one = rng.random(images) < unpruned, rng.random(images)
        other = np.where(rng.random(images) < alike, one, rng.random(images))
        a, b = known & (one < ours), known & (other < theirs)
        pairs = Pairs(int((a & ~b).sum()), int((b & ~a).sum()), images)
        hits.append(holds(retained_difference(pairs, int(known.sum())), ours - theirs))
    share(f"difference {ours} - {theirs}, {images} images", hits, low, high)


# --- the rest ---


@pytest.mark.parametrize(
    ("p", "n", "low", "high"), [(0.001, 400, 0.92, 1), (0.5, 64, 0.93, MOST), (0.99, 400, 0.93, 0.99)]
)
def test_accuracies(p, n, low, high):
    hits = [holds(wilson(int(x), n), p) for x in RNG(6).binomial(n, p, 5000)]
    share(f"accuracy {p} of {n}", hits, low, high)


@pytest.mark.parametrize(("rounds", "high"), [(6, 0.98), (9, MOST), (21, MOST)])
def test_times(rounds, high):
    rng = RNG(7)
    one, two = (rng.gamma(4, size=(4000, rounds)) for _ in range(2))
    truth = float(np.median(rng.gamma(4, size=1_000_000)))
    medians = [median(row) for row in one]
    share(f"median of {rounds}", [holds(e, truth) for e in medians], 0.93, high)
    ratios = [over(a, median(b)) for a, b in zip(medians, two, strict=True)]
    share(f"ratio of medians of {rounds}", [holds(e, 1.0) for e in ratios], 0.93, 0.995)


@pytest.mark.parametrize(("samples", "low"), [(8, 0.92), (16, 0.93)])
def test_the_trace_of_curvature(samples, low):
    """A Hessian whose signs cancel: Hutchinson's samples, whose mean the trace is."""
    rng = RNG(8)
    h = rng.normal(size=(40, 40))
    h = h + h.T
    signs = rng.choice([-1.0, 1.0], size=(4000, samples, 40))
    values = np.einsum("tsi,ij,tsj->ts", signs, h, signs)
    share(f"trace of {samples}", [holds(st.batch_mean(v).estimate(), np.trace(h)) for v in values], low, MOST)


@pytest.mark.parametrize(("images", "low"), [(8, 0.9), (32, 0.92), (64, 0.92)])
def test_steps_of_a_line_and_their_ratio(images, low):
    """Jumps of each image at places of its own over a slope of its own; steps of the mean over these many images."""
    rng, grid = RNG(9), np.linspace(-0.3, 0.3, 21)

    def line(n):
        jumps = np.cumsum(rng.normal(size=(n, 21)) * (rng.random((n, 21)) < 0.3), 1)
        return 1 + 0.2 * jumps + rng.normal(size=(n, 1)) * grid

    truth = np.mean([np.abs(np.diff(line(images).mean(0))).mean() for _ in range(4000)])
    hits = []
    for _ in range(1500):
        row = landscape_row(line(images).T[None], np.zeros(1), grid)
        hits.append(row["d2_low"] <= truth <= row["d2_high"])
    share(f"mean step of {images} images", hits, low, 1)


def test_a_correlation_over_operators():
    """Seven throttles of three operators, two seeds: the bootstrap's interval, which seven groups make uncertain."""
    rng, hits = RNG(10), []
    throttle = np.repeat(np.arange(7), 6)
    units = {"operator": [f"{i // 2}" for i in range(42)], "throttle": list(map(str, throttle)), "seed": [1, 2] * 21}

    def draw(groups):
        effect = rng.normal(size=(groups, 2)) @ np.linalg.cholesky([[1, 0.6], [0.6, 1]]).T
        return np.repeat(effect, 6, 0) + 0.5 * np.repeat(rng.normal(size=(3 * groups, 2)), 2, 0)

    many = draw(20_000)
    truth = 6 / np.pi * np.arcsin(np.corrcoef(many.T)[0, 1] / 2)
    for _ in range(200):
        x, y = draw(7).T
        u = Units(**units, outcome=y, outcome_error=np.zeros(42), measures={"m": x})
        hits.append(holds(associations(u, replicates=400)["m"].rho, truth))
    share("correlation over 7 throttles", hits, 0.82, 0.98)
