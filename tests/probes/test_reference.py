"""The gradient of the smoothed deployed loss: against the exact one of a toy, and its pieces."""

import numpy as np
import pytest
import torch
from additive import Additive, kept_probability, smoothed_gradient
from stored import array_bytes
from toy import Toy

from gradprobe.core import hard_topk
from gradprobe.errors import GradprobeError, UsageError
from gradprobe.probes.contract import Subject, question_of
from gradprobe.probes.fidelity import REFERENCE, ReferenceSettings
from gradprobe.probes.fidelity.descent import HeldOut, deployed_losses, group_gradients, own_products, products
from gradprobe.probes.fidelity.reference import images_of, reference, scores_of
from gradprobe.probes.fidelity.smoothing import covariance, expected
from gradprobe.settings import settings_from
from gradprobe.store.results import Store

SMALL = {"draws": 32, "images": 5, "held_out": 4, "sigmas": (0.3, 1.0), "ladder": (0.01, 0.1)}


def exact(task, found):
    """The gradients that the reference estimates, ``(S, I, N)``."""
    settings = settings_from(ReferenceSettings, found.question)
    batch, _ = images_of(task, settings)
    scores, costs = scores_of(task, batch, settings).numpy(), batch.tokens.patches[..., 0].numpy()
    k = found.question["k"]
    return np.array([[smoothed_gradient(s, c, k, sigma) for s, c in zip(scores, costs, strict=True)]
                     for sigma in found.sigmas])  # fmt: skip


def test_probabilities_of_being_kept_are_what_counting_says():
    rng = np.random.default_rng(0)
    s = rng.normal(size=7)
    kept = kept_probability(s, 3, 0.5)
    assert kept.sum() == pytest.approx(3, abs=1e-9)
    drawn = s + 0.5 * rng.normal(size=(200_000, 7))
    counted = (drawn.argsort(1).argsort(1) >= 4).mean(0)
    np.testing.assert_allclose(kept, counted, atol=0.005)


@pytest.mark.parametrize("scores", ["random", "scorer"])
def test_the_estimate_is_the_exact_gradient_within_its_noise(scores):
    task = Additive()
    found = reference(task, 3, draws=384, images=12, scores=scores, held_out=3, sigmas=(0.3, 1.0))
    parts, true = found.gradients, exact(task, found)
    for s in range(2):
        variance = parts[s].var(0, ddof=1).sum(-1) / len(parts[s])  # of the mean of the parts, by image
        off = np.square(parts[s].mean(0) - true[s]).sum(-1)
        assert 0.5 < off.sum() / variance.sum() < 1.7
        assert off.sum() < 0.15 * np.square(true[s]).sum()
        assert abs(parts[s].mean(-1)).max() < 1e-6  # no common mode


def test_parts_are_independent_estimates_of_the_same():
    found = reference(Additive(), 3, draws=256, images=16, scores="random", sigmas=(1.0,))
    parts, true = found.gradients[0], exact(Additive(), found)[0]
    errors = (parts - true).reshape(len(parts), -1)
    gram = errors @ errors.T
    apart = gram[~np.eye(len(parts), dtype=bool)] / np.diagonal(gram).mean()
    assert abs(apart.mean()) < 0.15


def test_what_is_expected_of_z_is_its_mean_over_draws_with_the_same_outcome():
    """Three tokens, one kept: given that token 0 is kept and 1 next at a threshold, against rejection sampling."""
    rng = np.random.default_rng(1)
    s, sigma = np.array([0.2, 0.0, -0.3]), 0.7
    z = rng.normal(size=(400_000, 3))
    y = s + sigma * z
    order = y.argsort(1)[:, ::-1]
    chosen = (order[:, 0] == 0) & (order[:, 1] == 1) & (abs(y[:, 1] - 0.4) < 0.02)
    one = torch.tensor([0.9, 0.4, -1.0], dtype=torch.float64)
    found = expected(torch.tensor(s), one, torch.tensor([1.0, 0.0, 0.0]).double(), torch.tensor([sigma]).double())
    np.testing.assert_allclose(found.numpy(), z[chosen].mean(0), atol=0.05)


def test_it_takes_variance_away_and_leaves_the_mean():
    """Against plain antithetic differences on the same draws."""
    rng = np.random.default_rng(2)
    s, costs, sigma = rng.normal(size=12), rng.normal(size=12), 1.0
    z = rng.normal(size=(4000, 2, 12))
    z[:, 1] = -z[:, 0]
    y = torch.tensor(s + sigma * z)
    kept = torch.zeros_like(y).scatter(-1, y.topk(3).indices, 1.0)
    losses = (kept.numpy() * costs).sum(-1)
    w = expected(torch.tensor(s), y, kept, torch.ones(1).double()).numpy()
    batches = [slice(i, i + 8) for i in range(0, 4000, 8)]
    ours, plain = (np.array([covariance(losses[b], x[b]) for b in batches]) for x in (w, z))
    true = smoothed_gradient(s, costs, 3, sigma)
    assert np.square(ours.mean(0) - true).sum() < 3 * ours.var(0).sum() / len(batches)
    plain = np.array([((losses[b, :1] - losses[b, 1:]) * z[b, 0] / 2).mean(0) for b in batches])
    assert ours.var(0).sum() < 0.6 * plain.var(0).sum()


def test_a_covariance_does_not_see_a_constant():
    rng = np.random.default_rng(3)
    losses, z = rng.normal(size=(8, 2, 3)), rng.normal(size=(8, 2, 3, 5))
    np.testing.assert_allclose(covariance(losses + 100, z), covariance(losses, z), atol=1e-12)


def test_a_covariance_is_right_on_average_with_two_pairs_too():
    z = np.random.default_rng(4).normal(size=(2, 2, 20_000, 1))
    assert covariance(z[..., 0] + 3, z).mean() == pytest.approx(1, abs=0.04)


def test_half_the_draws_are_a_start_and_the_end_is_the_same_bytes(tmp_path):
    task = Additive()
    whole = reference(task, 3, **SMALL | {"draws": 128})
    half = reference(task, 3, **SMALL | {"draws": 64})
    on = reference(task, 3, **SMALL | {"draws": 128}, start=half)
    first, second = (array_bytes(Store(tmp_path / n).save(r)) for n, r in (("a", whole), ("b", on)))
    assert first == second
    for wrong in ({"seed": 1}, {"sigmas": (0.5,)}):
        with pytest.raises(GradprobeError, match="another question"):
            reference(task, 3, **SMALL | {"draws": 128} | wrong, start=half)
    with pytest.raises(GradprobeError, match="fewer draws"):
        reference(task, 3, **SMALL | {"draws": 64}, start=half)


def test_the_bytes_do_not_depend_on_workers_or_on_being_stopped(tmp_path):
    sizes = SMALL | {"images": 19, "draws": 64}
    whole = reference(Additive(), 3, **sizes, workers=1)

    class Stop(Exception):
        pass

    def stop(what, done, total):
        if done == 2:
            raise Stop

    with pytest.raises(Stop):
        reference(Additive(), 3, **sizes, workers=2, folder=tmp_path / "p", progress=stop)
    seen = []
    again = reference(
        Additive(), 3, **sizes, workers=2, folder=tmp_path / "p", progress=lambda what, done, total: seen.append(done)
    )
    assert seen[0] == 3  # the first two pieces were kept
    one, two = (array_bytes(Store(tmp_path / n).save(r)) for n, r in (("a", whole), ("b", again)))
    assert one == two


def test_an_image_has_the_same_draws_in_any_company():
    five = reference(Additive(), 3, **SMALL | {"images": 5})
    nine = reference(Additive(), 3, **SMALL | {"images": 9})
    np.testing.assert_array_equal(five.parts, nine.parts[:, :, :5])


def test_the_deployed_loss_of_many_rows_is_that_of_each():
    task = Toy()
    (batch,) = task.batches(1, 3, 0)
    scores = torch.randn(20, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    images = torch.arange(20) % 3
    losses, kept = deployed_losses(task, batch, 4, scores, images)
    assert (kept.sum(-1) == 4).all()
    for row, i, loss in zip(scores, images.tolist(), losses, strict=True):
        one = batch.subset(slice(i, i + 1))
        assert torch.allclose(loss, task.losses(hard_topk(one.tokens.patches, row[None], 4), one)[0], atol=1e-12)


def test_scorer_gradients_of_groups_add_up_to_that_of_the_mean():
    task = Toy()
    (batch,) = task.batches(1, 10, 0)
    u = torch.randn(2, 10, 10, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    rows = group_gradients(task, batch, u, 4, workers=2)
    parameters = list(task.scorer.parameters())
    for v in range(2):
        grads = torch.autograd.grad((task.scorer(batch.tokens.patches) * u[v]).sum() / 10, parameters)
        whole = torch.cat([g.reshape(-1) for g in grads])
        assert torch.allclose(rows[:, v].sum(0), whole, atol=1e-12)
    apart, _ = own_products(rows)
    assert apart[0, 1] == pytest.approx(float((rows[0, 0] @ rows[1, 1] + rows[0, 1] @ rows[1, 0]) / 2))
    assert products(rows[:, 0], rows[:, 1])[2, 3] == pytest.approx(float(rows[2, 0] @ rows[3, 1]))


def test_held_out_losses_after_a_step_are_those_of_a_moved_scorer():
    task = Toy()
    (batch,) = task.batches(1, 11, 0)
    around = HeldOut.of(task, batch, 4, (0.1, 0.3, 1.0), 2)
    theta = torch.cat([p.detach().reshape(-1) for p in task.scorer.parameters()])
    g = torch.randn(len(theta), generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    after = around.after(g)
    before = {n: p.clone() for n, p in task.scorer.named_parameters()}
    for e, eta in enumerate((0.1, 0.3, 1.0)):
        moved = Toy()
        torch.nn.utils.vector_to_parameters(theta - eta * theta.norm() * g / g.norm(), moved.scorer.parameters())
        scores = moved.scorer(batch.tokens.patches).detach()
        wanted, _ = deployed_losses(task, batch, 4, scores, torch.arange(11))
        np.testing.assert_allclose(after[e], wanted.numpy(), atol=1e-12)
    assert all((after[e] != after[e - 1]).any() for e in (1, 2)) and (after[0] != around.losses).any()
    assert all(torch.equal(before[n], p) for n, p in task.scorer.named_parameters())


def test_images_whose_kept_set_stays_are_not_evaluated_again(monkeypatch):
    from gradprobe.probes.fidelity import descent

    task, rows, original = Toy(), [], descent.deployed_losses
    (batch,) = task.batches(1, 6, 0)
    around = HeldOut.of(task, batch, 4, (1e-12, 1e-11), 1)
    monkeypatch.setattr(descent, "deployed_losses", lambda *a: rows.append(len(a[3])) or original(*a))
    g = torch.ones(sum(p.numel() for p in task.scorer.parameters()), dtype=torch.float64)
    assert (around.after(g) == around.losses).all() and not rows
    assert (around.after(0 * g) == around.losses).all() and not rows  # no direction, no step


def test_what_is_not_finite_is_refused_with_its_image():
    with pytest.raises(GradprobeError, match="image ids 2"):
        reference(Additive(poison=2), 3, **SMALL)


def test_generators_scorer_and_files_are_left_as_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    task, state, threads = Additive(), torch.get_rng_state(), torch.get_num_threads()
    before = {n: p.clone() for n, p in task.scorer.named_parameters()}
    reference(task, 3, **SMALL)
    assert torch.equal(state, torch.get_rng_state()) and torch.get_num_threads() == threads
    assert all(torch.equal(before[n], p) and p.grad is None for n, p in task.scorer.named_parameters())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"draws": 33}, "multiple of 32, such as 64"),
        ({"draws": 0}, "--draws 0"),
        ({"images": 2}, "--images 2"),
        ({"held_out": 1}, "--held-out 1"),
        ({"sigmas": ()}, "--sigma"),
        ({"sigmas": (0.1, -1.0)}, "--sigma -1 is not possible; give a positive number"),
        ({"sigmas": 0.3}, "--sigma 0.3 is not possible; give positive numbers"),
        ({"ladder": []}, "--ladder .* give positive numbers"),
        ({"sigmas": (float("nan"),)}, "--sigma nan"),
        ({"ladder": (0.0,)}, "--ladder 0"),
        ({"scores": "scoer"}, "did you mean 'scorer'"),
    ],
)
def test_impossible_numbers_are_refused(asked, words):
    with pytest.raises(UsageError, match=words):
        reference(Additive(), 3, **SMALL | asked)


def test_keeping_all_is_refused():
    with pytest.raises(UsageError, match="keeps every token"):
        reference(Additive(), 10, **SMALL)
    with pytest.raises(UsageError, match="k=1 keeps every token, so no score matters; give images with more tokens"):
        reference(Toy(n_tokens=1), 1, **SMALL)


def test_random_scores_name_no_scorer():
    asked = question_of(REFERENCE, Subject(Additive(), None, 3), ReferenceSettings(**SMALL, scores="random"))
    assert not {"scorer", "ladder", "held_out"} & asked.keys()
    found = reference(Additive(), 3, **SMALL | {"scores": "random"})
    assert found.held.size == 0 and found.theta_bb.shape == (2, 0, 0)
    assert found.spread.mean() == pytest.approx(1, abs=0.4)
