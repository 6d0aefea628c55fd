"""Scorers trained side by side: the numbers of separate trainings, to rounding, whatever stops them on the way."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from toy import Toy

import gradprobe as gp
from gradprobe.core import Batch, Noise, Tokens, joined
from gradprobe.errors import GradprobeError, Notice, UsageError
from gradprobe.models.denoisers import Global, Token
from gradprobe.models.scorers import MLP, Transformer
from gradprobe.probes.ask import ask
from gradprobe.probes.contract import Resources, Subject
from gradprobe.probes.retention import PROBE, RetentionSettings
from gradprobe.probes.retention.side_by_side import alike, measure_all
from gradprobe.store.results import Store
from gradprobe.training.joined import ByBudget, Joined, apart, together
from gradprobe.training.scorer_trainer import ScorerTrainer
from gradprobe.training.stacked import Stacked
from gradprobe.training.train import Recipe
from gradprobe.training.workers import in_threads

RECIPE = Recipe(steps=6, batch_size=5, learning_rate=0.02)
NETWORKS = {
    "mlp": MLP(width=8), "transformer": Transformer(depth=1), "token": Token(width=6), "global": Global(heads=2),
}  # fmt: skip
OPERATORS = ("vpnoise", "scale", "gumbel", "softtopk", "plackett-luce+gather", "simple+gather", "sigmoid+scale")
SETTINGS = {"steps": 6, "batch_size": 5, "learning_rate": 0.02, "images": 20}


def seeded(seeds, task=None):
    return [(task or Toy()).with_new_scorer(seed) for seed in seeds]


def trained(task, op="vpnoise", k=4, recipe=RECIPE, rows=None, workers=1):
    trainer = ScorerTrainer(task, gp.build(op), k, op, recipe, workers, rows=rows)
    for _ in trainer.run():
        pass
    return trainer


def numbers(network):
    return torch.cat([p.detach().flatten() for p in network.parameters()])


@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.filterwarnings("ignore:There is a performance drop")  # a CPU's attention under vmap
def test_stacked_networks_compute_what_each_computes(name, mapped):
    networks = [NETWORKS[name].make(8, seed).double() for seed in range(3)]
    for network in networks:  # denoisers begin as the identity
        nn.utils.vector_to_parameters(numbers(network) + 0.1 * torch.randn(len(numbers(network))), network.parameters())
    stacked, rows = Stacked(networks, mapped), torch.randn(6, 5, 8, dtype=torch.float64)
    out = stacked(rows)
    gradients = torch.autograd.grad(out.square().sum(), list(stacked.parameters()))
    for s, network in enumerate(networks):
        own = network(rows[s::3])
        torch.testing.assert_close(out[s::3], own)
        expected = torch.autograd.grad(own.square().sum(), list(network.parameters()))
        for gradient, value in zip(gradients, expected, strict=True):
            torch.testing.assert_close(gradient[s], value)
    assert [n for n, _ in stacked.named_parameters()] == [n for n, _ in networks[0].named_parameters()]


@pytest.mark.parametrize("op", OPERATORS)
def test_joined_trainings_are_the_separate_ones(op):
    seeds = (3, 1, 2)
    tasks, alone = seeded(seeds), seeded(seeds)
    trainer = trained(task := Joined(tuple(tasks), seeds, (4, 4, 4)), op)
    task.write()
    for s, (single, seed) in enumerate(zip(alone, seeds, strict=True)):
        separate = trained(single, op, recipe=replace(RECIPE, seed=seed))
        np.testing.assert_allclose([losses[s] for losses in trainer.losses], separate.losses, rtol=1e-9)
        torch.testing.assert_close(numbers(tasks[s].scorer), numbers(single.scorer), rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("mapped", [True, False])
def test_stacked_networks_are_called_by_several_threads_at_once(mapped):
    networks = [MLP(width=64).make(32, seed) for seed in range(2)]
    stacked = Stacked(networks, mapped)
    rows = [torch.randn(4, 50, 32, generator=torch.Generator().manual_seed(i)) for i in range(64)]
    expected = [stacked(each).detach() for each in rows]
    results = list(in_threads(lambda each: stacked(each).detach(), rows, 8))
    assert all(map(torch.equal, results, expected))
    assert all(p.is_meta for p in stacked._one.parameters())


def test_the_number_of_workers_changes_no_bit():
    seeds = (1, 2)
    one, other = (
        trained(Joined(tuple(seeded(seeds)), seeds, (4, 4)), rows=2, workers=workers).losses for workers in (1, 4)
    )
    assert one == other


def test_budgets_are_trained_side_by_side_too():
    budgets = (2, 5, 2)
    tasks = seeded((1, 1, 2))
    trainer = trained(Joined(tuple(tasks), (1, 1, 2), budgets), rows=6)
    for s, (seed, k) in enumerate(zip((1, 1, 2), budgets, strict=True)):
        separate = trained(seeded((seed,))[0], k=k, recipe=replace(RECIPE, seed=seed))
        np.testing.assert_allclose([losses[s] for losses in trainer.losses], separate.losses, rtol=1e-9)
    patches, scores = torch.randn(2, 9, 4), torch.randn(2, 9)
    with pytest.raises(GradprobeError, match="cannot be trained with several K side by side"):
        ByBudget(gp.build("gumbel"), (2, 5))(patches, scores, 2, noise=Noise(0, (1, 2)))


@pytest.mark.parametrize("rows", [1, 2, 7, 64])
def test_micro_batches_hold_every_scorer(rows):
    seeds = (1, 2)
    trainer = trained(Joined(tuple(seeded(seeds)), seeds, (4, 4)), rows=rows)
    whole = trained(Joined(tuple(seeded(seeds)), seeds, (4, 4)))
    np.testing.assert_allclose(trainer.losses, whole.losses, rtol=1e-9)


def test_where_memory_is_full_micro_batches_stay_whole_multiples(recwarn):
    class Small(Toy):
        def losses(self, selection, batch):
            if len(batch.ids) > 7:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().losses(selection, batch)

    seeds = (1, 2, 3)
    tight = trained(Joined(tuple(seeded(seeds, Small())), seeds, (4, 4, 4)), rows=12)
    roomy = trained(Joined(tuple(seeded(seeds)), seeds, (4, 4, 4)), rows=6)
    assert [str(w.message) for w in recwarn] == ["cpu ran out of memory; the work goes on with 6 images at a time"]
    np.testing.assert_allclose(tight.losses, roomy.losses, rtol=1e-12)


def test_the_state_of_a_joined_training_is_that_of_the_single_ones():
    seeds = (1, 2)
    trainer = trained(Joined(tuple(seeded(seeds)), seeds, (4, 4)))
    states = apart(trainer.state_dict(), 2)
    single = trained(seeded((2,))[0], recipe=replace(RECIPE, seed=2)).state_dict()
    assert states[1].keys() == single.keys()
    for name, value in single.items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-6, atol=1e-9)
    back = together(states)
    assert all(torch.equal(back[name], value) for name, value in trainer.state_dict().items())


def questions(seeds, k=4, task=None, **changes):
    tasks = seeded(seeds, task)
    return [Subject(task, gp.build("vpnoise"), k) for task in tasks], [
        RetentionSettings(seed=seed, **SETTINGS | changes) for seed in seeds
    ]


def test_retention_of_several_seeds_at_once_is_that_of_each(tmp_path):
    seeds = (1, 2, 3)
    folders = [tmp_path / str(seed) for seed in seeds]
    results = measure_all(*questions(seeds), [Resources(folder=folder) for folder in folders])
    for seed, result, folder in zip(seeds, results, folders, strict=True):
        ((subject,), (settings,)) = questions((seed,))
        (alone,) = measure_all([subject], [settings], [Resources()])
        assert result.question == alone.question
        np.testing.assert_allclose(result.losses, alone.losses, rtol=1e-9)
        for name in ("at", "curve", "correct", "unpruned"):
            assert np.array_equal(getattr(result, name), getattr(alone, name)), name
        assert (folder / "keep" / "scorer.safetensors").is_file()


@pytest.mark.parametrize("stops", [(3, 3), (3, 2), (4, None), (None, 2)])
def test_stopped_they_go_on_from_where_each_was(tmp_path, monkeypatch, stops):
    """A seed that was stopped elsewhere, alone or with others, is trained to the same end."""
    monkeypatch.setattr("gradprobe.probes.retention.training_run.SAVE_EVERY", 1)
    seeds, folders = (1, 2), (tmp_path / "1", tmp_path / "2")

    class Stopped(Exception):
        pass

    def stopping(at):
        def progress(words, done, total):
            if "training" in words and done == at:
                raise Stopped

        return progress

    for seed, folder, stop in zip(seeds, folders, stops, strict=True):
        if stop is not None:
            with pytest.raises(Stopped):
                measure_all(*questions((seed,)), [Resources(folder=folder, progress=stopping(stop))])
    steps = []
    means = [Resources(folder=folder, progress=lambda words, done, total: steps.append(done)) for folder in folders]
    resumed = measure_all(*questions(seeds), means)
    assert steps[0] == 1 + min(stop or 0 for stop in stops)
    whole = measure_all(*questions(seeds), [Resources(), Resources()])
    for one, other in zip(resumed, whole, strict=True):
        np.testing.assert_allclose(one.losses, other.losses, rtol=1e-9)
        assert np.array_equal(one.correct, other.correct)


@pytest.mark.parametrize("denoiser", ["none", "token"])
def test_captions_are_trained_side_by_side(denoiser):
    task = gp.vlm.captioning("scenes-vlm", scorer="mlp:width=4", denoiser=denoiser)
    seeds, op = (1, 2), gp.build("vpnoise")
    recipe = Recipe(steps=2, batch_size=3)
    tasks = tuple(task.with_new_scorer(seed) for seed in seeds)
    both = ScorerTrainer(Joined(tasks, seeds, (11, 11)), op, 11, "vpnoise", recipe, 1)
    with task.running():
        for _ in both.run():
            pass
        for s, seed in enumerate(seeds):
            single = ScorerTrainer(task.with_new_scorer(seed), op, 11, "vpnoise", replace(recipe, seed=seed), 1)
            for _ in single.run():
                pass
            np.testing.assert_allclose([losses[s] for losses in both.losses], single.losses, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*")  # deprecated, and models still have it
@pytest.mark.parametrize("norm", [nn.utils.weight_norm, nn.utils.parametrizations.weight_norm])
@pytest.mark.parametrize("mapped", [True, False])
def test_networks_that_hold_a_computed_weight_are_stacked(norm, mapped):
    networks = [norm(nn.Linear(3, 1).double()) for _ in range(2)]
    rows = torch.randn(4, 5, 3, dtype=torch.float64)
    expected = [network(rows[s::2]) for s, network in enumerate(networks)]  # from now on it holds one
    out = Stacked(networks, mapped)(rows)
    for s in range(2):
        torch.testing.assert_close(out[s::2], expected[s])


def test_a_network_that_torch_func_does_not_take_is_refused_in_one_line():
    class Looking(nn.Linear):
        def forward(self, x):
            return super().forward(x) if bool((x > -9).all()) else x

    with pytest.raises(GradprobeError, match=r"torch.func does not take this network \(vmap: "):
        Stacked([Looking(3, 1), Looking(3, 1)], mapped=True)(torch.zeros(4, 5, 3))


def test_what_cannot_be_joined_is_refused():
    with pytest.raises(GradprobeError, match="different architectures"):
        Stacked([MLP(width=8).make(8, 0), MLP(width=9).make(8, 0)])
    with pytest.raises(GradprobeError, match="networks with buffers"):
        Stacked([nn.BatchNorm1d(3), nn.BatchNorm1d(3)])
    x = torch.zeros(1, 2, 3)
    with pytest.raises(GradprobeError, match="targets of type list cannot be joined"):
        joined([Batch((0,), Tokens(x[:, :0], x), [1])] * 2)
    subjects, settings = questions((1, 2))
    with pytest.raises(UsageError, match="differ in seeds and tokens kept alone"):
        measure_all(subjects, [settings[0], replace(settings[1], learning_rate=0.1)], [Resources()] * 2)
    assert not alike((subjects[0], settings[0]), (subjects[1], replace(settings[1], steps=5)))
    assert alike((subjects[0], settings[0]), (subjects[1], settings[1]))


def test_the_scenes_of_several_seeds_are_read_in_their_own_orders():
    task = gp.classification("scenes", scorer="mlp:width=4")
    seeds = (1, 5)
    walk = Joined(tuple(task.with_new_scorer(s) for s in seeds), seeds, (20, 20)).training_batches(3, 0)
    for s, seed in enumerate(seeds):
        own = itertools.islice(task.training_batches(3, seed), 1)
        for batch, single in zip(walk, own, strict=False):
            part = batch.subset(slice(s, None, 2))
            assert part.ids == single.ids
            assert torch.equal(part.tokens.patches, single.tokens.patches)
            assert torch.equal(part.target, single.target)
        walk = Joined(tuple(task.with_new_scorer(s) for s in seeds), seeds, (20, 20)).training_batches(3, 0)


def counted(monkeypatch):
    """Count the trainings, by the number of scorers in each."""
    counts = []
    original = ScorerTrainer.__init__

    def init(self, task, *arguments, **named):
        counts.append(len(task.seeds) if isinstance(task, Joined) else 1)
        original(self, task, *arguments, **named)

    monkeypatch.setattr(ScorerTrainer, "__init__", init)
    return counts


def asked(folder, seeds=(1, 2, 3), op="vpnoise", k=(20,), **resources):
    task, store = gp.classification("scenes", scorer="mlp:width=4"), Store(folder)
    coming = [
        (Subject(task, gp.build(op), each), RetentionSettings(steps=2, batch_size=2, images=8, seed=seed))
        for each in k for seed in seeds
    ]  # fmt: skip
    resources = Resources(**resources)
    return [ask(PROBE, *question, [store], resources, coming=coming[i + 1 :]) for i, question in enumerate(coming)]


def test_questions_of_several_seeds_are_answered_together_and_stored_each(tmp_path, monkeypatch):
    counts = counted(monkeypatch)
    answers = asked(tmp_path / "joint", together=True)
    assert counts == [3]
    assert [a.computed for a in answers] == [True, False, False]
    counts.clear()
    separate = asked(tmp_path / "alone")
    assert counts == [1, 1, 1]  # on a CPU
    for one, other in zip(answers, separate, strict=True):
        assert one.result.question == other.result.question
        assert np.array_equal(one.result.correct, other.result.correct)
        np.testing.assert_allclose(one.result.losses, other.result.losses, rtol=1e-5)
        assert (one.path.parent / one.path.name).is_file()


def test_several_budgets_are_answered_together_where_all_tokens_are_sent(tmp_path, monkeypatch):
    counts = counted(monkeypatch)
    asked(tmp_path, seeds=(1, 2), k=(10, 20), together=True)
    assert counts == [4]


def test_what_cannot_be_joined_is_measured_one_after_another(tmp_path, monkeypatch):
    counts = counted(monkeypatch)
    with pytest.warns(Notice, match="one after another, since an operator that sends K tokens on"):
        answers = asked(tmp_path, seeds=(1,), op="gumbel", k=(10, 20), together=True)
    assert counts == [2, 1, 1]
    assert all(a.computed for a in answers)


def test_a_stored_answer_is_not_trained_again_beside_others(tmp_path, monkeypatch):
    asked(tmp_path, seeds=(2,))
    counts = counted(monkeypatch)
    assert [a.computed for a in asked(tmp_path, together=True)] == [True, False, False]
    assert counts == [2]
