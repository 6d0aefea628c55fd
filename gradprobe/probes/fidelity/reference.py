"""The gradient of the smoothed deployed objective, ``J_sigma(s) = E_z[J(s + sigma z)]``, J the loss of hard top-K."""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradprobe.core import Batch, Noise, Stream, Task
from gradprobe.deferred import deferring
from gradprobe.errors import GradprobeError, UsageError
from gradprobe.probes.contract import (
    Budget,
    Reporting,
    Resources,
    Resumable,
    Subject,
    Threads,
    question_of,
    tokens_kept,
)
from gradprobe.probes.environment import environment, versions
from gradprobe.probes.fidelity import BLOCK, REFERENCE, ReferenceSettings
from gradprobe.probes.fidelity.descent import HeldOut, deployed_losses, group_gradients, groups_for, own_products
from gradprobe.probes.fidelity.reference_result import ReferenceResult
from gradprobe.probes.fidelity.smoothing import PARTS, Parts, block_gradients
from gradprobe.probes.gradients import real_parameters
from gradprobe.settings import argument, settings_from, takes
from gradprobe.store.chunk_log import open_chunk_log
from gradprobe.training.memory import Limit
from gradprobe.training.workers import groups_of, in_threads, numbered_groups, workers_for

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Arguments(Reporting, Resumable, Threads, ReferenceSettings, Budget):
    """Keyword arguments of `reference`."""

    start: ReferenceResult | None = argument(
        None, "Answer to the same question with fewer draws; only what it lacks is drawn."
    )


@takes(Arguments)
def reference(task: Task, given: Arguments) -> ReferenceResult:
    """Estimate ``grad J_sigma(s) = Cov_z(J(s + sigma z), z) / sigma`` image by image, forward passes of K tokens only.

    Draws are antithetic, z and -z, and the same for all sigmas. z is replaced by its expectation given the kept set and
    the threshold (`expected`), and a loss is counted from the mean of other draws: both leave the expectation as it is
    and reduce the variance. The scorer's own gradient of J_sigma, and the deployed loss of held-out images after steps
    along it, go with it.

    Returns:
        A result for `gradprobe.fidelity`, which several operators share.

    Raises:
        UsageError: a number or name outside what is possible, or too few images.
        GradprobeError: a loss that is not finite, or a ``start`` of another question.

    Source: Salimans et al. 2017, arXiv 1703.03864, for antithetic evolution strategies.
    """
    return measure(Subject(task, None, tokens_kept(task, given.k, given.keep)), given, Resources.of(given))


def measure(subject: Subject, settings: ReferenceSettings, resources: Resources) -> ReferenceResult:
    """Answer the question of a subject and settings, see `reference`."""
    question = question_of(REFERENCE, subject, settings)
    settings = settings_from(ReferenceSettings, question)  # sigmas and steps ascending, each once
    task, threads = subject.task, workers_for(subject.task, resources.workers)
    started = time.perf_counter()
    with task.running():
        batch, held = images_of(task, settings)
        scores = scores_of(task, batch, settings)
        limit = Limit()
        parts = _parts(subject, batch, scores, question, resources, limit)
        losses = _losses(subject, batch, scores, threads, limit)
        blocks = settings.draws // BLOCK
        second = _in_parameters(subject, batch, held, parts / np.float32(blocks), settings, resources, limit)
    return ReferenceResult(
        question=question,
        ids=np.array(batch.ids),
        sigmas=np.array(settings.sigmas),
        parts=parts,
        blocks=blocks,
        losses=losses,
        spread=scores.double().std(-1).cpu().numpy(),
        **second,
        environment=environment(time.perf_counter() - started, task.skipped),
    )


def check(subject: Subject, settings: ReferenceSettings) -> dict[str, Any]:
    """Refuse what neither a reference nor a fidelity can be asked; with random scores the question has no scorer.

    Raises:
        UsageError: all tokens kept, draws that are no multiple of 32, or no numbers where some are needed.
    """
    if subject.k == subject.task.n_tokens:
        remedy = f"give --k 1 to --k {subject.k - 1}" if subject.k > 1 else "give images with more tokens"
        raise UsageError(f"k={subject.k} keeps every token, so no score matters; {remedy}")
    if settings.draws % BLOCK:
        above = settings.draws - settings.draws % BLOCK + BLOCK
        raise UsageError(f"--draws {settings.draws} is not possible; give a multiple of {BLOCK}, such as {above}")
    for option, numbers in (("sigma", settings.sigmas), ("ladder", settings.ladder)):
        if not isinstance(numbers, Sequence) or not numbers:
            raise UsageError(f"--{option} {numbers} is not possible; give positive numbers, e.g. --{option} 0.1,0.3,1")
    if settings.scores == "random":
        return {"scorer": None}
    real_parameters(subject.task.scorer)
    return {}


def images_of(task: Task, settings: ReferenceSettings) -> tuple[Batch, Batch]:
    """Return the images whose gradients are compared and, after them in the probe order, the held-out ones."""
    count = settings.images
    held_out = settings.held_out if settings.scores == "scorer" else 0
    (every,) = task.batches(1, count + held_out, settings.seed)
    return every.subset(slice(count)), every.subset(slice(count, None))


def scores_of(task: Task, batch: Batch, settings: ReferenceSettings) -> Tensor:
    """Return the scores around which all is measured, ``(I, N)``: the scorer's, or random ones keyed by the image."""
    if settings.scores == "random":
        noise = Noise(settings.seed, batch.ids, generator=task.generator).stream(Stream.FIDELITY_SCORES)
        return noise.normal((task.n_tokens,), like=batch.tokens.patches)
    with torch.no_grad():
        return torch.cat([task.scorer(group.tokens.patches) for group in groups_of(batch)])


def _parts(
    subject: Subject,
    batch: Batch,
    scores: Tensor,
    question: dict[str, Any],
    resources: Resources,
    limit: Limit,
) -> Parts:
    """Return sums over blocks of each part's estimates, ``(S, H, I, N)``; finished pieces are not redone."""
    settings, start = settings_from(ReferenceSettings, question), resources.start
    groups = list(_grouped(batch, scores))
    first = 0 if start is None else _checked(start, question).blocks
    pieces = [(block, g) for block in range(first, settings.draws // BLOCK) for g in range(len(groups))]

    def work(piece: tuple[int, int]) -> Parts:
        block, g = piece
        return block_gradients(subject, *groups[g], settings, block * BLOCK, limit)

    total = np.zeros((len(settings.sigmas), PARTS, *scores.shape), np.float32) if start is None else start.parts.copy()
    rows, threads = len(groups[0][0].ids), workers_for(subject.task, resources.workers)
    with (
        tempfile.TemporaryDirectory() as aside,
        open_chunk_log(resources.folder or aside, {"question": question, "versions": versions()}) as log,
    ):
        todo = [piece for piece in pieces if piece[0] * len(groups) + piece[1] not in log.chunks]
        done = len(pieces) - len(todo)
        for (block, g), gradients in zip(todo, in_threads(work, todo, threads), strict=True):
            log.append(block * len(groups) + g, gradients.astype("<f4").tobytes())
            done += 1
            resources.report(f"reference of {settings.draws} draws", done, len(pieces))
        for block, g in pieces:  # in this order, so that the sums are the same bytes
            part = total[:, :, g * rows : (g + 1) * rows]
            part += np.frombuffer(log.chunks[block * len(groups) + g], "<f4").reshape(part.shape)
    return total


def _losses(subject: Subject, batch: Batch, scores: Tensor, threads: int, limit: Limit) -> Array:
    """Return the deployed loss of each image, ``(I,)``."""

    def work(item: tuple[Batch, Tensor]) -> Tensor:
        group, own = item
        return deployed_losses(subject.task, group, subject.k, own, torch.arange(len(own)), limit)[0]

    with deferring():
        return torch.cat(list(in_threads(work, _grouped(batch, scores), threads))).double().cpu().numpy()


def _grouped(batch: Batch, scores: Tensor) -> list[tuple[Batch, Tensor]]:
    """Return groups of images as encoder calls take them, with their scores."""
    groups = numbered_groups(batch)
    return list(zip(groups, scores.split(len(groups[0].ids)), strict=True))


def _checked(start: ReferenceResult, question: dict[str, Any]) -> ReferenceResult:
    """Refuse to go on from an answer to another question.

    Raises:
        GradprobeError: it differs in more than having fewer draws.
    """
    if {**start.question, "draws": 0} != {**question, "draws": 0} or start.question["draws"] >= question["draws"]:
        raise GradprobeError(
            "the answer to start from is of another question; give one with fewer draws, else the same"
        )
    return start


def _in_parameters(
    subject: Subject, batch: Batch, held: Batch, gradients: Parts, settings: ReferenceSettings, resources: Resources,
    limit: Limit,
) -> dict[str, Array]:  # fmt: skip
    """Return the scorer's gradients of J_sigma: their products between groups of images, and steps along them."""
    sigmas, task = len(gradients), subject.task
    if settings.scores == "random":
        return {
            "theta_bb": np.zeros((sigmas, 0, 0)),
            "theta_noise": np.zeros(sigmas),
            "ladder": np.zeros(0),
            "held": np.zeros(0),
            "after": np.zeros((sigmas, 0, 0)),
        }
    threads = workers_for(task, resources.workers)
    around = HeldOut.of(task, held, subject.k, settings.ladder, threads, limit)
    groups = groups_for(task, len(batch.ids))
    own, after = [], []
    for u in gradients:
        rows = group_gradients(task, batch, torch.from_numpy(u), groups, threads)
        own.append(own_products(rows))
        after.append(around.after(rows.mean(1).sum(0)))
        resources.report("scorer's gradient of the reference", len(own), sigmas)
    bb, noise = (np.stack(x) for x in zip(*own, strict=True))
    return {
        "theta_bb": bb,
        "theta_noise": noise,
        "ladder": np.array(settings.ladder),
        "held": around.losses,
        "after": np.stack(after),
    }
