"""Equivalence: does an operator restrict the tokens as much as hard top-K does, under random scores?"""

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from gradprobe.core import AnyOperator, Batch, Noise, SelectionOperator, Stream, Task, apply, check_k
from gradprobe.operators import registry
from gradprobe.operators.temperature import temperature
from gradprobe.probes.equivalence.result import EquivalenceResult
from gradprobe.probes.gradients import refuse_nonfinite
from gradprobe.probes.questions import (
    Progress,
    asked_of,
    check_counts,
    check_same,
    environment,
    operator_and_k,
    operator_of,
    task_of,
)
from gradprobe.training.workers import ROWS, in_threads, workers_for

UNUSED = "mlp:width=1"  # a task has a scorer; here nobody asks it


def equivalence(
    task: Task,
    operator: AnyOperator,
    k: int | None = None,
    *,
    keep: float | None = None,
    images: int = 512,
    seed: int = 0,
    workers: int | None = None,
    progress: Progress | None = None,
) -> EquivalenceResult:
    """Where the right class ranks when an operator keeps K of N tokens by scores that are pure noise.

    ``s_i ~ N(0, 1)``, keyed by the image: the same for every operator and every K, so that results are paired. The
    task's scorer plays no part.

    Args:
        task: frozen model and data.
        operator: what selects: itself, its name or its class.
        k: tokens kept, 1..N; or ``keep`` instead.
        keep: their share of N, in (0, 1].
        images: I, the first of the order that the seed gives.
        seed: of the order of images, the scores and the operator's noise.
        workers: threads, each running torch on one; the numbers do not depend on it. None: as many as torch has.
        progress: called with (what, done, of how many).

    Returns:
        A result whose ``row(baseline)`` gives the table's numbers.

    Raises:
        UsageError: a number outside what is possible.
        GradprobeError: a loss that is not finite, too few images, or an operator that breaks its contract.

    Source: DiffPrune, Fig. 4b.
    """
    operator, k = operator_and_k(task, operator, k, keep)
    name = registry.label(operator)
    question = question_of(task, operator, k, images=images, seed=seed)
    check_counts({"workers": (1 if workers is None else workers, 1)})
    tell = progress or (lambda what, done, total: None)
    started = time.perf_counter()

    def judge(batch: Batch) -> tuple[Batch, np.ndarray, np.ndarray]:
        noise, patches = Noise(seed, batch.ids), batch.tokens.patches
        with torch.no_grad():
            scores = random_scores(noise, patches)
            selection = apply(operator, patches, scores, k, noise, name)
            losses, ranks = task.judged(selection, batch)
        refuse_nonfinite(losses, "loss", name, batch)
        return batch, ranks.cpu().numpy().astype(np.int32), losses.float().cpu().numpy()

    size = _batch_size(task, images)
    batches = task.batches(images // size, size, seed)  # refuses at once if there are too few images
    found = []
    with task.running():
        for one in in_threads(judge, batches, workers_for(task, workers)):
            found.append(one)
            tell(f"{name}, K = {k}", size * len(found), images)
    judged, ranks, losses = zip(*found, strict=True)
    return EquivalenceResult(
        question=question,
        ranks=np.concatenate(ranks),
        losses=np.concatenate(losses),
        ids=np.array([i for batch in judged for i in batch.ids], np.int64),
        tokens=task.n_tokens,
        tau=temperature(operator),
        environment=environment(time.perf_counter() - started, task.skipped),
    )


def random_scores(noise: Noise, patches: torch.Tensor) -> torch.Tensor:
    """The probe's scores ``(B, N)`` for patches ``(B, N, D)``: Gaussian, keyed by the image, apart from all operators'.

    Example:
        >>> random_scores(Noise(0, (7, 8)), torch.zeros(2, 196, 3)).shape
        torch.Size([2, 196])
    """
    return noise.stream(Stream.EQUIVALENCE_SCORES).normal(patches.shape[1:2], like=patches)


def question_of(task: Task, operator: SelectionOperator, k: int, *, images: int, seed: int) -> dict[str, Any]:
    """The question that a result answers: all that decides its numbers, in JSON types; the scorer decides none.

    Raises:
        UsageError: a number outside what is possible.
    """
    check_k(k, task.n_tokens)
    check_counts({"images": (images, 1), "seed": (seed, 0)})
    asked = asked_of("equivalence", task, operator, k, {"images": images, "seed": seed})
    return {name: value for name, value in asked.items() if name != "scorer"}


def answer(
    question: Mapping[str, Any], where: Mapping[str, str], progress: Progress | None = None
) -> EquivalenceResult:
    """Answer a question as it is stored, with the files it is about.

    Args:
        question: as `question_of` writes it.
        where: ``weights``, ``data`` and ``device``, where they differ from the defaults; ``workers``.
        progress: called with (what, done, of how many).

    Raises:
        GradprobeError: it cannot be answered here, or it is about other weights or images than these.
    """
    task, operator = task_of({**question, "scorer": UNUSED}, where), operator_of(question)
    settings = {name: question[name] for name in ("k", "images", "seed")}
    check_same(question_of(task, operator, **settings), question)
    workers = int(where["workers"]) if "workers" in where else None
    return equivalence(task, operator, **settings, workers=workers, progress=progress)


def _batch_size(task: Task, images: int) -> int:
    """The largest part of all images that an encoder call takes."""
    device = next(task.scorer.parameters()).device.type
    return max(size for size in range(1, ROWS.get(device, 64) + 1) if images % size == 0)
