"""Fidelity: does an operator's gradient point where the deployed hard top-K gets better?"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradprobe.core import AnyOperator, Batch, Noise, SelectionOperator, Task
from gradprobe.errors import UsageError, in_words
from gradprobe.operators import registry
from gradprobe.probes.fidelity.descent import HeldOut, group_gradients, groups_for, own_products, products
from gradprobe.probes.fidelity.reference import images_of, scores_of, settings_of, task_for
from gradprobe.probes.fidelity.reference import question_of as question_of_reference
from gradprobe.probes.fidelity.reference import reference as make_reference
from gradprobe.probes.fidelity.reference_result import ReferenceResult
from gradprobe.probes.fidelity.result import FidelityResult
from gradprobe.probes.gradients import centred, score_gradient
from gradprobe.probes.questions import Progress, check_counts, check_same, environment, operator_of
from gradprobe.statistics.agreement import FOLDS, different, products_of
from gradprobe.store.results import Store
from gradprobe.training.workers import groups_of, in_threads, workers_for

Array = NDArray[np.float64]


def fidelity(
    task: Task,
    operator: AnyOperator,
    reference: ReferenceResult | None = None,
    *,
    k: int | None = None,
    keep: float | None = None,
    noise_draws: int = 8,
    workers: int | None = None,
    progress: Progress | None = None,
) -> FidelityResult:
    """Compare an operator's mean gradient with that of the smoothed deployed objective, and step along it.

    In the scores, image by image: ``cos = <a, b> / (|a| |b|)`` with a the operator's gradient and b the reference's,
    from products of different draws alone, so that noise does not make it smaller. The same after the scorer's
    backward, ``(1/I) sum_i J_i^T a_i``. And the deployed loss of held-out images after steps along that.

    Args:
        task: frozen model, scorer and data; those of the reference.
        operator: what selects: itself, its name or its class.
        reference: of the same task, as `gradprobe.reference` makes it; it says K, the images, the sigmas and the steps.
            Several operators share one. None: one with its defaults is made, for ``k`` or ``keep``.
        k: tokens kept, 1..N-1, where no reference is given.
        keep: their share of N, in (0, 1); instead of ``k``.
        noise_draws: R, at least 3; an operator without noise of its own is drawn once.
        workers: threads; the numbers do not depend on it. None: as many as torch has.
        progress: called with (what, done, of how many).

    Returns:
        A result whose ``row()`` gives the table's numbers.

    Raises:
        UsageError: a number outside what is possible.
        GradprobeError: a loss or gradient that is not finite, an operator that breaks its contract, or a reference of
            another task.
    """
    operator = registry.build(operator)
    name = registry.label(operator)
    reference = _reference(task, reference, k, keep, workers, progress)
    asked = settings_of(reference.question)
    question = question_of(task, operator, **asked, noise_draws=noise_draws)
    check_same(question_of_reference(task, **asked), reference.question)
    check_counts({"workers": (1 if workers is None else workers, 1)})
    tell = progress or (lambda what, done, total: None)
    threads = workers_for(task, workers)
    started = time.perf_counter()
    with task.running():
        batch, held = images_of(task, question)
        scores = scores_of(task, batch, question)
        u = score_gradients(
            task, operator, question["k"], name, batch, scores, noise_draws, question["seed"], threads, tell
        )
        parts = reference.gradients
        mean, middle = parts.mean(1), centred(u)
        raw, own = (x.double().numpy() for x in (u, middle))
        yes = bool(raw.any())
        theta = (
            _in_parameters(task, batch, held, u, middle, mean, reference, threads, name, tell)
            if yes and question["scores"] == "scorer"
            else _nothing(reference)
        )
    return FidelityResult(
        question=question, gradient="yes" if yes else "none", ids=reference.ids, sigmas=reference.sigmas,
        ab=(raw.mean(0) * mean).sum(-1), aa=np.stack([different(products_of(x)) for x in (raw, own)]),
        power=np.stack([np.square(x).sum(-1).mean(0) for x in (raw, own)]),
        bb=np.stack([different(products_of(x)) for x in parts]), **theta, ladder=reference.ladder, held=reference.held,
        ceiling=reference.after, losses=reference.losses, spread=reference.spread,
        environment=environment(time.perf_counter() - started, task.skipped),
    )  # fmt: skip


def _reference(
    task: Task, given: ReferenceResult | None, k: int | None, keep: float | None, workers: int | None,
    progress: Progress | None,
) -> ReferenceResult:  # fmt: skip
    """The reference that was given, or a new one with its defaults.

    Raises:
        UsageError: a reference and a budget, or something else in the place of a reference.
    """
    if given is None:
        return make_reference(task, k, keep=keep, workers=workers, progress=progress)
    if not isinstance(given, ReferenceResult):
        raise UsageError(
            f"{in_words(given)} is no reference; give reference=gradprobe.reference(task, k=58), or k=58 alone"
        )
    if k is not None or keep is not None:
        raise UsageError("a reference says its K; give either reference= or one of k= and keep=")
    return given


def question_of(
    task: Task, operator: SelectionOperator, k: int, *, sigmas: Sequence[float], draws: int, images: int, scores: str,
    held_out: int, ladder: Sequence[float], noise_draws: int, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """The question that a result answers: its reference's, the operator and its draws.

    Raises:
        UsageError: a number or name outside what is possible.
    """
    check_counts({"noise-draws": (noise_draws, 3)})
    asked = question_of_reference(
        task, k, sigmas=sigmas, draws=draws, images=images, scores=scores, held_out=held_out, ladder=ladder, seed=seed
    )
    code = registry.code_of(operator)
    asked |= {"probe": "fidelity", "op": registry.label(operator), "noise_draws": noise_draws}
    return asked | ({"op_code": code} if code else {})


def needed(question: Mapping[str, Any]) -> dict[str, Any]:
    """The question of the reference that a fidelity is measured against; the same for all operators.

    Example:
        >>> needed({"probe": "fidelity", "op": "lapsum+vpnoise", "noise_draws": 8, "k": 58})
        {'probe': 'reference', 'k': 58}
    """
    own = ("op", "op_code", "noise_draws")
    return {name: value for name, value in question.items() if name not in own} | {"probe": "reference"}


def answer(question: Mapping[str, Any], where: Mapping[str, str], progress: Progress | None = None) -> FidelityResult:
    """Answer a question as it is stored, with the files it is about.

    Args:
        question: as `question_of` writes it.
        where: ``reference``, the folder of the answer that `needed` asks for; ``weights``, ``data`` and ``device``,
            where they differ from the defaults; ``workers``.
        progress: called with (what, done, of how many).

    Raises:
        GradprobeError: it cannot be answered here, or it is about other weights or images than these.
    """
    task, operator = task_for(question, where), operator_of(question)
    settings = settings_of(question) | {"noise_draws": question["noise_draws"]}
    check_same(question_of(task, operator, **settings), question)
    folder = Path(where["reference"])
    return fidelity(
        task, operator, Store(folder.parent).load(folder), noise_draws=question["noise_draws"],
        workers=int(where["workers"]) if "workers" in where else None, progress=progress,
    )  # fmt: skip


def score_gradients(
    task: Task, operator: SelectionOperator, k: int, name: str, batch: Batch, scores: Tensor, draws: int, seed: int,
    workers: int, tell: Progress,
) -> Tensor:  # fmt: skip
    """The operator's gradients in the scores, ``(R, I, N)`` on the CPU; R is 1 if two draws are the same, bit for bit.

    Without a gradient they are zero.
    """
    groups = groups_of(batch)
    given = scores.split(len(groups[0].ids))

    def work(item: tuple[int, int]) -> Tensor:
        r, g = item
        noise = Noise(seed, groups[g].ids).draw(r)
        with torch.enable_grad():
            u = score_gradient(task, operator, k, groups[g], given[g], noise, f"{name} (draw {r + 1})").u
        return torch.zeros_like(given[g]).cpu() if u is None else u.cpu()

    first = list(in_threads(work, [(0, 0), (1, 0)], workers))
    if torch.equal(*first):
        draws, first = 1, first[:1]
    items = [(r, g) for g in range(len(groups)) for r in range(draws)]
    u = torch.empty(draws, *scores.shape, dtype=scores.dtype)
    rest = in_threads(work, items[len(first) :], workers)
    for done, (r, g) in enumerate(items, start=1):
        start = g * len(groups[0].ids)
        u[r, start : start + len(groups[g].ids)] = first.pop(0) if first else next(rest)
        tell(f"{name}: gradients", done, len(items))
    return u


def _in_parameters(
    task: Task, batch: Batch, held: Batch, u: Tensor, middle: Tensor, mean: Array, reference: ReferenceResult,
    workers: int, name: str, tell: Progress,
) -> dict[str, Array]:  # fmt: skip
    """The same products between the scorer's gradients of groups of images, and steps along the operator's."""
    groups = groups_for(task, len(batch.ids))
    sigmas = len(mean)
    folds = [torch.stack([x[f::FOLDS].mean(0) for f in range(min(FOLDS, len(x)))]) for x in (u, middle)]
    same = torch.allclose(u, middle, rtol=0, atol=1e-6 * float(u.abs().max()))  # no common mode: one backward for both
    stages = sigmas + 2

    def gradients(which: Tensor) -> Tensor:
        return group_gradients(task, batch, which, groups, workers)

    rows = [gradients(folds[0])]
    tell(f"{name}: scorer", 1, stages)
    rows.append(rows[0] if same else gradients(folds[1]))
    ab = np.zeros((2, sigmas, groups, groups))
    for s, each in enumerate(mean):
        tell(f"{name}: scorer", 2 + s, stages)
        other = gradients(torch.from_numpy(each)[None])[:, 0]
        for c, own in enumerate(rows):
            ab[c, s] = products(own.mean(1), other)
    after = HeldOut(
        task, tuple(groups_of(held)), reference.question["k"], tuple(reference.ladder), workers, reference.held
    ).after(rows[0].mean(1).sum(0))
    tell(f"{name}: scorer", stages, stages)
    aa, noise = zip(*map(own_products, rows), strict=True)
    return {
        "theta_ab": ab, "theta_aa": np.stack(aa), "theta_bb": reference.theta_bb,
        "theta_noise": np.array([*noise, *reference.theta_noise]), "after": after,
    }  # fmt: skip


def _nothing(reference: ReferenceResult) -> dict[str, Array]:
    """Without a gradient, or a scorer, there is nothing in parameters."""
    s, held = len(reference.sigmas), len(reference.held)
    return {
        "theta_ab": np.zeros((2, s, 0, 0)), "theta_aa": np.zeros((2, 0, 0)), "theta_bb": np.zeros((s, 0, 0)),
        "theta_noise": np.zeros(2 + s), "after": np.zeros((0, held)),
    }  # fmt: skip
