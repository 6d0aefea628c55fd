"""The probe end to end: the exact gradient has cosine 1, and what each number is."""

from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import torch
from additive import Additive, smoothed_gradient
from stored import array_bytes
from toy import Toy

from gradprobe.core import Noise, Selection
from gradprobe.errors import GradprobeError, UsageError
from gradprobe.operators import registry
from gradprobe.operators.softtopk import soft_topk
from gradprobe.probes.contract import Subject, question_of
from gradprobe.probes.fidelity import PROBE, REFERENCE, FidelitySettings, ReferenceSettings
from gradprobe.probes.fidelity.descent import own_products, products
from gradprobe.probes.fidelity.measure import fidelity
from gradprobe.probes.fidelity.reference import images_of, reference, scores_of
from gradprobe.probes.gradients import centred, score_gradient
from gradprobe.probes.opened import OpenTasks, answered
from gradprobe.settings import settings_from
from gradprobe.statistics.agreement import different, products_of
from gradprobe.store.results import Store
from gradprobe.tasks import classification

SMALL = {"draws": 32, "images": 6, "held_out": 5, "sigmas": (0.3, 1.0), "ladder": (0.01, 0.1)}


@dataclass(frozen=True)
class Exact:
    """An operator for `Additive` whose gradient is that of the smoothed loss, plus what is said."""

    sigma: float = 1.0
    noise: float = 0.0
    shift: float = 0.0
    scale: float = 1.0

    def __call__(self, patches, scores, k, noise):
        found = [
            smoothed_gradient(s, c, k, self.sigma)
            for s, c in zip(scores.detach().numpy(), patches[..., 0].numpy(), strict=True)
        ]
        gradient = self.scale * torch.tensor(np.stack(found)) + self.shift
        gradient = gradient + self.noise * noise.normal(scores.shape[1:], like=scores)
        costs = patches[..., 0]
        weights = gradient / costs * (scores - scores.detach())  # times the costs, summed: the gradient is as built
        return Selection(patches, weights)


@pytest.fixture(scope="module")
def additive():
    return reference(Additive(), 3, draws=256, images=32, held_out=64, sigmas=(1.0,), ladder=(0.01, 0.1))


@pytest.fixture(scope="module")
def toy():
    return reference(Toy(), 4, **SMALL)


def at(result, s=0):
    return result.row()["sigmas"][s]


@pytest.mark.parametrize(("noise", "shift"), [(0.0, 0.0), (1.0, 0.0), (1.0, 0.3)])
def test_the_exact_gradient_has_cosine_one(additive, noise, shift):
    found = at(fidelity(Additive(), Exact(noise=noise, shift=shift), additive, noise_draws=8))
    assert found["centred_low"] <= 1 <= found["centred_high"]
    assert found["centred_high"] - found["centred_low"] < 0.2
    assert found["theta_centred"] == pytest.approx(1, abs=0.1)
    assert (found["cosine_high"] < 1) == bool(shift)  # a common mode is no part of the truth


def test_its_opposite_has_minus_one_and_an_unrelated_one_none(additive):
    back = at(fidelity(Additive(), Exact(scale=-1), additive))
    assert back["cosine_low"] <= -1 <= back["cosine_high"] < -0.9

    def unrelated(patches, scores, k, noise):
        fixed = Noise(9, noise.ids).normal(scores.shape[1:], like=scores)
        return Selection(patches, fixed / patches[..., 0] * (scores - scores.detach()))

    found = at(fidelity(Additive(), unrelated, additive))
    assert found["cosine_low"] < 0 < found["cosine_high"] < 0.5


def test_bias_is_that_of_the_length_too(additive):
    one, three = (at(fidelity(Additive(), Exact(scale=c), additive)) for c in (1, 3))
    assert one["bias2_low"] < 0.02 and one["bias2_high"] > 0
    assert three["bias2"] == pytest.approx(4, rel=0.3)
    assert three["scale"] == pytest.approx(1 / 3, rel=0.1)


def test_the_loss_falls_along_it_and_rises_against_it(additive):
    down = fidelity(Additive(), Exact(), additive).row(baseline=fidelity(Additive(), Exact(scale=-1), additive))
    assert all(step["rate"] > 0 for step in down["ladder"])
    assert down["ladder"][1]["rate_low"] > 0 and down["ladder"][1]["rate_difference_low"] > 0
    assert down["ladder"][1]["ceilings"][0]["rate"] == pytest.approx(down["ladder"][1]["rate"], rel=0.2)
    assert down["sigmas"][0]["cosine_difference"] == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("spec", ["gumbel", "gumbel-ste+zero", "vpnoise", "softtopk", "scale"])
def test_products_are_those_of_plain_gradients(toy, spec):
    task, operator = Toy(), registry.build(spec)
    found = fidelity(task, operator, toy, noise_draws=8)
    settings = settings_from(ReferenceSettings, found.question)
    batch, _ = images_of(task, settings)
    scores = scores_of(task, batch, settings)
    draws = [score_gradient(task, operator, 4, batch, scores, Noise(0, batch.ids).draw(r), spec).u for r in range(8)]
    deterministic = torch.equal(draws[0], draws[1])
    u = torch.stack(draws[:1] if deterministic else draws)
    for c, each in enumerate((u, centred(u))):
        np.testing.assert_allclose(found.aa[c], different(products_of(each.numpy())), rtol=1e-6, atol=1e-15)
        np.testing.assert_allclose(found.power[c], each.square().sum(-1).mean(0), rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(found.ab, (u.mean(0).numpy() * toy.gradients.mean(1)).sum(-1), rtol=1e-6, atol=1e-12)
    parameters = list(task.scorer.parameters())

    def gradient(x):
        grads = torch.autograd.grad((task.scorer(batch.tokens.patches) * x).sum() / 6, parameters)
        return torch.cat([g.reshape(-1) for g in grads])

    a, b = gradient(u.mean(0)), gradient(torch.tensor(toy.gradients.mean(1)[1]))
    assert found.theta_ab[0, 1].sum() == pytest.approx(float(a @ b), rel=1e-6)
    if deterministic:
        assert found.theta_aa[0].sum() == pytest.approx(float(a @ a), rel=1e-6)


@pytest.mark.parametrize("spec", ["hard", "random+zero"])
def test_no_gradient_is_a_finding(toy, spec):
    found = fidelity(Toy(), registry.build(spec), toy, noise_draws=3)
    row = found.row(baseline=fidelity(Toy(), registry.build("softtopk"), toy))
    assert row["gradient"] == "none"
    assert all(s["cosine"] is None and s["cosine_difference"] is None for s in row["sigmas"])
    assert all(step["rate"] is None for step in row["ladder"])


def test_the_bytes_do_not_depend_on_workers(toy, tmp_path):
    found = [fidelity(Toy(), registry.build("vpnoise"), toy, noise_draws=3, workers=w) for w in (1, 2)]
    one, two = (array_bytes(Store(tmp_path / n).save(r)) for n, r in zip("ab", found, strict=True))
    assert one == two


@pytest.fixture
def threads():
    """Set the threads that torch has, as OMP_NUM_THREADS does."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_products_are_the_same_bytes_on_any_number_of_threads(threads):
    """BLAS splits a long sum among threads: as many parameters as a real scorer has."""
    rows = torch.randn(8, 3, 1 << 17, generator=torch.Generator().manual_seed(0))
    found = []
    for count in (1, 2):
        threads(count)
        gram, noise = own_products(rows)
        found.append(gram.tobytes() + np.float64(noise).tobytes() + products(rows[:, 0], rows[:, 1]).tobytes())
        assert torch.get_num_threads() == count
    assert found[0] == found[1]


def test_the_bytes_do_not_depend_on_torchs_threads(threads, tmp_path):
    """The whole answer on the scenes, reference included; 57 000 parameters, several products at once."""
    found = []
    for count in (1, 2):
        threads(count)
        task = classification("scenes")
        made = reference(task, 20, draws=32, images=4, held_out=4, sigmas=(0.3,), ladder=(0.01,))
        answers = (made, fidelity(task, registry.build("vpnoise"), made, noise_draws=3))
        found.append([array_bytes(Store(tmp_path / str(count)).save(r)) for r in answers])
    assert found[0] == found[1]


def test_random_scores_have_no_parameters():
    shared = reference(Toy(), 4, **SMALL | {"scores": "random"})
    row = fidelity(Toy(), registry.build("softtopk"), shared).row()
    assert row["ladder"] == [] and "theta" not in row["sigmas"][0]
    assert row["held_loss"] is None and row["sigmas"][1]["cosine"] is not None


def test_operators_share_the_reference_and_only_it(toy):
    task, settings = Toy(), [FidelitySettings(**SMALL, noise_draws=n) for n in (3, 8)]
    operators = [registry.build(op) for op in ("vpnoise", "gumbel")]
    asked = [question_of(PROBE, Subject(task, op, 4), s) for op, s in zip(operators, settings, strict=True)]
    assert asked[0] != asked[1]
    for question in asked:
        assert {**question, "probe": "reference", "op": None, "noise_draws": None} == {
            **toy.question, "op": None, "noise_draws": None
        }  # fmt: skip
    assert [question_of(REFERENCE, Subject(task, None, 4), s.reference) for s in settings] == 2 * [toy.question]


def test_what_cannot_be_compared_is_refused(toy):
    with pytest.raises(UsageError, match="--noise-draws 2"):
        fidelity(Toy(), registry.build("vpnoise"), toy, noise_draws=2)
    with pytest.raises(GradprobeError, match="the question is about"):
        fidelity(Additive(), registry.build("vpnoise"), toy)
    other = reference(Toy(), 4, **SMALL | {"seed": 1})
    one, two = (fidelity(Toy(), registry.build("softtopk"), r) for r in (toy, other))
    two = type(two)(**{**vars(two), "held": two.held + 1})
    with pytest.raises(UsageError, match="the same images"):
        one.row(baseline=two)
    with pytest.raises(GradprobeError, match="not finite"):
        fidelity(Toy(poison=3), registry.build("vpnoise"), toy, noise_draws=3)


def test_asking_answers_what_is_needed_first_and_once(tmp_path):
    asked = {
        "probe": "fidelity", "op": "lapsum+scale", "k": 20, "images": 3, "draws": 32, "sigmas": "1",
        "scores": "random", "noise_draws": 3, "seed": 0, "backbone": "scenes", "weights": "random:0",
        "data": "scenes", "dtype": "float32", "loss": "ce", "layer": 0,
    }  # fmt: skip
    store = Store(tmp_path)
    first = answered(asked, {}, [store], OpenTasks())
    assert sorted(p.name.partition("-")[0] for p in tmp_path.iterdir()) == ["fidelity", "reference"]
    kept = next(tmp_path.glob("reference/*.npz")).stat().st_mtime_ns
    second = answered(asked | {"op": "lapsum+attention"}, {}, [store], OpenTasks())
    assert next(tmp_path.glob("reference/*.npz")).stat().st_mtime_ns == kept
    np.testing.assert_array_equal(first.result.bb, second.result.bb)
    assert not answered(asked, {}, [store], OpenTasks()).computed


def cosine_of(a, b):
    return float((a * b).sum() / np.sqrt(np.square(a).sum() * np.square(b).sum()))


@cache
def many_tokens(n):
    """Scores and costs of N tokens, and the exact gradient at sigma = 1."""
    rng = np.random.default_rng(n)
    s, costs = 2 * rng.normal(size=n), rng.normal(size=n)
    return s, costs, smoothed_gradient(s, costs, 3 * n // 8, 1.0)


def probit(n, tau, cdf="gaussian"):
    """Cosine and ratio of lengths of a relaxation's gradient and the smoothed one's, for an additive loss."""
    s, costs, true = many_tokens(n)
    leaf = torch.tensor(s, requires_grad=True)
    (soft_topk(leaf, 3 * n // 8, tau, cdf=cdf) * torch.tensor(costs)).sum().backward()
    found = leaf.grad.numpy()
    return cosine_of(found, true), np.linalg.norm(found) / np.linalg.norm(true)


def test_a_probit_relaxation_at_tau_sigma_is_the_smoothed_objective_of_many_tokens():
    """Where the loss is additive, mean field is exact as N grows: ``P(i is kept) -> Phi((s_i - b) / sigma)``."""
    few, many = probit(8, 1.0), probit(32, 1.0)
    assert 1 - many[0] < 3e-4 < 1e-3 < 1 - few[0]
    assert many[1] == pytest.approx(1, abs=0.02)
    assert all(probit(32, tau)[0] < many[0] for tau in (0.5, 0.7, 1.4, 2.0))


def test_other_relaxations_match_at_taus_of_their_own():
    """The temperature of the largest overlap of densities: 0.628 sigma for the logistic one, 1.08 for Laplace."""
    for cdf, best, least in (("logistic", 0.628, 0.999), ("laplace", 1.08, 0.98)):
        at = probit(32, best, cdf)[0]
        assert at > least
        assert all(probit(32, factor * best, cdf)[0] < at for factor in (0.4, 2.5))
