"""The probe end to end on a toy task: against plain autograd, and what it refuses."""

import numpy as np
import pytest
import torch
from stored import array_bytes
from toy import Toy

from gradprobe.core import Noise, Selection, apply
from gradprobe.errors import GradprobeError, Notice, UsageError
from gradprobe.operators import registry
from gradprobe.probes.coherence.measure import coherence
from gradprobe.probes.gradients import centred, gram_by_group, score_gradient, write_scorer_gradient
from gradprobe.store.results import Store

SIZES = {"batches": 4, "batch_size": 3, "draws": 2}
OPERATORS = [
    "gumbel", "gumbel:backward=soft", "gumbel-ste+zero", "scale", "vpnoise", "vpnoise:tau=0.1", "softtopk", "vpscale",
    "logistic+mean",
]  # fmt: skip


def plain_gradients(task, spec, k, centre):
    """Autograd through the whole graph, batch by batch; the common mode is removed by a projection inside the graph."""
    operator = registry.build(spec)
    rows = []
    for batch in task.batches(SIZES["batches"], SIZES["batch_size"], 0):
        for r in range(SIZES["draws"]):
            scores = task.scorer(batch.tokens.patches)
            if centre:
                scores = scores - scores.mean(-1, keepdim=True) + scores.mean(-1, keepdim=True).detach()
            selection = apply(operator, batch.tokens.patches, scores, k, Noise(0, range(3)).draw(r), spec)
            grads = torch.autograd.grad(task.losses(selection, batch).mean(), list(task.scorer.parameters()))
            rows.append(torch.cat([g.reshape(-1) for g in grads]))
    return torch.stack(rows)


@pytest.mark.parametrize("spec", OPERATORS)
def test_two_stage_gradients_equal_plain_autograd(spec):
    task = Toy()
    result = coherence(task, registry.build(spec), 4, **SIZES)
    for part, centre in enumerate((False, True)):
        rows = plain_gradients(task, spec, 4, centre)
        assert np.allclose(result.gram[part].sum(0).reshape(8, 8), rows @ rows.T, rtol=1e-6, atol=1e-15)


@pytest.mark.parametrize("centre", [False, True])
@pytest.mark.parametrize("spec", OPERATORS)
def test_rows_of_the_two_stages_equal_plain_autograd_in_float64(spec, centre):
    """The stored products are float32; the gradients themselves agree to float64."""
    task, found = Toy(), []
    parameters = list(task.scorer.parameters())
    for batch in task.batches(SIZES["batches"], SIZES["batch_size"], 0):
        for r in range(SIZES["draws"]):
            scores = task.scorer(batch.tokens.patches)
            noise = Noise(0, range(3)).draw(r)
            u = score_gradient(task, registry.build(spec), 4, batch, scores, noise, spec).u
            row = torch.empty(sum(p.numel() for p in parameters), dtype=torch.float64)
            write_scorer_gradient(row, scores, parameters, centred(u) if centre else u)
            found.append(row)
    assert torch.allclose(torch.stack(found), plain_gradients(task, spec, 4, centre), rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("spec", ["scale", "softtopk", "vpnoise:sigma=0"])
def test_a_deterministic_operator_has_operator_part_one(spec):
    assert coherence(Toy(), registry.build(spec), 4, **SIZES).row()["c_op"] == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("spec", ["gumbel", "vpnoise"])
def test_a_stochastic_operator_has_operator_part_below_one(spec):
    assert coherence(Toy(), registry.build(spec), 4, **SIZES).row()["c_op"] < 0.999


@pytest.mark.parametrize("spec", ["lapsum+scale", "logistic+vpnoise", "gumbel:backward=soft"])
def test_budgeted_gradients_have_no_common_mode(spec):
    assert coherence(Toy(), registry.build(spec), 4, **SIZES).row()["common_mode"] < 1e-12


def test_a_straight_through_identity_has_one():
    row = coherence(Toy(), registry.build("gumbel-ste+zero"), 4, **SIZES).row()
    assert row["common_mode"] > 0.01
    assert row["centred"] != pytest.approx(row["coherence"], abs=1e-6)


@pytest.mark.parametrize("spec", ["hard", "random+zero"])
def test_no_gradient_is_a_finding(spec):
    result = coherence(Toy(), registry.build(spec), 4, **SIZES)
    row = result.row()
    assert result.gradient == row["gradient"] == "none"
    assert row["coherence"] is None
    assert np.isfinite(result.losses).all()


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    paths = [
        Store(tmp_path / name).save(coherence(Toy(), registry.build("vpnoise"), 4, seed=1, **SIZES)) for name in "ab"
    ]
    first, second = (array_bytes(path) for path in paths)
    assert first == second
    other = Store(tmp_path / "c").save(coherence(Toy(), registry.build("vpnoise"), 4, seed=2, **SIZES))
    assert first != array_bytes(other)


def test_the_probe_leaves_scorer_and_generators_as_found():
    task, before, state = Toy(), None, torch.get_rng_state()
    before = {n: p.clone() for n, p in task.scorer.named_parameters()}
    coherence(task, registry.build("vpnoise"), 4, **SIZES)
    assert all(torch.equal(before[n], p) and p.grad is None for n, p in task.scorer.named_parameters())
    assert torch.equal(state, torch.get_rng_state())


def test_training_moves_the_scorer_and_is_part_of_the_question():
    start, trained = (coherence(Toy(), registry.build("scale"), 4, steps=s, **SIZES) for s in (0, 5))
    assert start.question != trained.question
    assert not np.array_equal(start.gram, trained.gram)
    again = coherence(Toy(), registry.build("scale"), 4, steps=5, **SIZES)
    assert np.array_equal(again.gram, trained.gram)


def test_an_operator_without_gradient_cannot_train():
    with pytest.raises(GradprobeError, match="gives the scorer no gradient"):
        coherence(Toy(), registry.build("hard"), 4, steps=1, **SIZES)


def test_a_loss_that_is_not_finite_names_operator_batch_and_image():
    with pytest.raises(GradprobeError, match=r"lapsum\+scale \(batch 2, draw 1\).*loss.*image ids 4\)"):
        coherence(Toy(poison=4), registry.build("scale"), 4, **SIZES)


def test_a_gradient_that_is_not_finite_is_refused():
    class Cliff:
        def __call__(self, patches, scores, k, noise):
            weights = (scores - scores.detach()).sqrt()  # zero forward, infinite slope
            return Selection(patches * (1 + weights[..., None]), weights)

    with pytest.raises(GradprobeError, match="gradient that is not finite"):
        coherence(Toy(), Cliff(), 4, **SIZES)


@pytest.mark.parametrize(("name", "value"), [("batches", 2), ("batch_size", 0), ("draws", 1), ("steps", -1)])
def test_counts_that_mean_nothing_are_refused(name, value):
    with pytest.raises(UsageError, match=f"--{name.replace('_', '-')} {value} is not possible"):
        coherence(Toy(), registry.build("scale"), 4, **{**SIZES, name: value})


def test_a_score_function_relaxation_gets_its_log_derivative():
    class Sampled:
        """Keeps one token drawn from the softmax of the scores."""

        def __call__(self, patches, scores, k, noise):
            kept = (scores + noise.gumbel(scores.shape[1:], like=scores)).argmax(-1, keepdim=True)
            log_prob = scores.log_softmax(-1).gather(1, kept)[:, 0]
            weights = torch.zeros_like(scores).scatter(1, kept, 1.0)
            tokens = patches.gather(1, kept[..., None].expand(-1, -1, patches.shape[-1]))
            return Selection(tokens, weights, index=kept, log_prob=log_prob)

    task = Toy()
    batch = next(task.batches(1, 2, 0))
    scores = task.scorer(batch.tokens.patches).detach()
    draws = [score_gradient(task, Sampled(), 1, batch, scores, Noise(0, (0, 1)).draw(r), "s").u for r in range(6000)]
    leaf = scores.clone().requires_grad_()
    every = torch.stack([
        task.losses(Selection(batch.tokens.patches[:, i : i + 1], leaf, index=torch.full((2, 1), i)), batch)
        for i in range(10)
    ], 1)  # fmt: skip
    (exact,) = torch.autograd.grad((leaf.softmax(-1) * every).sum(), leaf)
    samples = torch.stack(draws)
    error = samples.std(0) / len(draws) ** 0.5
    assert ((samples.mean(0) - exact).abs() < 5 * error).all()


def test_centred_removes_exactly_the_mean():
    u = torch.randn(4, 7, dtype=torch.float64)
    assert centred(u).sum(-1).abs().max() < 1e-14
    assert torch.allclose(centred(u + 3), centred(u))


def test_gram_by_group_adds_up_whatever_the_chunk():
    rows = torch.randn(5, 300)
    whole = rows.double() @ rows.double().T
    for chunk in (7, 1000):
        grams = gram_by_group(rows, [100, 50, 150], chunk)
        assert torch.allclose(grams.sum(0), whole, rtol=1e-12)
    assert torch.allclose(grams[1], rows[:, 100:150].double() @ rows[:, 100:150].double().T, rtol=1e-12)


class Full(Toy):
    """A model whose memory holds two images."""

    def losses(self, selection, batch):
        if len(batch.ids) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return super().losses(selection, batch)


@pytest.mark.parametrize("spec", ["vpnoise", "scale", "hard"])
def test_where_memory_is_full_a_batch_is_measured_in_parts(spec):
    sizes = {"batches": 4, "batch_size": 5, "draws": 3}
    with pytest.warns(Notice, match="goes on with 2 images at a time") as notices:
        parts = coherence(Full(), registry.build(spec), 4, **sizes)
    whole = coherence(Toy(), registry.build(spec), 4, **sizes)
    assert len(notices) == 1
    for name in ("gram", "energy", "losses", "spread"):
        values = getattr(whole, name)
        assert np.allclose(getattr(parts, name), values, rtol=1e-5, atol=1e-9 * np.abs(values).max())
    assert (parts.losses[:, 0] == parts.losses[:, 1]).all() == (spec != "vpnoise")


def test_the_score_of_a_single_token_has_no_spread():
    result = coherence(Toy(n_tokens=1), registry.build("vpnoise"), 1, batches=3, batch_size=2)
    assert result.spread.tolist() == [0, 0, 0] and result.gradient == "none"
