"""The probe of the search's gradient: right where the answer is known, resumed to the same bytes."""

import functools
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from searched import LAYERS, asked, numbers, shared, task

from gradprobe.errors import GradprobeError, UsageError
from gradprobe.selectors.fastv import FastV
from gradprobe.selectors.plan import save_plan
from gradprobe.selectors.pyramiddrop import PyramidDrop
from gradprobe.statistics.estimates import Jackknifed
from gradprobe.vlm.search.asked import Search
from gradprobe.vlm.search.deployed import plan_of_counts
from gradprobe.vlm.search.gradient import pieces
from gradprobe.vlm.search.gradient.measure import search_gradient
from gradprobe.vlm.search.gradient.numbers import both
from gradprobe.vlm.search.gradient.points import numbers_of, point_of, whole_counts
from gradprobe.vlm.search.gradient.projected import along, in_tangent
from gradprobe.vlm.search.gradient.settings import GradientSettings
from gradprobe.vlm.search.kernels import Free, Steps
from gradprobe.vlm.search.relaxed import Relaxation, relaxed_losses, whole

BUDGET = 0.6
TINY = GradientSettings(3, 1, draws=12, sigmas=(1.0,), softness=(0.1,), held_out=3, ladder=(1.0,), reach=2.0)
each_kernel = pytest.mark.parametrize("kernel", [Steps(1), Steps(2), Free()], ids=lambda kernel: kernel.label)


class Stopped(Exception):
    pass


def probed(folder, kernel=Free(), at=("start",), settings=TINY, **others):  # noqa: B008
    return search_gradient(asked(kernel, settings=settings.of_search), BUDGET, at, settings, folder, **others)


@functools.cache
def shared_result(kernel=Free()):  # noqa: B008
    """One result for the tests that only read it."""
    return probed(Path(tempfile.mkdtemp()), kernel)


def toy(monkeypatch, deployed, relaxed):
    """Replace both losses by functions of the counts (as tensors) and of the id of an image."""

    def outcomes(task, selector, counts, groups, seed, answers):
        own = torch.tensor(counts, dtype=torch.float64)
        return torch.cat([torch.stack([deployed(own, i) for i in group.ids]) for group in groups]), None

    monkeypatch.setattr(pieces, "outcomes", outcomes)
    monkeypatch.setattr(
        pieces,
        "relaxed_losses",
        lambda task, batch, own, seed: torch.stack([relaxed(own.counts, i) for i in batch.ids]),
    )


def linear(counts, image):
    return 0.3 * counts[1] - (0.2 + 0.01 * (image % 7)) * counts[2] - 0.1 * counts[3]


def test_fidelity_is_1_where_the_relaxed_loss_is_the_deployed_one(monkeypatch, tmp_path):
    toy(monkeypatch, linear, linear)
    settings = replace(TINY, draws=64, sigmas=(0.5, 1.0))
    at = numbers(1.0, 0.3, 0.3)  # far from 1 and N, where counts are cut
    result = probed(tmp_path, at=(",".join(map(str, at.tolist())),), settings=settings)
    for row in result.rows()[:1]:
        for each in row["sigmas"]:
            assert each["cosine"] > 0.99 and each["tangent"] > 0.98, each
            assert each["cosine_low"] <= each["cosine"] <= each["cosine_high"]
        assert row["line"]["ratio"] == pytest.approx(1) and row["line"]["gap"] == pytest.approx(0)
        assert row["line"]["rank"] == pytest.approx(1)


def test_fidelity_is_minus_1_where_the_relaxed_loss_falls_the_other_way(monkeypatch, tmp_path):
    toy(monkeypatch, linear, lambda counts, image: -linear(counts, image))
    result = probed(tmp_path, at=("1.0,0.3,0.3",), settings=replace(TINY, draws=64, sigmas=(1.0,)))
    row = result.rows()[0]
    assert row["sigmas"][0]["cosine"] < -0.99 and row["sigmas"][0]["tangent"] < -0.98
    assert row["line"]["rank"] == pytest.approx(-1)


def test_a_loss_of_the_budget_alone_lies_along_it_and_says_nothing_in_its_tangent_plane(monkeypatch, tmp_path):
    spending = asked(settings=TINY.of_search).spending
    toy(monkeypatch, lambda counts, image: spending.share(counts), lambda counts, image: spending.share(counts))
    result = probed(tmp_path, at=("1.0,0.3,0.3",))
    (point,) = result.probed
    row = result.rows()[0]
    assert row["budget_share"] > 0.98  # the relaxed loss is that of counts rounded to whole ones
    assert np.abs(in_tangent(point.normal, point.normal)).max() < 1e-12


def test_coherence_is_1_where_all_batches_are_the_same(monkeypatch, tmp_path):
    first = asked(settings=TINY.of_search).training(0)
    monkeypatch.setattr(Search, "training", lambda self, step: first)
    for row in probed(tmp_path).rows()[:1]:
        assert [row[f"coherence{end}"] for end in ("", "_low", "_high")] == pytest.approx([1, 1, 1])
        assert row["coherence_tangent"] == pytest.approx(1)


@each_kernel
def test_gradients_are_those_of_the_relaxed_loss_in_the_numbers(kernel):
    question = asked(kernel, settings=TINY.of_search)
    (point,) = shared_result(kernel).probed
    at = point_of(question, BUDGET, "start")
    for t, softness in enumerate(TINY.softness):
        for place in range(TINY.batches):
            own = at.numbers.clone().requires_grad_(True)
            counts = whole(at.counts(question, own))
            tau = (softness * counts.detach()).clamp(min=0.25)
            with question.task.running():
                losses = relaxed_losses(question.task, question.training(place), Relaxation(FastV(), counts, tau))
            (gradient,) = torch.autograd.grad(losses.mean(), own)
            assert point.relaxed[t, place] == pytest.approx(gradient.numpy(), rel=1e-9, abs=1e-12)


@each_kernel
def test_steps_spend_the_budget_and_the_line_keeps_it_to_first_order(kernel):
    (point,) = shared_result(kernel).probed
    spending = asked(kernel).spending
    for counts in point.ladder:
        assert BUDGET - (LAYERS - 1) / spending.tokens <= spending.share(counts) <= BUDGET
    vector = np.arange(1.0, 1 + len(point.normal))
    assert in_tangent(vector, point.normal) @ point.normal == pytest.approx(0, abs=1e-12)
    assert in_tangent(vector, point.normal) + along(vector, point.normal) == pytest.approx(vector)
    assert point.line_counts[len(point.line) // 2] == point.whole


def test_variances_over_batches_and_draws_add_up():
    rng = np.random.default_rng(0)
    images, draws = Jackknifed(0.3, 0.3 + rng.normal(size=7)), rng.normal(size=20)

    def variance(each):
        return (len(each) - 1) / len(each) * np.square(each - each.mean()).sum()

    joined = both(images, draws)
    assert joined.value == 0.3 and len(joined.left_out) == 27
    assert variance(joined.left_out) == pytest.approx(variance(images.left_out) + variance(draws))


def test_the_same_seed_gives_the_same_bytes_and_an_interrupted_probe_goes_on(tmp_path, monkeypatch):
    whole = shared_result().save(tmp_path / "a.json").read_bytes()
    for stop in (1, 9):
        left = [stop]

        def progress(description, done, total, left=left):
            left[0] -= 1
            if left[0] < 0:
                raise Stopped

        with pytest.raises(Stopped):
            probed(tmp_path / "c", progress=progress)
    assert probed(tmp_path / "c").save(tmp_path / "c.json").read_bytes() == whole
    monkeypatch.setattr(pieces, "outcomes", None)  # nothing is computed again
    monkeypatch.setattr(pieces, "relaxed_losses", None)
    assert probed(tmp_path / "c").save(tmp_path / "d.json").read_bytes() == whole


def test_model_and_random_numbers_are_left_as_they_were(tmp_path):
    model = shared().vlm.model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    flags = [parameter.requires_grad for parameter in model.parameters()]
    mode, state = model.training, torch.get_rng_state()
    probed(tmp_path)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert model.training == mode and torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("counts", [(100, 57, 5, 1), (100, 100, 100, 100), (100, 50, 50, 50), (100, 100, 99, 1)])
def test_numbers_stand_for_the_counts_of_a_plan(counts):
    shares = Free().shares(numbers_of(Free(), counts, "p"), len(counts), 10)
    assert whole_counts((shares * 100).numpy(), 100) == counts
    falls = len(set(counts)) - 1
    for m in range(max(1, falls), 4):
        made = numbers_of(Steps(m), counts, "p")
        assert made.isfinite().all()
        near = Steps(m).shares(made, len(counts), 10) * 100
        assert (near - torch.tensor(counts)).abs().max() <= 1.5
    if falls > 1:
        with pytest.raises(UsageError, match="--kernel free"):
            numbers_of(Steps(1), counts, "p")


def test_a_plan_is_a_point(tmp_path, monkeypatch):
    question = asked(settings=TINY.of_search)
    n = question.spending.tokens
    counts = (n, n - 2, 3, 1)
    file = str(save_plan(plan_of_counts(FastV(), counts), tmp_path / "plan.json", layers=LAYERS, tokens=n))
    at = point_of(question, BUDGET, file)
    assert at.label == file and whole_counts(at.counts(question).numpy(), n) == counts
    toy(monkeypatch, linear, linear)
    result = probed(tmp_path / "pieces", at=("start", file))
    assert [each.label for each in result.probed] == ["start", file] and result.probed[1].whole == counts
    assert [row["at"] for row in result.rows()] == ["start"] * 3 + [file] * 3
    other = Search(question.task, PyramidDrop(), Free(), TINY.of_search)
    with pytest.raises(UsageError, match="another selector"):
        point_of(other, BUDGET, file)


def test_the_result_is_shown_like_others(tmp_path):
    result = shared_result()
    rows = json.loads(json.dumps(result.rows()))
    assert [row["gradient"] for row in rows] == ["relaxed", "deployed", "line"]
    assert repr(result).startswith("SearchGradient(model=") and "<table>" in result._repr_html_()
    assert result.save(tmp_path / "f.svg").stat().st_size > 1000
    assert json.loads(result.save(tmp_path / "f.json").read_text())["question"]["at"]["start"]


def test_what_is_not_possible_is_refused(tmp_path):
    for changes in ({"batches": 2}, {"draws": 7}, {"sigmas": (0.0,)}, {"softness": (1.5,)},
                    {"softness": ()}, {"ladder": (-1.0,)}, {"reach": 0.0}, {"held_out": 2}, {"seed": -1}):  # fmt: skip
        with pytest.raises(UsageError, match=r"not possible|names no number"):
            replace(TINY, **changes)
    with pytest.raises(UsageError, match=r"share in \(0, 1\]"):
        search_gradient(asked(settings=TINY.of_search), 1.5, ["start"], TINY, tmp_path)
    for wrong in ("stop", "1.0,2.0", "1,nan,0", ""):
        with pytest.raises(UsageError, match="give start"):
            probed(tmp_path, at=(wrong,))
    with pytest.raises(UsageError, match="captioned images"):
        probed(tmp_path, settings=replace(TINY, batches=9))
    with pytest.raises(UsageError, match="single number"):
        search_gradient(
            Search(task(layers=2, count=8), FastV(), Free(), TINY.of_search), 0.9, ["start"], TINY, tmp_path
        )
    n = asked().spending.tokens
    before = save_plan(plan_of_counts(FastV(), (n, 3, 2, 1)), tmp_path / "plan.json", layers=LAYERS, tokens=n + 1)
    with pytest.raises(UsageError, match="made for"):
        probed(tmp_path, at=(str(before),))


def test_a_loss_that_is_no_number_is_told(monkeypatch, tmp_path):
    toy(monkeypatch, linear, lambda counts, image: counts.sum() * float("nan"))
    with pytest.raises(GradprobeError, match="no finite number"):
        probed(tmp_path)
