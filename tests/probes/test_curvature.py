"""Curvature on the toy task against the dense Hessian, the operators that have none, and the command."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import typer
from stored import array_bytes
from torch import nn
from torch.func import functional_call
from toy import Toy

import gradprobe as gp
from gradprobe.core import Noise, Selection
from gradprobe.errors import GradprobeError, UsageError
from gradprobe.operators import registry
from gradprobe.probes.curvature import measure as probe
from gradprobe.probes.curvature.measure import curvature
from gradprobe.probes.opened import OpenTasks
from gradprobe.store.results import Store

SIZES = {"images": 4, "batch_size": 4, "eigenvalues": 4, "samples": 3, "tolerance": 1e-4}
SMOOTH = [f"lapsum+{throttle}" for throttle in registry.names("throttle") if throttle != "zero"]
SMOOTH += ["lapsum:tau=0.1+vpnoise", "logistic+gather", "logistic:tau=0.1+scale"]
SURROGATES = [
    "gumbel",
    "gumbel:backward=soft",
    "gumbel:scale=0",
    "gumbel-ste+scale",
    "gumbel-ste+vpnoise",
    "lapsum+zero",
]


def dense_hessian(task, spec, k):
    """The same Hessian without products: every second derivative by torch, of all images in one batch."""
    (batch,) = task.batches(1, SIZES["images"], 0)
    named = dict(task.scorer.named_parameters())

    def loss(theta):
        pieces = theta.split([p.numel() for p in named.values()])
        point = {n: x.view_as(p) for (n, p), x in zip(named.items(), pieces, strict=True)}
        scores = functional_call(task.scorer, point, (batch.tokens.patches,))
        selection = registry.build(spec)(batch.tokens.patches, scores, k, noise=Noise(0, batch.ids))
        return task.losses(selection, batch).mean()

    theta = torch.cat([p.detach().reshape(-1) for p in named.values()])
    return torch.autograd.functional.hessian(loss, theta).numpy(), float(loss(theta))


@pytest.mark.parametrize("spec", SMOOTH)
def test_eigenvalues_residuals_and_trace_are_those_of_the_dense_hessian(spec):
    result = curvature(Toy(), registry.build(spec), 4, **SIZES)
    dense, loss = dense_hessian(Toy(), spec, 4)
    values = np.linalg.eigvalsh(dense)
    values = values[np.argsort(-np.abs(values))][: SIZES["eigenvalues"]]
    assert result.reason == ""
    assert result.loss == pytest.approx(loss, rel=1e-12)
    assert np.allclose(result.eigenvalues, values, rtol=1e-6, atol=0)
    assert (result.residuals < 10 * SIZES["tolerance"]).all()
    rng = np.random.default_rng(0)
    signs = rng.choice([-1.0, 1.0], (SIZES["samples"], len(dense)))
    assert np.allclose(result.trace_samples, np.einsum("si,ij,sj->s", signs, dense, signs), rtol=1e-6, atol=1e-12)
    assert max(result.checks.values()) < 1e-3


def test_the_trace_interval_holds_the_trace():
    dense, _ = dense_hessian(Toy(), "scale", 4)
    row = curvature(Toy(), registry.build("scale"), 4, **{**SIZES, "samples": 20}).row()
    assert row["trace_low"] < np.trace(dense) < row["trace_high"]
    assert row["trace_high"] - row["trace_low"] < np.abs(dense).sum()
    assert row["hessian"] == "yes"
    assert row["eigenvalues"] == sorted(row["eigenvalues"], key=abs, reverse=True)


@pytest.mark.parametrize("spec", ["hard", "hard+scale", "random+gather", "random+vpnoise"])
def test_without_a_gradient_there_is_no_hessian(spec):
    row = curvature(Toy(), registry.build(spec), 4, **SIZES).row()
    assert row["hessian"] == "no gradient reaches the scorer"
    assert row["eigenvalues"] == row["residuals"] == []
    assert row["trace"] is row["gradient_error"] is None
    assert np.isfinite(row["loss"])


@pytest.mark.parametrize("spec", SURROGATES)
def test_a_straight_through_gradient_is_not_differentiated(spec):
    result = curvature(Toy(), registry.build(spec), 4, **SIZES)
    assert "surrogate" in result.reason
    assert result.checks["gradient_error"] > 0.1
    assert result.environment["products"] == 0


def scaled(weights_of):
    """An operator from scores to weights."""
    return lambda patches, scores, k, noise: Selection(patches * weights_of(scores)[..., None], weights_of(scores))


class Wrong(torch.autograd.Function):
    """A sigmoid with the right gradient, in which backward hides from autograd where it came from."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sigmoid()

    @staticmethod
    def backward(ctx, grad):
        y = ctx.saved_tensors[0].detach().sigmoid()
        return grad * y * (1 - y)


class Once(Wrong):
    """The same, and marked so; torch.autograd.grad does not look at the mark where it lies off its way."""

    backward = staticmethod(torch.autograd.function.once_differentiable(Wrong.backward))


class Never(Wrong):
    """The same, and says so."""

    @staticmethod
    def backward(ctx, grad):
        if torch.is_grad_enabled():
            raise RuntimeError("I am differentiable once")
        return Wrong.backward(ctx, grad)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (Wrong, "its second derivative is not that of its gradient"),
        (Once, "its second derivative is not that of its gradient"),
        (Never, "its gradient cannot be differentiated: I am differentiable once"),
    ],
)
def test_a_gradient_without_a_true_derivative_is_found_out(function, said):
    result = curvature(Toy(), scaled(function.apply), 4, **SIZES)
    assert result.checks["gradient_error"] < 1e-3
    assert said in result.reason
    plain = curvature(Toy(), scaled(torch.sigmoid), 4, **SIZES)
    assert plain.reason == ""


def test_a_score_function_gradient_is_not_that_of_the_loss():
    def sampled(patches, scores, k, noise):
        kept = (scores + noise.gumbel(scores.shape[1:], like=scores)).argmax(-1, keepdim=True)
        tokens = patches.gather(1, kept[..., None].expand(-1, -1, patches.shape[-1]))
        weights = torch.zeros_like(scores).scatter(1, kept, 1.0)
        return Selection(tokens, weights, index=kept, log_prob=scores.log_softmax(-1).gather(1, kept)[:, 0])

    assert "surrogate" in curvature(Toy(), sampled, 1, **SIZES).reason


def test_a_second_derivative_that_overflows_is_no_hessian():
    def bent(scores):
        return 1 + (scores - scores.detach()).abs() ** 1.5  # first derivative 0 at 0, second infinite

    result = curvature(Toy(), scaled(lambda s: bent(s) + 0.1 * s), 4, **SIZES)
    assert "overflows" in result.reason


def test_a_loss_without_bend_has_zero_eigenvalues():
    class Straight(Toy):
        def losses(self, selection, batch):
            return selection.tokens.sum((1, 2))

    task = Straight(scorer=torch.nn.Sequential(torch.nn.Linear(5, 1), torch.nn.Flatten(-2)).double())
    result = curvature(task, scaled(lambda s: s), 4, **SIZES)
    assert result.reason == ""
    assert not result.eigenvalues.any() and not result.trace_samples.any()


def test_attention_of_the_frozen_model_and_of_the_scorer_differentiates_twice():
    """Fused attention would not; the real blocks of both are in this loss, and float32 does not decide."""
    task = OpenTasks().task(
        {"backbone": "scenes", "weights": "scenes", "layer": 3, "loss": "ce", "seed": 0, "dtype": "float32",
         "scorer": "transformer:depth=1,width=8"}, {},
    )  # fmt: skip
    sizes = {"images": 1, "eigenvalues": 1, "samples": 2, "tolerance": 0.1}
    modes = [m.training for m in task.backbone.model.modules()]
    result = curvature(task, registry.build("vpnoise"), 58, **sizes)
    assert result.reason == ""
    assert result.residuals.max() < 0.2
    assert "surrogate" in curvature(task, registry.build("gumbel"), 58, **sizes).reason
    assert modes == [m.training for m in task.backbone.model.modules()]


def test_the_probe_leaves_scorer_and_generators_as_found():
    task = Toy()
    task.scorer[0].bias.requires_grad_(False)
    before = {n: (p.clone(), p.requires_grad) for n, p in task.scorer.named_parameters()}
    states = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    result = curvature(task, registry.build("vpnoise"), 4, **SIZES)
    for name, p in task.scorer.named_parameters():
        assert torch.equal(before[name][0], p) and p.requires_grad == before[name][1] and p.grad is None
    assert torch.equal(states[0], torch.get_rng_state())
    assert np.array_equal(states[1], np.random.get_state()[1])  # noqa: NPY002
    assert task.scorer.training
    whole = curvature(Toy(), registry.build("vpnoise"), 4, **SIZES)
    assert not np.allclose(result.eigenvalues, whole.eigenvalues)  # a frozen bias is no coordinate


def test_the_same_seed_gives_the_same_bytes_and_loads_equal(tmp_path):
    results = [curvature(Toy(), registry.build("vpnoise"), 4, seed=seed, **SIZES) for seed in (1, 1, 2)]
    folders = [Store(tmp_path / name).save(r) for name, r in zip("abc", results, strict=True)]
    first, again, other = map(array_bytes, folders)
    assert first == again != other
    loaded = Store(tmp_path / "a").load(folders[0])
    assert loaded.row() == results[0].row()
    assert loaded.question == results[0].question


def test_the_noise_is_of_the_tasks_generator():
    class Philox(Toy):
        generator = "philox"

    task = Philox()
    operator = registry.build("vpnoise")
    (batch,) = task.batches(1, SIZES["images"], 0)
    patches, noise = batch.tokens.patches, Noise(0, batch.ids, generator="philox")
    with torch.no_grad():
        expected = float(task.losses(operator(patches, task.scorer(patches), 4, noise=noise), batch).mean())
    assert curvature(task, operator, 4, **SIZES).loss == pytest.approx(expected, rel=1e-6)
    assert curvature(Toy(), operator, 4, **SIZES).loss != pytest.approx(expected, rel=1e-3)


def test_batches_only_split_the_work():
    whole, split = (curvature(Toy(), registry.build("scale"), 4, **{**SIZES, "batch_size": b}) for b in (4, 2))
    assert np.allclose(whole.eigenvalues, split.eigenvalues, rtol=1e-9)
    few = curvature(Toy(), registry.build("scale"), 4, **{**SIZES, "images": 2, "batch_size": 16})
    assert not np.allclose(few.eigenvalues, whole.eigenvalues, rtol=1e-2)


def test_training_moves_the_scorer_and_is_part_of_the_question():
    start, trained = (curvature(Toy(), registry.build("scale"), 4, steps=s, **SIZES) for s in (0, 5))
    assert start.question != trained.question
    assert not np.allclose(start.eigenvalues, trained.eigenvalues, rtol=1e-9)


def test_progress_counts_every_product():
    told = []
    result = curvature(Toy(), registry.build("scale"), 4, progress=lambda *a: told.append(a), **SIZES)
    assert [done for _, done, _ in told] == list(range(1, result.environment["products"] + 1))
    assert all(done <= total for _, done, total in told)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("images", 0, "--images 0"),
        ("images", 7, "--images 7 .* --images 4 or 8"), ("batch_size", 0, "--batch-size 0"),
        ("eigenvalues", 0, "--eigenvalues 0"), ("eigenvalues", 43, "43 is not possible: the scorer has 43 parameters"),
        ("samples", 1, "--samples 1"), ("tolerance", 0.0, "--tolerance 0"), ("tolerance", 1.0, "--tolerance 1"),
        ("steps", -1, "--steps -1"),
    ],
)  # fmt: skip
def test_numbers_that_mean_nothing_are_refused(name, value, said):
    with pytest.raises(UsageError, match=said):
        curvature(Toy(), registry.build("scale"), 4, **{**SIZES, name: value})


def test_bfloat16_is_refused():
    class Coarse(Toy):
        question = {"backbone": "toy", "dtype": "bfloat16"}  # noqa: RUF012

    with pytest.raises(UsageError, match="bfloat16 is too coarse"):
        curvature(Coarse(), registry.build("scale"), 4, **SIZES)


def test_a_loss_that_is_not_finite_is_refused():
    with pytest.raises(GradprobeError, match=r"lapsum\+scale gave a loss that is not finite.*image ids 2\)"):
        curvature(Toy(poison=2), registry.build("scale"), 4, **SIZES)


def test_eigenvalues_that_do_not_converge_are_an_error(monkeypatch):
    monkeypatch.setattr(probe, "RESTARTS", 1)
    with pytest.raises(GradprobeError, match=r"did not converge .*--tolerance"):
        curvature(Toy(), registry.build("logistic+gather"), 4, **{**SIZES, "eigenvalues": 9, "tolerance": 1e-14})


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run the command in an empty folder; gives what it prints."""
    from gradprobe.cli.probe import command
    from gradprobe.probes import probe_of

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    app = typer.Typer()
    app.command()(command(probe_of("curvature")))
    small = "--k=58 --images=1 --eigenvalues=2 --samples=2 --layer=3 --scorer=mlp:width=8 --weights=none"

    def go(*arguments):
        app([*arguments, *small.split()], standalone_mode=False)
        return capsys.readouterr().out

    return go


def test_the_command_prints_stores_and_answers_from_the_store(run, tmp_path):
    out = run("--op", "scale", "--op", "gumbel", "--op", "hard")
    assert max(map(len, out.splitlines())) <= 80
    for words in (
        "RANDOM WEIGHTS",
        "λ2",
        "trace: 95 %, mean",
        "hard+gather: no Hessian: no gradient",
        "stored: runs/curv",
    ):
        assert words in out
    assert "λ3" not in out
    assert len(list(tmp_path.glob("runs/curvature/*.npz"))) == 3
    answer = json.loads(run("--op", "scale", "--op", "gumbel", "--op", "hard", "--json"))
    assert answer["probe"] == "curvature" and answer["settings"]["images"] == 1
    smooth, surrogate, hard = answer["rows"]
    assert smooth["hessian"] == "yes" and len(smooth["eigenvalues"]) == 2
    assert "surrogate" in surrogate["hessian"] and hard["trace"] is None
    assert "from the store" in run("--op", "scale")


def test_the_command_says_what_it_needs(run):
    with pytest.raises(UsageError, match=r"either --k .* or --keep"):
        run("--op", "scale", "--keep", "0.3")


@pytest.mark.filterwarnings("ignore:.*weight_norm.*")  # deprecated, and models still have it
def test_a_scorer_that_holds_a_computed_weight_is_copied_for_the_checks_in_float64():
    class Normed(nn.Module):
        def __init__(self, dim):
            super().__init__()
            self.out = nn.utils.weight_norm(nn.Linear(dim, 1))

        def forward(self, patches):
            return self.out(patches).squeeze(-1)

    task = gp.classification("scenes")
    scorer = Normed(task.backbone.dim)
    scorer(torch.randn(1, 2, task.backbone.dim))  # from now on it holds a weight with a graph
    result = gp.curvature(
        replace(task, scorer=scorer), "logistic+scale", 20, eigenvalues=1, images=2, batch_size=2, samples=2
    )
    assert result.checks["gradient_error"] < 1e-3  # its Hessian is what torch makes of weight normalisation
