"""Cost: FLOPs against a count by hand, bytes against known ones, times within rounds, and what is left as found."""

import time
from dataclasses import dataclass, replace
from io import StringIO

import numpy as np
import pytest
import torch
import torch.nn as nn
from rich.console import Console
from torch.utils.flop_counter import flop_registry
from toy import Toy

import gradprobe as gp
from gradprobe.core import Selection, hard_topk
from gradprobe.errors import GradprobeError, UsageError
from gradprobe.operators import registry
from gradprobe.plotting.style import save_figure
from gradprobe.probes.cost.figure import cost_figure
from gradprobe.probes.cost.measure import WARM_UP, cost
from gradprobe.probes.cost.result import CostResult, median, over
from gradprobe.probes.cost.view import lines, meaning, table
from gradprobe.probes.opened import OpenTasks, answered
from gradprobe.store.results import Store

QUICK = {"images": 2, "rounds": 6}
ONE = {"images": 1, "rounds": 6}  # on the scenes
CALLS = ("unpruned", "backward", "scorer", "operator", "operator_backward", "training", "deployed")


def small(**options):
    return gp.classification("scenes", weights="none", scorer="mlp:width=8", **options)


def products(task, tokens):
    """Multiply-adds, twice: of the linear layers, and of ``Q K^T`` with the product with V, of one image's encoder."""
    model = task.backbone.model
    t, d = tokens + model.num_prefix_tokens, task.backbone.dim
    hidden = model.blocks[0].mlp.fc1.out_features
    linear = sum(2 * t * d * 3 * d + 2 * t * d * d + 2 * 2 * t * d * hidden for _ in model.blocks)
    return linear + 2 * d * model.num_classes, len(model.blocks) * 2 * 2 * t * t * d


@pytest.mark.parametrize("forgetful", [False, True])
def test_flops_are_those_counted_by_hand_whether_torch_knows_fused_attention_or_not(monkeypatch, forgetful):
    if forgetful:
        for name in ("", "_backward"):
            op = getattr(torch.ops.aten, f"_scaled_dot_product_flash_attention_for_cpu{name}")
            monkeypatch.delitem(flop_registry, op, raising=False)
    task = small()
    flops = cost(task, gp.build("gumbel"), 58, **ONE).flops
    full, kept = products(task, 196), products(task, 58)
    stem = task.backbone.model.patch_embed
    convolved = [(stem.conv1, 56), (stem.conv2, 28), (stem.conv3, 14), (stem.blend, 14)]
    assert flops["unpruned"] == sum(full)
    assert flops["deployed"] == flops["training"] == sum(kept)
    assert flops["gradient"] == 2 * kept[0] + 3.5 * kept[1]  # back: a product a layer, and five for attention's two
    assert flops["batch"] == sum(2 * side**2 * layer.weight.numel() for layer, side in convolved)
    assert flops["scorer"] == 2 * 196 * 8 * (task.backbone.dim + 1)


@pytest.mark.parametrize("spec", ["vpnoise", "softtopk"])
def test_an_operator_that_sends_all_tokens_costs_the_encoder_on_all_of_them(spec):
    task = small()
    result = cost(task, gp.build(spec), 58, **ONE)
    assert result.sent == 196 and result.flops["training"] == result.flops["unpruned"] == sum(products(task, 196))


def test_the_target_of_kl_is_part_of_making_a_batch():
    labelled, unlabelled = (cost(small(loss=loss), gp.build("hard"), 58, **ONE).flops for loss in ("ce", "kl"))
    assert unlabelled["batch"] == labelled["batch"] + labelled["unpruned"]


def test_flops_and_bytes_are_the_same_in_every_run():
    first, second = (cost(small(), gp.build("vpnoise"), 58, **ONE) for _ in range(2))
    assert first.question == second.question
    assert first.flops == second.flops and first.memory == second.memory
    assert first.memory["peak"] is None


def sigmoid_scale(patches, scores, k, noise):
    weights = scores.sigmoid()
    return Selection(patches * weights[..., None], weights)


def test_bytes_are_what_the_pass_itself_makes_each_storage_once():
    result = cost(Toy(), sigmoid_scale, 4, images=3, rounds=6)
    # The weights, which sigmoid and the product both keep; not the patches, which were there.
    assert result.memory["operator"] == 10 * 8
    assert result.memory["training"] > result.memory["operator"]


def test_the_frozen_model_is_not_part_of_the_bytes():
    one, two = (cost(small(), gp.build("gumbel"), 8, images=n, rounds=6).memory["training"] for n in (1, 2))
    assert one == pytest.approx(two, abs=64)  # else its parameters would be shared by the images


def drawn_pair(patches, scores, k, noise):
    """A score-function operator: K tokens, and the log-probability of a stand-in distribution."""
    drawn_pair.calls.append(noise.index)
    selection = hard_topk(patches, scores + noise.gumbel(scores.shape[1:], like=scores), k)
    return replace(selection, log_prob=(scores.log_softmax(-1) * selection.weights).sum(-1))


def test_a_score_function_operator_is_counted_with_both_samples():
    drawn_pair.calls = []
    result = cost(Toy(), drawn_pair, 4, **QUICK)
    assert result.gradient == "yes" and result.sent == 4
    assert result.flops["training"] == 2 * result.flops["deployed"]
    counts = np.unique(drawn_pair.calls, return_counts=True)[1]
    assert len(counts) == 2 and counts[0] == counts[1]


class Passing(torch.autograd.Function):
    """The identity, which counts how often something comes back through it."""

    back = 0

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, upstream):
        Passing.back += 1
        return upstream


@pytest.mark.parametrize("field", ["tokens", "key_bias", "self_bias", "penalty"])
def test_the_operator_alone_goes_back_from_all_that_it_returned(field):
    def only(patches, scores, k, noise):
        through = Passing.apply(scores)
        values = {"tokens": patches * through[..., None], "penalty": through.sum(-1)}
        rest = {"key_bias": scores.sigmoid()} | {field: values.get(field, through)}
        return Selection(**({"tokens": patches} | rest), weights=scores.sigmoid())

    Passing.back = 0
    cost(Toy(), only, 4, **QUICK)
    alone, whole = QUICK["rounds"] + WARM_UP, QUICK["rounds"] + WARM_UP + 3  # once for FLOPs, twice for bytes
    assert Passing.back == alone + (0 if field == "self_bias" else whole)  # the toy's loss reads no self_bias


@dataclass(frozen=True)
class Watched(Toy):
    """Writes down which tokens its losses are asked for, and whether they lead back."""

    seen: tuple = ()

    def losses(self, selection, batch):
        self.seen[0].append((selection.tokens.shape[1], selection.tokens.requires_grad))
        return super().losses(selection, batch)


def test_every_round_times_the_same_calls_in_the_same_order():
    seen = []
    told = []
    result = cost(Watched(seen=(seen,)), gp.build("vpnoise"), 4, images=2, rounds=7, progress=lambda *a: told.append(a))
    one = [(10, False), (10, True), (10, True), (4, False)]  # unpruned, backward, training, hard_topk
    assert seen[-(7 + WARM_UP) * 4 :] == one * (7 + WARM_UP)
    assert told == [("lapsum+vpnoise: rounds", i, 7) for i in range(1, 8)]
    assert all(getattr(result, name).shape == (7,) and (getattr(result, name) > 0).all() for name in CALLS)


def test_waiting_for_the_machine_is_not_cost():
    def sleepy(patches, scores, k, noise):
        time.sleep(0.02)
        return sigmoid_scale(patches, scores, k, noise)

    result = cost(Toy(), sleepy, 4, **QUICK)
    assert np.median(result.operator) < 0.01


def test_work_shows_in_the_time_of_the_operator_and_of_its_gradient():
    def heavy(patches, scores, k, noise):
        big = torch.ones(300, 300, dtype=scores.dtype) * scores[0, 0]
        return sigmoid_scale(patches, scores + 0 * (big @ big).mean(), k, noise)

    light, result = (cost(Toy(), op, 4, **QUICK) for op in (sigmoid_scale, heavy))
    assert np.median(result.operator_backward) > 3 * np.median(light.operator_backward)
    assert np.median(result.operator_backward) > 1.5 * np.median(result.operator)
    assert result.row()["operator_share"] > light.row()["operator_share"]
    assert result.row(baseline=light)["ratio"] > 1


@pytest.mark.parametrize("spec", ["hard", "random+gather"])
def test_an_operator_without_gradient_has_no_training_cost(spec):
    result = cost(Toy(), gp.build(spec), 4, **QUICK)
    row, base = result.row(baseline=made()), made().row(baseline=result)
    assert result.gradient == row["gradient"] == "none"
    for name in ("training", "training_ms", "operator_share", "flops_gradient", "memory", "ratio", "ratio_low"):
        assert row[name] is None
    assert base["ratio"] is None and base["training"] is not None
    assert row["operator_ms"] > 0 and row["deployed"] > 0 and row["flops_training"] == row["flops_deployed"]


def made(slow=1.0, training=3.0, gradient="yes", op="lapsum+vpnoise", rounds=9, spread=0.0):
    """A result of known times; ``slow`` holds for everything in a round, ``spread`` for the training alone."""
    times = dict(zip(CALLS, (1.0, 2.0, 0.1, 0.2, 0.3, training, 0.25), strict=True))
    seconds = {name: value * np.ones(rounds) * slow for name, value in times.items()}
    seconds["training"] = seconds["training"] * np.exp(spread * np.linspace(-1, 1, rounds))
    if gradient == "none":
        seconds |= {"operator_backward": np.zeros(0), "training": np.zeros(0)}
    flops = dict.fromkeys(("batch", "unpruned", "scorer", "training", "gradient", "deployed"), 1.25e9)
    memory = {"training": 2.5e6, "operator": 1e4, "peak": None}
    if gradient == "none":
        flops, memory = flops | {"gradient": None}, dict.fromkeys(memory)
    return CostResult(
        {"probe": "cost", "op": op, "k": 58, "images": 8}, gradient, 196, flops, memory, environment={}, **seconds
    )


def test_what_slows_a_whole_round_leaves_the_ratios_alone():
    busy = np.array([1, 50, 1, 2, 8, 1, 30, 4, 9.0])
    quiet, loud = made().row(), made(slow=busy).row()
    for name in ("training", "training_low", "training_high", "encoder", "deployed", "operator_share"):
        assert loud[name] == pytest.approx(quiet[name])
    assert loud["training_ms"] == pytest.approx(4 * quiet["training_ms"])
    assert quiet["training"] == pytest.approx(3) and quiet["training_ms"] == pytest.approx(3000 / 8)
    assert quiet["operator_share"] == pytest.approx(0.1) and quiet["deployed"] == pytest.approx(0.25)


def test_the_ratio_to_a_baseline_holds_the_spread_of_both():
    sure, vague = made(), made(training=1.5, spread=0.2)
    row = sure.row(baseline=vague)
    assert row["ratio"] == pytest.approx(2)
    assert row["ratio_low"] == pytest.approx(2 * np.exp(-0.15)) and row["ratio_high"] == pytest.approx(2 * np.exp(0.15))
    both = made(spread=0.2).row(baseline=vague)
    assert np.log(both["ratio_high"] / 2) == pytest.approx(0.15 * np.sqrt(2))


@pytest.mark.parametrize("n", [6, 9, 20])
def test_the_interval_of_a_median_holds_it_as_often_as_it_says(n):
    found = [median(values) for values in np.random.default_rng(n).exponential(size=(2000, n))]
    assert np.mean([e.low <= np.log(2) <= e.high for e in found]) >= 0.95 - 2 * np.sqrt(0.05 * 0.95 / 2000)
    assert all(e.low <= e.value <= e.high for e in found)


def test_a_median_of_too_few_has_no_interval():
    few = median(np.arange(5.0))
    assert few.value == 2 and np.isnan(few.low) and np.isnan(few.high)


def test_the_interval_of_a_ratio_of_medians_holds_it():
    rng = np.random.default_rng(1)
    pairs = rng.lognormal(0.0, 0.1, (1000, 2, 9)) * np.array([3.0, 2.0])[:, None]
    found = [over(median(a), median(b)) for a, b in pairs]
    assert np.mean([e.low <= 1.5 <= e.high for e in found]) >= 0.94


def test_everything_is_left_as_it_was_found():
    task = small()
    task.backbone.model.train()
    torch.manual_seed(3)
    state, threads, inside = torch.get_rng_state(), torch.get_num_threads(), []
    torch.set_num_threads(2)
    before = {n: p.clone() for n, p in [*task.backbone.model.named_parameters(), *task.scorer.named_parameters()]}
    asking = [p.requires_grad for p in task.backbone.model.parameters()]
    cost(task, gp.build("gumbel"), 58, **ONE)

    def raises(patches, scores, k, noise):
        inside.append(torch.get_num_threads())
        raise ValueError("I am broken")

    with pytest.raises(GradprobeError, match="I am broken"):
        cost(task, raises, 58, **ONE)
    after = torch.get_num_threads()
    torch.set_num_threads(threads)
    assert torch.equal(torch.get_rng_state(), state) and (inside, after) == ([1], 2)
    assert task.backbone.model.training and asking == [p.requires_grad for p in task.backbone.model.parameters()]
    assert all(p.grad is None for p in task.scorer.parameters())
    after = [*task.backbone.model.named_parameters(), *task.scorer.named_parameters()]
    assert all(torch.equal(before[n], p) for n, p in after)


def test_what_is_not_finite_is_refused_by_image():
    with pytest.raises(GradprobeError, match=r"loss that is not finite .*image ids 1"):
        cost(Toy(poison=1), gp.build("hard"), 4, **QUICK)

    class Broken(nn.Linear):
        def forward(self, patches):
            scores = super().forward(patches)[..., 0]
            return torch.where(torch.arange(len(scores))[:, None] == 1, torch.nan, scores)

    with pytest.raises(GradprobeError, match=r"score that is not finite .*image ids 1"):
        cost(Toy(scorer=Broken(5, 1).double()), gp.build("vpnoise"), 4, **QUICK)


@pytest.mark.parametrize(("options", "words"), [({"images": 0}, "--images 0"), ({"rounds": 5}, "--rounds 5")])
def test_impossible_sizes_are_refused(options, words):
    with pytest.raises(UsageError, match=words):
        cost(Toy(), gp.build("vpnoise"), 4, **(QUICK | options))
    with pytest.raises(UsageError, match="--k 1 to --k 10"):
        cost(Toy(), gp.build("vpnoise"), 11, **QUICK)


def test_a_stored_question_is_answered_again_and_one_of_another_device_is_not(tmp_path):
    result = cost(small(), gp.build("scale"), 58, **ONE)
    stored = Store(tmp_path).load(Store(tmp_path).save(result))
    assert stored.row() == result.row()
    again = answered(stored.question, {}, [Store(tmp_path / "again")], OpenTasks()).result
    assert again.question == result.question and again.flops == result.flops and again.memory == result.memory
    with pytest.raises(GradprobeError, match=r"device cuda \(here cpu\)"):
        answered(result.question | {"device": "cuda"}, {}, [Store(tmp_path / "again")], OpenTasks())


def printed(table):
    console = Console(width=80, file=StringIO())
    console.print(table)
    return console.file.getvalue()


def test_the_table_fits_80_columns_and_says_none_where_there_is_none():
    rows = [made(op="gumbel-ste+gather").row()]
    rows += [r.row(baseline=made()) for r in (made(slow=0.5, training=24.5, spread=0.1), made(gradient="none"))]
    text = printed(table(rows))
    assert max(map(len, text.splitlines())) <= 80
    for words in ("24.5 [22.7, 26.4]", "0.25 [0.25, 0.25]", "1531", "none", "1.25", "2.50"):
        assert words in text
    assert "lapsum+vpnoise: a training gradient takes 8.17 [7.58, 8.80] times" in lines(rows, "gumbel")[0]
    assert "no gradient reaches the scores" in lines(rows, "gumbel")[1]
    assert "2.00 [2.00, 2.00] times its forward pass of 125 ms" in meaning(rows)


def test_the_figure_is_the_same_for_the_same_results_and_draws_no_gradient_as_words(tmp_path):
    results = [made(spread=0.1), made(gradient="none", op="hard+gather")]
    one, two = (
        save_figure(cost_figure(results, [r.row() for r in results], "scenes"), tmp_path / f"{i}.svg").read_bytes()
        for i in range(2)
    )
    assert one == two and b"no gradient" in one and b"hard+gather" in one
    save_figure(cost_figure(results[1:], [r.row() for r in results[1:]]), tmp_path / "none.png")
    with pytest.raises(UsageError, match="no cost"):
        cost_figure([], [])


def test_arrays_of_other_lengths_are_refused():
    with pytest.raises(GradprobeError, match="deployed of a cost result"):
        replace(made(), deployed=np.ones(3))
    with pytest.raises(GradprobeError, match="operator_backward of a cost result"):
        replace(made(), gradient="none")


@pytest.mark.real
def test_a_real_deit_tiny_has_its_published_flops(assets):
    task = gp.classification(
        "deit_tiny_patch16_224", weights=str(assets / "deit_tiny_patch16_224" / "model.safetensors"),
        data=str(assets / "imagenette" / "val"), scorer="mlp:width=8",
    )  # fmt: skip
    result = cost(task, registry.build("gumbel"), 58, images=1, rounds=6)
    macs = (result.flops["batch"] + result.flops["unpruned"]) / 2
    assert macs == pytest.approx(1.26e9, rel=0.01)  # DeiT, Table 5: 1.3 G multiply-adds
    assert 0.2 < result.row()["flops_deployed"] / result.row()["flops_unpruned"] < 0.3
