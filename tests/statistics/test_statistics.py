"""Every estimate against its brute-force twin, and the intervals against simulation."""

from functools import cache

import numpy as np
import pytest

from gradprobe.statistics import estimates as st


def gradients(b=9, r=3, p=40, signal=0.4, shared=0.3, own=1.0, seed=0):
    """B x R gradients: a common signal, a part of each batch, a part of each draw, and the rest."""
    rng = np.random.default_rng(seed)
    mean = rng.normal(size=p) * signal
    return mean + rng.normal(size=(b, 1, p)) + shared * rng.normal(size=(1, r, p)) + own * rng.normal(size=(b, r, p))


def gram_of(g):
    return np.einsum("brp,csp->brcs", g, g)


def cosine(x, y):
    return x @ y / np.sqrt((x @ x) * (y @ y))


def brute(g, same_batch, same_draw):
    b, r, _ = g.shape
    pairs = [
        cosine(g[i, m], g[j, n])
        for i in range(b)
        for j in range(b)
        for m in range(r)
        for n in range(r)
        if (i, m) != (j, n) and (i == j) == same_batch and (m == n) == same_draw
    ]
    return np.mean(pairs)


@pytest.mark.parametrize("r", [2, 3])
def test_coherence_equals_the_mean_over_all_pairs(r):
    g = gradients(r=r)
    statistics = st.coherence(gram_of(g), 16)
    assert statistics.total.value == pytest.approx(brute(g, False, False), abs=1e-13)
    assert statistics.data.value == pytest.approx(brute(g, False, True), abs=1e-13)
    assert statistics.op.value == pytest.approx(brute(g, True, False), abs=1e-13)
    assert statistics.norm.value == pytest.approx(np.linalg.norm(g, axis=-1).mean(), abs=1e-12)


def test_gram_streaming_and_brute_force_coherence_agree():
    g = gradients(r=1)[:, 0]
    unit = g / np.linalg.norm(g, axis=1, keepdims=True)
    total = np.zeros(g.shape[1])
    for u in unit:  # streaming: O(P) memory
        total += u
    b = len(g)
    streaming = (total @ total - b) / (b * (b - 1))
    pairs = np.mean([unit[i] @ unit[j] for i in range(b) for j in range(i)])
    from_gram = st.pair_mean(unit @ unit.T).value
    assert streaming == pytest.approx(pairs, abs=1e-14)
    assert from_gram == pytest.approx(pairs, abs=1e-14)


def test_left_out_values_equal_recomputing_without_the_batch_but_for_their_spread():
    gram = gram_of(gradients())
    matrix = st.pairings(st.cosines(gram))[0]
    replicates = st.pair_mean(matrix).left_out
    again = np.array([st.pair_mean(np.delete(np.delete(matrix, i, 0), i, 1)).value for i in range(len(matrix))])
    scale = (replicates - replicates.mean()) / (again - again.mean())
    assert replicates.mean() == pytest.approx(again.mean(), rel=1e-12)
    assert np.allclose(scale, scale[0])
    assert scale[0] < 1  # noise of pairs is not counted twice


def pair_mean_variances(own):
    """The variance of simulated pair means, its truth, and the means of our estimate and of the plain jackknife's."""
    rng = np.random.default_rng(3)
    b, values, ours, plain = 10, [], [], []
    for _ in range(4000):
        w, g = rng.normal(size=(b, b)), own * rng.normal(size=b)
        m = (w + w.T) / np.sqrt(2) + g[:, None] + g
        again = [st.pair_mean(np.delete(np.delete(m, i, 0), i, 1)).value for i in range(b)]
        values.append(st.pair_mean(m).value)
        ours.append((b - 1) * np.var(st.pair_mean(m).left_out))
        plain.append((b - 1) * np.var(again))
    return np.var(values), 4 * own**2 / b + 2 / (b * (b - 1)), np.mean(ours), np.mean(plain)


def test_the_variance_of_a_pair_mean_is_right_where_batches_share_something():
    simulated, truth, ours, _ = pair_mean_variances(0.3)
    assert simulated == pytest.approx(truth, rel=0.1)
    assert ours == pytest.approx(truth, rel=0.1)


def test_where_nothing_is_shared_the_variance_is_nearer_to_the_truth_than_the_plain_jackknifes():
    simulated, truth, ours, plain = pair_mean_variances(0.0)
    assert simulated == pytest.approx(truth, rel=0.1)
    assert plain == pytest.approx(2.25 * truth, rel=0.1)  # 2 (B - 1) / (B - 2)
    assert truth < ours < truth + 0.5 * (plain - truth)  # biased up, because the shared part is cut off at 0


def test_m_coherence_is_one_for_orthogonal_and_b_for_equal_gradients():
    equal = gram_of(np.ones((6, 2, 3)))
    orthogonal = gram_of(np.eye(12).reshape(6, 2, 12))
    assert st.coherence(equal, 4).m_coherence.value == pytest.approx(6)
    assert st.coherence(orthogonal, 4).m_coherence.value == pytest.approx(1)
    assert st.coherence(equal, 4).total.value == pytest.approx(1)
    assert st.coherence(orthogonal, 4).total.value == pytest.approx(0)
    assert np.isinf(st.coherence(orthogonal, 4).noise_scale.value)


def test_noise_scale_and_coherence_obey_their_relation_for_equal_norms():
    rng = np.random.default_rng(1)
    mean = np.zeros(20_000)
    mean[0] = 1.0
    g = mean + rng.normal(size=(40, 2, 20_000)) * np.sqrt(3 / 20_000)  # |mean|^2 = 1, tr Cov = 3
    statistics = st.coherence(gram_of(g), 8)
    assert statistics.noise_scale.value == pytest.approx(24, rel=0.1)
    assert statistics.total.value == pytest.approx(1 / (1 + statistics.noise_scale.value / 8), rel=0.02)


def test_a_deterministic_operator_has_operator_part_one():
    g = np.repeat(gradients(r=1), 2, axis=1)
    statistics = st.coherence(gram_of(g), 16)
    assert statistics.op.value == pytest.approx(1, abs=1e-14)
    assert statistics.total.value == pytest.approx(statistics.data.value, abs=1e-14)


def test_a_zero_gradient_stays_visible():
    g = gradients()
    g[0, 0] = 0
    assert np.isnan(st.coherence(gram_of(g), 16).total.value)
    row = st.coherence_row(np.stack([gram_of(g)[None]] * 2), np.ones((9, 3)), np.ones((9, 3)), 16)
    assert row["coherence"] is None
    assert row["low"] is None


def test_ratio_is_paired_and_positive():
    a, b = gradients(signal=2, seed=1), gradients(signal=1, seed=1)
    ours, base = (st.coherence(gram_of(g), 16).total for g in (a, b))
    versus = st.compare_cosines(ours, base)
    assert versus.ratio is not None
    assert versus.ratio.value == pytest.approx(ours.value / base.value)
    assert versus.ratio.low < versus.ratio.value < versus.ratio.high
    assert st.compare_cosines(ours, ours).ratio == st.Estimate(1, 1, 1)


def test_a_baseline_whose_interval_reaches_zero_gives_no_naked_ratio():
    ours, base = (st.coherence(gram_of(gradients(signal=s, shared=0)), 16).total for s in (2, 0))
    versus = st.compare_cosines(ours, base)
    assert base.estimate().low < 0
    assert versus.ratio is None
    assert versus.reason.startswith("unbounded")
    assert versus.difference.value == pytest.approx(ours.value - base.value)
    assert versus.difference.low > 0


def test_a_negative_coherence_over_a_sound_baseline_has_a_negative_ratio():
    base = st.coherence(gram_of(gradients(signal=2)), 16).total
    ours = st.Jackknifed(-0.1, base.left_out - base.value - 0.1)
    versus = st.compare_cosines(ours, base)
    assert versus.ratio is not None
    assert versus.ratio.value == pytest.approx(-0.1 / base.value)


@cache
def coverage(signal: float, batches: int) -> float:
    """Return the share of 4000 simulated probes whose 95 % interval holds the truth."""
    p, r, replicates = 60, 2, 4000
    rng = np.random.default_rng(7)
    direction = np.zeros(p)
    direction[0] = signal * np.sqrt(p) / 2

    def sample(n):
        return direction + rng.normal(size=(n, 1, p)) + rng.normal(size=(n, r, p))

    many = sample(200_000)
    unit = many / np.linalg.norm(many, axis=-1, keepdims=True)
    truth = unit[:, 0].mean(0) @ unit[:, 1].mean(0)  # cosine of independent batches with independent draws
    intervals = (st.coherence(gram_of(sample(batches)), 16).total.estimate() for _ in range(replicates))
    share = sum(each.low <= truth <= each.high for each in intervals) / replicates
    print(f"\ncoverage at C = {truth:.3f}, {batches} batches: {share:.3f}")
    return share


BATCHES = pytest.mark.parametrize("batches", [16, 32])
NOTHING_SHARED = pytest.mark.xfail(reason="too wide at C = 0 exactly: var(g) is cut off at 0; see docs/findings.md")


@pytest.mark.slow
@BATCHES
@pytest.mark.parametrize("signal", [0.0, 0.35, 1.0])
def test_the_jackknife_covers_at_least_its_nominal_level(signal, batches):
    assert coverage(signal, batches) >= 0.93


@pytest.mark.slow
@BATCHES
@pytest.mark.parametrize("signal", [pytest.param(0.0, marks=NOTHING_SHARED), 0.35, 1.0])
def test_the_jackknife_covers_no_more_than_its_nominal_level(signal, batches):
    assert coverage(signal, batches) <= 0.97
