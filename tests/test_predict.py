"""What the start says of the end: operators are matched, undefined measures left out, correlations honest."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import spearmanr

from gradprobe.plotting.equivalence import family
from gradprobe.plotting.predict import correlations, points, predict
from gradprobe.plotting.style import save_figure
from gradprobe.statistics import rank_correlation

OPERATORS = ["a+gather", "b+gather", "a+zero", "b+scale", "c+vpnoise", "c+mean"]


def started(op, seed, c, cosine):
    at = [{"sigma": 0.3, "cosine": cosine, "theta": cosine}]
    coherence = SimpleNamespace(
        probe="coherence", question={"op": op, "seed": seed}, row=lambda: {"coherence": c, "centred": c}
    )
    fidelity = SimpleNamespace(
        probe="fidelity", question={"op": op, "seed": seed},
        row=lambda: {"sigmas": at, "ladder": [{"step": 0.1, "rate": c}]},
    )  # fmt: skip
    return [coherence, fidelity]


def ended(op, seed, share):
    correct = np.arange(100) < 100 * share
    return SimpleNamespace(
        probe="retention", question={"op": op, "seed": seed}, unpruned=np.ones(100), correct=correct,
        curve=np.stack([np.zeros(100), correct]),
    )  # fmt: skip


def results(shares, cs, cosines, seeds=(1, 2)):
    found = []
    for op, share, c, cosine in zip(OPERATORS, shares, cs, cosines, strict=False):
        relaxation, _, throttle = op.partition("+")
        for seed in seeds:
            found += started(f"{relaxation}:tau=2+{throttle}", seed, c + 0.01 * seed, cosine)
            found.append(ended(op, seed, share))
    return found


def test_operators_are_matched_without_their_tau_and_averaged_over_seeds():
    (first, *_) = points(results([0.5, 0.6], [0.1, 0.2], [0.3, 0.4]))
    assert first["op"] == "a+gather"
    assert first["retention"] == first["during"] == 0.5
    assert first["measures"]["coherence C"] == pytest.approx(0.115)
    assert first["measures"]["fidelity, scores, σ = 0.3"] == 0.3
    assert first["measures"]["descent, step 0.1"] == pytest.approx(0.115)


@pytest.mark.parametrize(
    ("op", "bare"),
    [
        ("lapsum:tau=2+vpnoise", "lapsum+vpnoise"),
        ("gumbel-ste:backward=soft,tau=2+zero", "gumbel-ste:backward=soft+zero"),
        ("x:tau=2,width=3+gather", "x:width=3+gather"),
        ("a:b=1,tau=2,c=3+d:sigma=unit", "a:b=1,c=3+d:sigma=unit"),
        ("hard+gather", "hard+gather"),
    ],
)
def test_only_the_temperature_leaves_a_name(op, bare):
    assert family(op) == bare


def test_an_undefined_measure_is_left_out_and_counted():
    shares, cs = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [1, 2, 3, 4, 5, 6]
    found = correlations(points(results(shares, cs, [0.1, None, 0.3, 0.4, 0.5, 0.6])))
    estimate, count = found["fidelity, scores, σ = 0.3"]
    assert count == 5
    assert estimate.value == pytest.approx(1)
    assert 0 < estimate.low < 1  # six operators in order are no proof
    assert found["coherence C"][1] == 6


def test_an_operator_that_was_not_trained_is_no_point():
    assert points(started("a+gather", 1, 0.1, 0.2)) == []


def test_the_rank_correlation_is_spearmans_and_its_interval_covers_it():
    rng = np.random.default_rng(0)
    x = rng.normal(size=14)
    y = x + rng.normal(size=14)
    found = rank_correlation(x, y)
    assert found.value == pytest.approx(spearmanr(x, y).statistic)
    assert -1 <= found.low < found.value < found.high <= 1
    assert rank_correlation(x, -y).value == pytest.approx(-found.value)


def test_the_interval_of_a_rank_correlation_covers_about_as_often_as_it_says():
    rng, hits = np.random.default_rng(1), 0
    truth = 6 / np.pi * np.arcsin(0.6 / 2)  # of Gaussians with correlation 0.6
    for _ in range(400):
        x = rng.normal(size=14)
        found = rank_correlation(x, 0.6 * x + 0.8 * rng.normal(size=14))
        hits += found.low <= truth <= found.high
    assert 0.92 < hits / 400 < 0.98


@pytest.mark.parametrize("x", [np.ones(8), np.arange(3.0)])
def test_what_cannot_be_ranked_has_no_correlation(x):
    assert np.isnan(rank_correlation(x, np.arange(float(len(x)))).value)


def test_the_figure_shows_every_measure_and_names_every_operator(tmp_path):
    drawn = results([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [1, 2, 3, 4, 5, 6], [0.1, None, 0.3, 0.4, 0.5, 0.6])
    figure = predict(drawn)
    shown = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_xlabel().partition(" (")[0] for axes in shown] == list(correlations(points(drawn)))
    written = " ".join(text.get_text() for axes in figure.axes for text in axes.texts)
    assert all(op in written for op in OPERATORS)
    assert len(shown[2].lines) == 5
    assert "n = 5" in shown[2].get_xlabel()
    assert save_figure(figure, tmp_path / "a.png").is_file()
