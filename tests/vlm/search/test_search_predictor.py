"""Predictors of a schedule for each image: right gradients, within budgets, resumed and read back to the same."""

import functools
import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save, save_file
from searched import FEW, LAYERS, numbers, task

from gradprobe.core import joined
from gradprobe.errors import GradprobeError, UsageError
from gradprobe.selectors.fastv import FastV
from gradprobe.training.checkpoint import Checkpoint
from gradprobe.vlm.search import predictor_training as training
from gradprobe.vlm.search.asked import Search
from gradprobe.vlm.search.deployed import deployed
from gradprobe.vlm.search.kernels import Free, Steps
from gradprobe.vlm.search.predictor import Network, Predictor
from gradprobe.vlm.search.predictor_deployed import each_deployed
from gradprobe.vlm.search.predictor_file import load_predictor, save_predictor
from gradprobe.vlm.search.predictor_state import begun, predictor_of
from gradprobe.vlm.search.relaxed import Relaxation, relaxed_losses
from gradprobe.vlm.search.run import front_of

BUDGETS = [0.5, 0.8]
SHORT = replace(FEW, inner=1)
WILD = 3.0  # of random weights, so that images differ


@functools.cache
def many():
    """A task with images enough to train with."""
    return task(count=20)


@functools.cache
def question(kernel=Free(), settings=SHORT):  # noqa: B008 (frozen)
    return Search(many(), FastV(), kernel, settings)


def features():
    return joined(question().groups).tokens.patches


def random(kernel=Free(), budgets=(0.5, 0.8)):  # noqa: B008 (frozen)
    """A predictor of random weights, whose images differ."""
    spending = question().spending
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Network(many().vlm.dim, len(kernel.start(LAYERS, 0.5, 0.5)))
        for parameter in network.parameters():
            parameter.data.normal_(0, WILD / parameter.shape[-1] ** 0.5)
    return Predictor(network.requires_grad_(False), FastV(), kernel, spending, budgets, many().vlm.metadata)


def losses(counts, tau):
    asked = question()
    with asked.task.running():
        return relaxed_losses(asked.task, asked.groups[0], Relaxation(FastV(), counts, tau))


def rows():
    """Counts of each image, all different."""
    n = question().spending.tokens
    return numbers(n, 7.3, 5.2, 2.1) - torch.arange(4).double()[:, None] * numbers(0, 0.4, 0.6, 0.3)


def test_the_gradient_in_the_counts_of_each_image_is_that_of_finite_differences():
    counts = rows().requires_grad_(True)
    (gradient,) = torch.autograd.grad(losses(counts, 1.5).sum(), counts)
    step = 1e-6
    with torch.no_grad():
        for layer in range(1, LAYERS):  # of all images at once: a schedule is of its own image
            move = step * torch.eye(LAYERS).double()[layer]
            finite = (losses(rows() + move, 1.5) - losses(rows() - move, 1.5)) / (2 * step)
            assert (gradient[:, layer] - finite).norm() <= 1e-5 * gradient.norm()
    assert gradient.norm() > 1e-3
    with torch.no_grad():
        changed = rows()
        changed[2, 1] += 0.5
        moved = losses(changed, 1.5) != losses(rows(), 1.5)
    assert moved.tolist() == [False, False, True, False]


def test_the_gradient_in_the_weights_of_the_network_is_that_of_finite_differences():
    predictor, budgets = random(), numbers(0.5, 0.6, 0.7, 0.8)
    weight = predictor.network.film[2].weight

    def loss():
        made = predictor.numbers(features(), budgets)
        shares = torch.stack([Free().shares(each, LAYERS, 4) for each in made])
        return losses(shares * question().spending.tokens, 1.5).mean()

    weight.requires_grad_(True)
    (gradient,) = torch.autograd.grad(loss(), weight)
    weight.requires_grad_(False)
    direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)).double()
    step, before, ends = 1e-6, weight.clone(), []
    for sign in (1, -1):
        weight.copy_(before + sign * step * direction)
        ends.append(float(loss()))
    finite = (ends[0] - ends[1]) / (2 * step)
    assert abs(finite) > 1e-4
    assert float((gradient * direction).sum()) == pytest.approx(finite, rel=1e-4)


@pytest.mark.parametrize("tau", [1e-3, 1.5])
def test_equal_rows_of_counts_are_one_schedule(tau):
    for one in (rows()[0], rows()[3]):
        with torch.no_grad():
            same = losses(one, tau)
            assert torch.allclose(losses(one.expand(4, -1), tau), same, atol=1e-12)
            assert torch.allclose(losses(one.expand(4, -1), torch.full((4, LAYERS), tau).double()), same, atol=1e-12)


@pytest.mark.parametrize("kernel", [Free(), Steps(1), Steps(2)], ids=lambda kernel: kernel.label)
def test_every_image_is_within_the_budget_and_leaves_no_token_of_it(kernel):
    predictor, spending, different = random(kernel), question().spending, 0
    for budget in (0.5, 0.65, 0.9):
        made = predictor.counts(features(), budget)
        different += len(set(made)) > 1
        for counts in made:
            assert counts[0] == spending.tokens and list(counts) == sorted(counts, reverse=True) and counts[-1] >= 1
            assert spending.share(counts) <= budget
            more = [(*counts[:i], counts[i] + 1, *counts[i + 1 :]) for i in range(1, LAYERS)]
            if kernel == Free():
                free = [each for each in more if list(each) == sorted(each, reverse=True)]
                assert all(spending.share(each) > budget for each in free)
    assert different or kernel != Free()  # a step that fits a budget has a place alone to differ in
    assert set(predictor.counts(features(), 1.0)) == {(spending.tokens,) * LAYERS}


def test_images_of_different_counts_are_measured_as_one_by_one():
    asked, predictor = question(), random()
    counts = predictor.counts(features(), 0.6)
    each, right = each_deployed(asked.task, FastV(), counts, asked.groups, 0)
    batch = joined(asked.groups)
    alone = [deployed(asked.task, FastV(), c, [batch.subset(slice(i, i + 1))], 0).loss for i, c in enumerate(counts)]
    assert each.tolist() == pytest.approx(alone, abs=1e-9) and right is None
    same, _ = each_deployed(asked.task, FastV(), counts[:1] * 4, asked.groups, 0)
    assert float(same.mean()) == pytest.approx(deployed(asked.task, FastV(), counts[0], asked.groups, 0).loss, abs=1e-9)


def test_the_share_rises_with_the_budget_after_training_and_not_before(tmp_path):
    asked = question(settings=replace(SHORT, learning_rate=0.4))
    spending, state = asked.spending, begun(asked, BUDGETS, {}, tmp_path / "none")

    def spent(budget):
        predictor = predictor_of(asked, BUDGETS, state.network)
        with torch.no_grad():
            made = predictor.numbers(features(), torch.full((4,), budget))
        return torch.stack([spending.share(Free().shares(each, LAYERS, 4) * spending.tokens) for each in made])

    assert torch.equal(spent(0.5), spent(0.8)) and len(set(spent(0.5).tolist())) == 1  # one schedule for all
    for _ in range(asked.settings.outer):
        state.iterates.append({})
        training._inner(asked, BUDGETS, state, 10, lambda i: None)
    assert bool((spent(0.8) > spent(0.65)).all()) and bool((spent(0.65) > spent(0.5)).all())
    assert float((spent(0.8) - spent(0.5)).mean()) > 0.05
    assert len(set(spent(0.5).tolist())) == 4  # and images differ


def test_budgets_are_drawn_from_the_range_and_interpolate_multipliers():
    for step in range(3):
        drawn = training.drawn([0.3, 0.4, 0.7], 8, 0, step)
        assert bool(((drawn >= 0.3) & (drawn <= 0.7)).all()) and len(set(drawn.tolist())) == 8
        weights = training.shares_of(drawn, [0.3, 0.4, 0.7])
        assert torch.allclose(weights @ numbers(0.3, 0.4, 0.7), drawn) and torch.allclose(weights.sum(1), numbers(1))
    assert not torch.equal(training.drawn([0.3, 0.7], 8, 0, 1), training.drawn([0.3, 0.7], 8, 0, 2))
    assert training.drawn([0.4], 3, 0, 0).tolist() == [0.4] * 3
    assert training.shares_of(numbers(0.4, 0.4), [0.4]).tolist() == [[1.0], [1.0]]


class Stopped(Exception):
    pass


@pytest.mark.parametrize("stop", [0, 8])
def test_a_resumed_training_writes_the_same_bytes(stop, tmp_path, monkeypatch):
    monkeypatch.setattr(training.time, "perf_counter", lambda: 0.0)
    asked = question()
    whole = training.trained(asked, BUDGETS, tmp_path / "whole")
    left = [stop]

    def progress(done, total):
        assert 0 < done <= total
        left[0] -= 1
        if left[0] < 0:
            raise Stopped

    with pytest.raises(Stopped):
        training.trained(asked, BUDGETS, tmp_path / "parts", progress)
    again = training.trained(asked, BUDGETS, tmp_path / "parts")
    assert (tmp_path / "parts").read_bytes() == (tmp_path / "whole").read_bytes()
    assert again.schedules == whole.schedules and again.iterates == whole.iterates
    files = [save_predictor(each.predictor, tmp_path / f"{i}.safetensors") for i, each in enumerate((whole, again))]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_the_chosen_iterate_has_the_least_deployed_loss_and_a_finished_training_measures_nothing(tmp_path, monkeypatch):
    asked = question()
    predicted = training.trained(asked, BUDGETS, tmp_path / "p")
    for budget, schedules in zip(BUDGETS, predicted.schedules, strict=True):
        assert schedules.budget == budget and schedules.deployed.images == 4
        assert list(schedules.counts) == predicted.predictor.counts(features(), budget)
        assert max(asked.spending.share(counts) for counts in schedules.counts) <= budget
    losses = [schedules.deployed.loss for schedules in predicted.schedules]
    assert min(sum(iterate["losses"]) for iterate in predicted.iterates) == pytest.approx(sum(losses), abs=1e-12)
    assert len(predicted.iterates) == SHORT.outer + 1
    for name in ("each_deployed", "relaxed_losses", "schedules_deployed"):
        monkeypatch.setattr(training, name, None)
    assert training.trained(asked, BUDGETS, tmp_path / "p").schedules == predicted.schedules


def test_a_checkpoint_of_another_training_or_a_broken_one_is_refused(tmp_path):
    asked = question()
    training.trained(asked, BUDGETS, tmp_path / "p")
    with pytest.raises(UsageError, match="another run"):
        training.trained(asked, [0.5, 0.7], tmp_path / "p")
    saved = Checkpoint.read(tmp_path / "p")
    Checkpoint(saved.config, {}, saved.progress).write(tmp_path / "p")
    with pytest.raises(GradprobeError, match="no checkpoint"):
        training.trained(asked, BUDGETS, tmp_path / "p")


def test_rows_of_a_front_have_means_and_spreads(tmp_path):
    asked = question()
    front = front_of(asked, [0.8, 0.5], tmp_path, predictor=True)
    rows = json.loads(json.dumps(front.rows()))
    assert [row["schedule"] for row in rows] == ["all tokens", *["free", "predictor"] * 2]
    for row in rows[2::2]:
        made = front.predicted.predictor.counts(features(), row["budget"])
        assert row["counts"] == pytest.approx([sum(each) / 4 for each in zip(*made, strict=True)])
        assert row["share"] == pytest.approx(sum(map(asked.spending.share, made)) / 4)
        assert row["share_most"] == max(map(asked.spending.share, made)) <= row["budget"] and row["different"] == len(
            set(made)
        )
        assert row["counts_most"] == [max(each) for each in zip(*made, strict=True)]
    assert (tmp_path / "predictor.safetensors").is_file()
    assert front_of(asked, [0.8, 0.5], tmp_path).predicted is None


def test_too_few_layers_or_images_are_refused_before_any_work(tmp_path):
    with pytest.raises(UsageError, match=r"at least 3 layers.*leave --predictor out"):
        front_of(Search(task(layers=2, count=20), FastV(), Free(), FEW), [0.9], tmp_path, predictor=True)
    with pytest.raises(UsageError, match="4 steps of different images, 12 with --batch-size 3, and 8 are left"):
        front_of(Search(task(count=12), FastV(), Free(), FEW), BUDGETS, tmp_path, predictor=True)
    with pytest.raises(UsageError, match=r"share in \(0, 1\]"):
        front_of(question(), [0.5, 1.5], tmp_path, predictor=True)
    assert not list(tmp_path.iterdir())


def test_a_loss_that_is_no_number_ends_the_training(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "relaxed_losses", lambda *given: given[2].counts.sum(1) * float("nan"))
    with pytest.raises(GradprobeError, match="no finite number at step 1 of the predictor"):
        training.trained(question(), BUDGETS, tmp_path / "p")


@pytest.mark.parametrize("kernel", [Free(), Steps(2)], ids=lambda kernel: kernel.label)
def test_a_predictor_that_is_read_back_gives_the_same_plan(kernel, tmp_path):
    predictor, vlm = random(kernel), many().vlm
    again = load_predictor(save_predictor(predictor, tmp_path / "plan.predictor.safetensors"))
    for budget in (0.4, 0.6, 1.0):
        made = predictor.counts(features(), budget)
        assert again.counts(features(), budget) == made
        plans = [again.plan(vlm, each, budget) for each in features()]
        assert [plan.counts(predictor.spending.tokens, LAYERS).layers for plan in plans] == made
    with pytest.raises(UsageError, match="made for"):
        plans[0].counts(predictor.spending.tokens + 1, LAYERS)


def test_other_models_features_and_budgets_are_refused(tmp_path):
    predictor, vlm = random(), many().vlm
    for other, words in ((task(layers=3).vlm, "layers 4 there, 3 here"), (task("qwen2_5_vl").vlm, "family llava")):
        with pytest.raises(UsageError, match=rf"another model \(.*{words}"):
            predictor.plan(other, features()[0], 0.6)
    for wrong in (features(), features()[0][:-1], features()[0][:, 1:]):
        with pytest.raises(UsageError, match="one image of"):
            predictor.plan(vlm, wrong, 0.6)
    for budget in (0, 1.1, float("nan")):
        with pytest.raises(UsageError, match=r"share in \(0, 1\]"):
            predictor.plan(vlm, features()[0], budget)
    with pytest.raises(UsageError, match="layer 0 reads all"):
        predictor.plan(vlm, features()[0], 0.01)
    with pytest.raises(GradprobeError, match="not finite for these images"):
        predictor.plan(vlm, features()[0] * float("nan"), 0.6)


def change(file, tensors=None, **facts):
    """Write a predictor's file anew with other tensors or facts."""
    content = file.read_bytes()
    told = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]["gradprobe"]
    entries = json.loads(told) | facts
    save_file(load_file(file) | (tensors or {}), file, metadata={"gradprobe": json.dumps(entries)})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": 2}, "format is 2"),
        ({"kernel": "linear"}, "--kernel linear"),
        ({"selector": "fastw"}, "fastw"),
        ({"selector": "dart"}, "scores none"),
        ({"budgets": [0.5, 1.5]}, "budgets are"),
        ({"spending": [[5], 1, 2, 3]}, "no language model"),
        ({"spending": None}, "holds no predictor"),
        ({"model": {}}, "holds no predictor"),
        ({"tensors": {"out.weight": torch.zeros(2, 2).double()}}, r"out.weight is \(2, 2\)"),
        ({"tensors": {"centre": torch.full((4,), float("nan")).double()}}, "not finite"),
        ({"tensors": {"more": torch.zeros(2)}}, "more is"),
    ],
    ids=lambda each: str(each)[:40],
)
def test_a_file_that_holds_something_else_is_refused(changes, words, tmp_path):
    file = save_predictor(random(), tmp_path / "x.predictor.safetensors")
    change(file, **changes)
    with pytest.raises(GradprobeError, match=words):
        load_predictor(file)


def test_no_file_a_broken_one_and_a_wrong_name(tmp_path):
    with pytest.raises(UsageError, match="there is no predictor"):
        load_predictor(tmp_path / "x.safetensors")
    for content in (b"", b"{", b"\x80\x04N.", save_bytes()):
        (tmp_path / "x.safetensors").write_bytes(content)
        with pytest.raises(GradprobeError, match="holds no predictor"):
            load_predictor(tmp_path / "x.safetensors")
    with pytest.raises(UsageError, match=r"must end in \.safetensors"):
        save_predictor(random(), tmp_path / "x.json")


def save_bytes():
    """A file of tensors that are no predictor."""
    return save({"weight": torch.zeros(2)})
