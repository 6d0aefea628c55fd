"""Statistics of fidelity: free of bias by noise, with intervals that cover as promised."""

import numpy as np
import pytest

from gradprobe.statistics.agreement import (
    Products,
    cosine,
    cut_estimate,
    different,
    estimate,
    fidelity_row,
    group_sum,
    products_of,
    widest,
)
from gradprobe.statistics.estimates import Jackknifed, batch_mean

RNG = np.random.default_rng


def drawn(rng, images, size, draws, cos, noise, heavy):
    """R draws of a gradient a and 4 parts of b, of cosine ``cos`` over all images; heavy: their scales differ so."""
    scale = np.exp(heavy * rng.normal(size=(images, 1)))
    b, other = scale * rng.normal(size=(2, images, size))
    a = cos * b + np.sqrt(1 - cos**2) * other
    more = scale * rng.normal(size=(draws + 4, images, size))
    return a + noise[0] * more[:draws], b + noise[1] * more[draws:]


def measured(a, b):
    """Return the cosine as the probe computes it."""
    (aa, va), (bb, vb) = different(products_of(a)), different(products_of(b))
    n = len(aa)
    noise = 1.96 * np.sqrt(va.sum()) / n, 1.96 * np.sqrt(vb.sum()) / n
    return cosine(batch_mean((a.mean(0) * b.mean(0)).sum(-1)), batch_mean(aa), batch_mean(bb), noise)


def test_products_of_different_draws_are_a_mean_over_pairs():
    values = RNG(0).normal(size=(5, 3, 7))
    pairs = [(values[r] * values[q]).sum(-1) for r in range(5) for q in range(5) if r != q]
    value, variance = different(products_of(values))
    np.testing.assert_allclose(value, np.mean(pairs, 0))
    left = np.array([different(products_of(np.delete(values, r, 0)))[0] for r in range(5)])
    np.testing.assert_allclose(variance, 4 / 5 * np.square(left - left.mean(0)).sum(0))


def test_a_single_draw_has_no_noise():
    value, variance = different(products_of(np.array([[[3.0, 4.0]]])))
    assert value == [25] and variance == [0]


def test_noise_pulls_the_plain_cosine_to_zero_and_not_this_one():
    rng = RNG(1)
    draws = [drawn(rng, 64, 50, 4, 0.6, (3, 3), 0) for _ in range(40)]
    ours = [measured(a, b).value.value for a, b in draws]
    plain = []
    for a, b in draws:
        a, b = a.mean(0), b.mean(0)
        plain.append((a * b).sum() / np.sqrt(np.square(a).sum() * np.square(b).sum()))
    assert abs(np.mean(ours) - 0.6) < 0.02
    assert np.mean(plain) < 0.3


def test_the_variance_of_draws_is_that_of_new_draws():
    """The noise alone, images fixed: its estimate is right or too large, by less than 2.2 (a jackknife of pairs)."""
    rng = RNG(2)
    a = rng.normal(size=(30, 20))
    sums, variances = [], []
    for _ in range(300):
        value, variance = different(products_of(a + rng.normal(size=(6, 30, 20))))
        sums.append(value.sum())
        variances.append(variance.sum())
    assert 0.9 < np.mean(variances) / np.var(sums) < 2.2


def test_a_gradient_of_nothing_but_noise_has_no_cosine():
    rng = RNG(3)
    wild = 0
    for _ in range(200):
        _, b = drawn(rng, 24, 20, 4, 0.5, (1, 1), 0)
        wild += measured(rng.normal(size=(4, 24, 20)), b).value is not None
    assert wild <= 10  # a one-sided test at 2.5 %
    none = measured(np.zeros((1, 24, 20)), b)
    assert none.value is None and none.reason.startswith("undefined: the operator's gradient")
    lost = measured(b, rng.normal(size=(4, 24, 20)) * 1e-3 - b.mean(0) * 0)
    assert lost.value is None and lost.reason.startswith("undefined: the reference")


def test_group_sums_leave_out_rows_and_columns():
    matrix = RNG(4).normal(size=(5, 5))
    total = group_sum(matrix)
    assert total.value == pytest.approx(matrix.sum())
    for g in range(5):
        rest = np.delete(np.delete(matrix, g, 0), g, 1)
        assert total.left_out[g] == pytest.approx(rest.sum())


def test_intervals_are_students_for_gaussian_numbers_and_wider_where_one_image_is_all():
    values = RNG(5).normal(size=4000)
    ours, plain = estimate(batch_mean(values)), batch_mean(values).estimate()
    assert ours.half == pytest.approx(plain.half, rel=0.01)
    alone = np.zeros(50)
    alone[7] = 1
    assert estimate(batch_mean(alone)).half > 2 * batch_mean(alone).estimate().half
    assert estimate(batch_mean(np.ones(5))).half == 0
    assert estimate(Jackknifed(1.0, np.ones(4))).half == 0


REGIMES = {  # images, size, draws, cos, noise of both, heavy
    "equal images": (48, 30, 4, 0.3, (1, 2), 0.0),
    "nothing in common": (48, 30, 4, 0.0, (1, 1), 0.5),
    "the same": (48, 30, 4, 1.0, (1, 1), 0.5),
    "few images": (12, 30, 4, 0.6, (1, 1), 0.3),
    "much noise": (64, 30, 8, 0.3, (3, 3), 0.3),
    "few images hold most": (64, 30, 4, 0.6, (1, 1), 1.0),
}


def coverage(regime, trials, seed):
    rng, hits, defined = RNG(seed), 0, 0
    for _ in range(trials):
        cosine = measured(*drawn(rng, *regime)).value
        if cosine is not None:
            interval = estimate(cosine)
            hits += interval.low <= regime[3] <= interval.high
            defined += 1
    assert defined > 0.9 * trials
    return hits / defined


@pytest.mark.parametrize("regime", ["equal images", "few images hold most"])
def test_intervals_cover_in_a_short_simulation(regime):
    assert 0.91 < coverage(REGIMES[regime], 400, 6) < 0.99  # 95 % -+ four standard errors, and a half


@pytest.mark.slow
@pytest.mark.parametrize("regime", REGIMES)
def test_intervals_cover(regime):
    assert 0.93 < coverage(REGIMES[regime], 6000, 7) < 0.97


def toy(cos=0.5, seed=0, gradient=True, fall=0.1):
    """Products of 40 images at two sigmas, with scorer gradients of 8 groups and two steps."""
    rng = RNG(seed)
    a, b = drawn(RNG(8), 40, 30, 4, cos, (0.5, 0.5), 0)
    a, b = (x - x.mean(-1, keepdims=True) for x in (a * gradient, b))
    own = a + 0.5 * rng.normal(size=a.shape[1])[:, None] * gradient  # a common mode, the same in all draws
    (aa, va), (bb, vb) = different(products_of(a)), different(products_of(b))
    raw, rv = different(products_of(own))
    groups = [x.mean(0).reshape(8, 5, 30).sum(1) for x in (own, a, b)]
    ga, gm, gb = groups
    held = RNG(9).uniform(1, 2, 100)
    after = held - fall * np.array([[0.1], [1.0]]) + 0.01 * RNG(10).normal(size=(2, 100))
    return Products(
        sigmas=np.array([0.3, 1]), ab=np.stack([(own.mean(0) * b.mean(0)).sum(-1)] * 2),
        aa=np.stack([[raw, rv], [aa, va]]), power=np.stack([np.square(x).sum(-1).mean(0) for x in (own, a)]),
        bb=np.stack([[bb, vb]] * 2), theta_ab=np.stack([[ga @ gb.T] * 2, [gm @ gb.T] * 2]),
        theta_aa=np.stack([ga @ ga.T, gm @ gm.T]), theta_bb=np.stack([gb @ gb.T] * 2), theta_noise=np.zeros(4),
        ladder=np.array([0.1, 1]), held=held, after=after[: 2 * gradient], ceiling=np.stack([after] * 2),
    )  # fmt: skip


def test_a_row_holds_what_it_is_made_of():
    row = fidelity_row(toy())
    first = row["sigmas"][0]
    assert first["cosine_low"] < first["cosine"] < first["cosine_high"]
    assert 0 < row["common_mode"] < 1
    assert first["centred"] > first["cosine"]  # the common mode is noise here
    assert first["bias2_scaled"] == pytest.approx(1 - first["cosine"] ** 2)
    assert row["ladder"][1]["rate"] == pytest.approx(0.1, abs=0.01)
    assert row["ladder"][0]["moved"] == 1
    assert row["ladder"][1]["ceilings"][0]["rate"] == pytest.approx(0.1, abs=0.01)
    assert widest([row]) == max((at["cosine_high"] - at["cosine_low"]) / 2 for at in row["sigmas"])


def test_bias_counts_length_and_the_best_scale_does_not():
    products = toy(cos=1.0)
    longer = {"ab": 2 * products.ab, "aa": 4 * products.aa, "power": 4 * products.power}
    double = fidelity_row(Products(**{**vars(products), **longer}))
    one, two = fidelity_row(products)["sigmas"][0], double["sigmas"][0]
    assert two["bias2"] > 0.9 > 0.3 > one["bias2"]
    assert two["bias2_scaled"] == pytest.approx(one["bias2_scaled"])
    assert two["scale"] == pytest.approx(one["scale"] / 2)


def test_differences_are_paired():
    ours, base = toy(fall=0.2, seed=0), toy(cos=0.3, seed=1)
    at = fidelity_row(ours, base)["sigmas"][0]
    step = fidelity_row(ours, base)["ladder"][1]
    assert at["cosine_difference"] == pytest.approx(
        fidelity_row(ours)["sigmas"][0]["cosine"] - fidelity_row(base)["sigmas"][0]["cosine"]
    )
    assert step["rate_difference"] == pytest.approx(0.1)
    alone = step["rate_high"] - step["rate_low"]
    assert step["rate_difference_high"] - step["rate_difference_low"] < 1e-6 < alone  # the same noise in both
    same = fidelity_row(ours, ours)["sigmas"][0]
    assert same["cosine_difference"] == same["cosine_difference_low"] == same["cosine_difference_high"] == 0


@pytest.mark.parametrize("replicates", [[np.nan], [0.4, np.nan, 0.6], [0.4, np.inf, 0.6]])
def test_an_interval_is_unknown_where_a_replicate_is(replicates):
    for interval in (estimate, cut_estimate):
        ends = interval(Jackknifed(0.5, np.array(replicates)))
        assert ends.value == 0.5 and np.isnan(ends.low) and np.isnan(ends.high)


def test_one_image_with_all_of_the_gradient_leaves_the_interval_unknown():
    products = toy()
    alone = np.zeros((8, 8))
    alone[0, 0] = 1.0
    row = fidelity_row(Products(**{**vars(products), "theta_ab": np.stack([np.stack([alone] * 2)] * 2),
                                   "theta_aa": np.stack([alone] * 2)}))  # fmt: skip
    at = row["sigmas"][0]
    assert at["theta"] is None and at["theta_ungated"] > 0
    assert at["theta_ungated_low"] is None and at["theta_ungated_high"] is None


def test_without_a_gradient_all_is_undefined_and_nothing_breaks():
    row = fidelity_row(toy(gradient=False), toy())
    assert all(at["cosine"] is None and at["bias2"] is None and at["theta"] is None for at in row["sigmas"])
    assert all(at["rate"] is None and at["rate_difference"] is None and at["moved"] is None for at in row["ladder"])
    assert row["common_mode"] is None and row["variance"] is None
    assert widest([row]) == np.inf
