"""Fidelity: does an operator's gradient point where the deployed hard top-K gets better?"""

import time
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradprobe.core import AnyOperator, Batch, Noise, Task
from gradprobe.deferred import deferring
from gradprobe.errors import UsageError, in_words
from gradprobe.operators import registry
from gradprobe.probes.contract import Budget, Reporting, Resources, Subject, Threads, check_same, question_of
from gradprobe.probes.determinism import Recorder, declared_stochastic, repeats
from gradprobe.probes.environment import environment
from gradprobe.probes.fidelity import PROBE, REFERENCE, FidelitySettings, NoiseDraws, ReferenceSettings
from gradprobe.probes.fidelity.descent import HeldOut, group_gradients, groups_for, own_products, products
from gradprobe.probes.fidelity.reference import images_of, scores_of
from gradprobe.probes.fidelity.reference import measure as measure_reference
from gradprobe.probes.fidelity.reference_result import ReferenceResult
from gradprobe.probes.fidelity.result import FidelityResult
from gradprobe.probes.gradients import centred, score_gradient
from gradprobe.probes.rounding import rounding_of
from gradprobe.settings import argument, settings_from, takes
from gradprobe.statistics.agreement import FOLDS, different, products_of
from gradprobe.training.memory import Limit
from gradprobe.training.workers import groups_of, over_groups, workers_for

Array = NDArray[np.float64]
_Item = tuple[int, Tensor, Batch, Tensor]  # draw; places of the images; the images; their scores


@dataclass(frozen=True, kw_only=True)
class Arguments(Reporting, Threads, NoiseDraws, Budget):
    """Keyword arguments of `fidelity`; the reference says all the rest."""

    reference: ReferenceResult | None = argument(
        None,
        "Reference of the same task, as `gradprobe.reference` makes it: it decides K, the images, the sigmas and the "
        "steps, and several operators share it. None: one of its default settings is made, for ``k`` or ``keep``.",
        keyword=False,
    )
    k: int | None = argument(None, "Tokens kept, 1..N-1, where no reference is given.")
    keep: float | None = argument(None, "Tokens kept as a share of N, in (0, 1), where no reference is given.")


@takes(Arguments)
def fidelity(task: Task, operator: AnyOperator, given: Arguments) -> FidelityResult:
    """Compare an operator's mean gradient with that of the smoothed deployed objective, and step along it.

    In the scores, image by image: ``cos = <a, b> / (|a| |b|)`` with a the operator's gradient and b the reference's,
    from products of different draws alone, so that noise does not make it smaller. The same after the scorer's
    backward, ``(1/I) sum_i J_i^T a_i``. And the deployed loss of held-out images after steps along that.

    Returns:
        A result whose ``row()`` gives the table's numbers.

    Raises:
        UsageError: a number outside what is possible.
        GradprobeError: a loss or gradient that is not finite, an operator that breaks its contract, or a reference of
            another task.
    """
    reference = given.reference
    if reference is None:
        subject, settings = Subject.of(task, operator, given), FidelitySettings(noise_draws=given.noise_draws)
        return measure(subject, settings, Resources.of(given))
    if not isinstance(reference, ReferenceResult):
        raise UsageError(
            f"{in_words(reference)} is no reference; give reference=gradprobe.reference(task, k=58), or k=58 alone"
        )
    if given.k is not None or given.keep is not None:
        raise UsageError("a reference says its K; give either reference= or one of k= and keep=")
    subject = Subject(task, registry.build(operator), reference.question["k"])
    same = settings_from(ReferenceSettings, reference.question)
    return measure(subject, FidelitySettings(**vars(same), noise_draws=given.noise_draws), Resources.of(given))


def measure(subject: Subject, settings: FidelitySettings, resources: Resources) -> FidelityResult:
    """Answer the question of a subject and settings, see `fidelity`."""
    question = question_of(PROBE, subject, settings)
    reference = _reference(subject, settings, resources)
    task, threads = subject.task, workers_for(subject.task, resources.workers)
    started = time.perf_counter()
    with task.running():
        batch, held = images_of(task, settings)
        scores = scores_of(task, batch, settings)
        with deferring():
            u = score_gradients(subject, batch, scores, settings, resources)
        first = groups_of(batch)[0]
        noise = Noise(settings.seed, first.ids, generator=task.generator)
        rounding = rounding_of(subject, first, scores[: len(first.ids)], noise)
        parts = reference.gradients
        mean, middle = parts.mean(1), centred(u)
        raw, own = (x.double().numpy() for x in (u, middle))
        gradient = "yes" if raw.any() else "none"
        if gradient == "yes" and settings.scores == "scorer":
            around = HeldOut(task, tuple(groups_of(held)), subject.k, tuple(reference.ladder), threads, reference.held)
            in_parameters = _in_parameters(subject, batch, (u, middle), reference, around, resources)
        else:
            in_parameters = _nothing(reference)
    return FidelityResult(
        question=question, gradient=gradient, ids=reference.ids, sigmas=reference.sigmas,
        ab=(raw.mean(0) * mean).sum(-1), aa=np.stack([different(products_of(x)) for x in (raw, own)]),
        power=np.stack([np.square(x).sum(-1).mean(0) for x in (raw, own)]),
        bb=np.stack([different(products_of(x)) for x in parts]), **in_parameters, ladder=reference.ladder,
        held=reference.held, ceiling=reference.after, losses=reference.losses, spread=reference.spread,
        environment=environment(time.perf_counter() - started, task.skipped), rounding=rounding,
    )  # fmt: skip


def _reference(subject: Subject, settings: FidelitySettings, resources: Resources) -> ReferenceResult:
    """Return the reference: the one given, else the stored one, else a new one.

    Raises:
        GradprobeError: the one given is of another task, or of other settings.
    """
    unselected, own = Subject(subject.task, None, subject.k), settings.reference
    if resources.reference is not None:
        check_same(question_of(REFERENCE, unselected, own), resources.reference.question)
        return resources.reference
    if resources.ask is not None:
        return resources.ask(REFERENCE, unselected, own)
    return measure_reference(unselected, own, resources)


def score_gradients(
    subject: Subject, batch: Batch, scores: Tensor, settings: FidelitySettings, resources: Resources
) -> Tensor:
    """Return the operator's gradients in the scores, ``(R, I, N)`` on the CPU; zeros where there is none.

    R is 1 if two draws are the same, bit for bit.
    """
    task, operator, k, name = subject.task, subject.operator, subject.k, subject.name
    groups, draws, limit = groups_of(batch), settings.noise_draws, Limit()
    threads, size = workers_for(task, resources.workers), len(groups[0].ids)
    recorder = None if declared_stochastic(operator) else Recorder(operator)
    u = torch.empty(draws, *scores.shape, dtype=scores.dtype, device=scores.device)
    done = 0

    def work(item: _Item) -> Tensor:
        r, places, group, own = item
        acting = recorder if recorder is not None and r == int(places[0]) == 0 else operator
        noise = Noise(settings.seed, group.ids, generator=task.generator).draw(r)
        with torch.enable_grad():
            gradient = score_gradient(task, acting, k, group, own, noise, f"{name} (draw {r + 1})").u
        return torch.zeros_like(own) if gradient is None else gradient

    def measure_draws(some: range) -> None:
        nonlocal done
        parts = list(zip(torch.arange(len(scores)).split(size), groups, scores.split(size), strict=True))
        items = [(r, *part) for part in parts for r in some]
        for (r, places, group, _), gradient in over_groups(work, items, threads, limit):
            start = int(places[0])
            u[r, start : start + len(group.ids)] = gradient
            done += len(group.ids)
            resources.report(f"{name}: gradients", done, draws * len(scores))

    if recorder is None:
        measure_draws(range(draws))
    else:
        measure_draws(range(1))
        if repeats(recorder, f"{name} (draw 1)"):
            draws = 1
            resources.report(f"{name}: gradients", done, done)
        measure_draws(range(1, draws))
    return u[:draws].cpu()


def _in_parameters(
    subject: Subject,
    batch: Batch,
    gradients: tuple[Tensor, Tensor],
    reference: ReferenceResult,
    around: HeldOut,
    resources: Resources,
) -> dict[str, Array]:
    """Return the same products between the scorer's gradients of groups of images, and steps along the operator's.

    Args:
        subject: whose operator's gradients they are.
        batch: images whose gradients are compared.
        gradients: in the scores, raw and centred, each ``(R, I, N)``.
        reference: to compare with.
        around: held-out images.
        resources: for the progress.
    """
    task, threads, (raw, middle) = subject.task, around.workers, gradients
    groups = groups_for(task, len(batch.ids))
    mean = reference.gradients.mean(1)
    sigmas = len(mean)
    folds = [torch.stack([x[f::FOLDS].mean(0) for f in range(min(FOLDS, len(x)))]) for x in gradients]
    tolerance = 1e-6 * float(raw.abs().max())
    same = torch.allclose(raw, middle, rtol=0, atol=tolerance)  # no common mode: one backward for both
    stages = sigmas + 2

    def report(done: int) -> None:
        resources.report(f"{subject.name}: scorer", done, stages)

    rows = [group_gradients(task, batch, folds[0], groups, threads)]
    report(1)
    rows.append(rows[0] if same else group_gradients(task, batch, folds[1], groups, threads))
    ab = np.zeros((2, sigmas, groups, groups))
    for s, each in enumerate(mean):
        report(2 + s)
        other = group_gradients(task, batch, torch.from_numpy(each)[None], groups, threads)[:, 0]
        for c, own in enumerate(rows):
            ab[c, s] = products(own.mean(1), other)
    after = around.after(rows[0].mean(1).sum(0))
    report(stages)
    aa, noise = zip(*map(own_products, rows), strict=True)
    return {
        "theta_ab": ab,
        "theta_aa": np.stack(aa),
        "theta_bb": reference.theta_bb,
        "theta_noise": np.array([*noise, *reference.theta_noise]),
        "after": after,
    }


def _nothing(reference: ReferenceResult) -> dict[str, Array]:
    """Return empty fields in parameters, for an operator without a gradient or scores without a scorer."""
    s, held = len(reference.sigmas), len(reference.held)
    return {
        "theta_ab": np.zeros((2, s, 0, 0)),
        "theta_aa": np.zeros((2, 0, 0)),
        "theta_bb": np.zeros((s, 0, 0)),
        "theta_noise": np.zeros(2 + s),
        "after": np.zeros((0, held)),
    }
