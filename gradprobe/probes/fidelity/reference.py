"""The gradient of the smoothed deployed objective, ``J_sigma(s) = E_z[J(s + sigma z)]``, J the loss of hard top-K."""

import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradprobe.core import Batch, Noise, Stream, Task, check_k
from gradprobe.errors import GradprobeError, UsageError, nearest
from gradprobe.probes.fidelity.descent import HeldOut, deployed_losses, group_gradients, groups_for, own_products
from gradprobe.probes.fidelity.reference_result import ReferenceResult
from gradprobe.probes.fidelity.smoothing import BLOCK, PARTS, Parts, block_gradients
from gradprobe.probes.gradients import real_parameters
from gradprobe.probes.questions import Progress, check_counts, check_same, environment, task_of, tokens_kept, versions
from gradprobe.store.chunk_log import open_chunk_log
from gradprobe.store.results import Store
from gradprobe.training.workers import groups_of, in_threads, workers_for

SIGMAS = (0.1, 0.3, 1.0)
LADDER = (0.0001, 0.0003, 0.001, 0.003, 0.01)
SCORES = ("scorer", "random")
Array = NDArray[np.float64]


def reference(
    task: Task,
    k: int | None = None,
    *,
    keep: float | None = None,
    sigmas: Sequence[float] = SIGMAS,
    draws: int = 128,
    images: int = 64,
    scores: str = "scorer",
    held_out: int = 256,
    ladder: Sequence[float] = LADDER,
    seed: int = 0,
    workers: int | None = None,
    folder: Path | str | None = None,
    start: ReferenceResult | None = None,
    progress: Progress | None = None,
) -> ReferenceResult:
    """Estimate ``grad J_sigma(s) = Cov_z(J(s + sigma z), z) / sigma`` image by image, forward passes of K tokens only.

    Draws are antithetic, z and -z, and the same for all sigmas. z is replaced by what is expected of it given the kept
    set and the threshold (`expected`), and a loss is counted from the mean of other draws: both leave the expectation
    as it is and take variance away. The scorer's own gradient of J_sigma, and the deployed loss of held-out images
    after steps along it, go with it.

    Args:
        task: frozen model, scorer and data.
        k: tokens kept, 1..N-1; or ``keep`` instead.
        keep: their share of N, in (0, 1).
        sigmas: of the smoothing, in units of the scores.
        draws: M, pairs of forward passes of each image and sigma; a multiple of 32.
        images: I, at least 3.
        scores: ``scorer``: the scorer's; ``random``: standard Gaussian ones, and nothing in parameters.
        held_out: images for the steps, at least 3; those that follow the first I.
        ladder: steps relative to the norm of theta.
        seed: of the order of images and the noise.
        workers: threads; the numbers do not depend on it. None: as many as torch has.
        folder: where finished pieces are kept, so that a killed run goes on from them; the caller's to remove.
        start: an answer to the same question with fewer draws; only what it lacks is drawn.
        progress: called with (what, done, of how many).

    Raises:
        UsageError: a number or name outside what is possible, or too few images.
        GradprobeError: a loss that is not finite, or a ``start`` of another question.

    Source: Salimans et al. 2017, arXiv 1703.03864, for antithetic evolution strategies.
    """
    k = tokens_kept(task, k, keep)
    question = question_of(
        task, k, sigmas=sigmas, draws=draws, images=images, scores=scores, held_out=held_out, ladder=ladder, seed=seed
    )
    check_counts({"workers": (1 if workers is None else workers, 1)})
    tell = progress or (lambda what, done, total: None)
    threads = workers_for(task, workers)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as aside, task.running():
        batch, held = images_of(task, question)
        given = scores_of(task, batch, question)
        parts = _parts(task, batch, given, question, start, threads, folder or aside, tell)
        losses = _losses(task, batch, given, k, threads)
        blocks = draws // BLOCK
        second = _in_parameters(task, batch, held, parts / np.float32(blocks), question, threads, tell)
    return ReferenceResult(
        question=question, ids=np.array(batch.ids), sigmas=np.array(numbers_of(question["sigmas"])), parts=parts,
        blocks=blocks, losses=losses, spread=given.double().std(-1).cpu().numpy(), **second,
        environment=environment(time.perf_counter() - started, task.skipped),
    )  # fmt: skip


def question_of(
    task: Task, k: int, *, sigmas: Sequence[float], draws: int, images: int, scores: str, held_out: int,
    ladder: Sequence[float], seed: int,
) -> dict[str, Any]:  # fmt: skip
    """The question that a reference answers: all that decides its numbers, in JSON types; no operator is among it.

    Raises:
        UsageError: a number or name outside what is possible.
    """
    check_k(k, task.n_tokens)
    if k == task.n_tokens:
        raise UsageError(f"k={k} keeps every token, so no score matters; give --k 1 to --k {k - 1}")
    check_counts({"draws": (draws, BLOCK), "images": (images, 3), "seed": (seed, 0)})
    if draws % BLOCK:
        below = draws - draws % BLOCK
        raise UsageError(f"--draws {draws} is not possible; give a multiple of {BLOCK}, such as {below + BLOCK}")
    if scores not in SCORES:
        raise UsageError(f"--scores {scores} is not possible; {nearest(scores, SCORES)}")
    asked: dict[str, Any] = {"probe": "reference", "k": k, "images": images, "draws": draws, "scores": scores}
    asked |= {"sigmas": _text("sigma", sigmas), "seed": seed, **task.question}
    if scores == "random":
        asked.pop("scorer", None)  # it plays no part
        return asked
    check_counts({"held-out": (held_out, 3)})
    real_parameters(task.scorer)
    return asked | {"held_out": held_out, "ladder": _text("ladder", ladder)}


def answer(question: Mapping[str, Any], where: Mapping[str, str], progress: Progress | None = None) -> ReferenceResult:
    """Answer a question as it is stored, with the files it is about.

    Args:
        question: as `question_of` writes it.
        where: ``weights``, ``data`` and ``device``, where they differ from the defaults; ``workers``; ``partial``, the
            folder for unfinished pieces; ``start``, the folder of an answer with fewer draws.
        progress: called with (what, done, of how many).

    Raises:
        GradprobeError: it cannot be answered here, or it is about other weights or images than these.
    """
    task, settings = task_for(question, where), settings_of(question)
    check_same(question_of(task, **settings), question)
    start = where.get("start")
    return reference(
        task, **settings, workers=int(where["workers"]) if "workers" in where else None, folder=where.get("partial"),
        start=None if start is None else Store(Path(start).parent).load(start), progress=progress,
    )  # fmt: skip


def task_for(question: Mapping[str, Any], where: Mapping[str, str]) -> Any:
    """The task of a question; one of random scores names no scorer."""
    return task_of({"scorer": "mlp:width=1", **question}, where)


def settings_of(question: Mapping[str, Any]) -> dict[str, Any]:
    """What `reference` and `question_of` take, from a stored question."""
    settings = {name: question[name] for name in ("k", "draws", "images", "scores", "seed")}
    settings |= {"sigmas": numbers_of(question["sigmas"]), "held_out": question.get("held_out", 3)}
    return settings | {"ladder": numbers_of(question["ladder"]) if "ladder" in question else LADDER}


def numbers_of(text: str) -> tuple[float, ...]:
    """Numbers from text.

    Example:
        >>> numbers_of("0.1,0.3,1")
        (0.1, 0.3, 1.0)
    """
    return tuple(float(part) for part in text.split(","))


def _text(option: str, numbers: Sequence[float]) -> str:
    """Positive numbers as a question holds them, ascending.

    Raises:
        UsageError: none, or one that is no positive number.
    """
    found = sorted({float(x) for x in numbers})
    if not found or not all(0 < x < math.inf for x in found):
        given = ",".join(f"{x:g}" for x in numbers)
        raise UsageError(f"--{option} {given} is not possible; give positive numbers, e.g. --{option} 0.1,0.3,1")
    return ",".join(f"{x:.12g}" for x in found)


def images_of(task: Task, question: Mapping[str, Any]) -> tuple[Batch, Batch]:
    """The images whose gradients are compared and, after them in the probe order, the held-out ones."""
    count = question["images"]
    (every,) = task.batches(1, count + question.get("held_out", 0), question["seed"])
    return every.subset(slice(count)), every.subset(slice(count, None))


def scores_of(task: Task, batch: Batch, question: Mapping[str, Any]) -> Tensor:
    """The scores around which all is measured, ``(I, N)``: the scorer's, or random ones keyed by the image."""
    if question["scores"] == "random":
        noise = Noise(question["seed"], batch.ids).stream(Stream.FIDELITY_SCORES)
        return noise.normal((task.n_tokens,), like=batch.tokens.patches)
    with torch.no_grad():
        return torch.cat([task.scorer(group.tokens.patches) for group in groups_of(batch)])


def _parts(
    task: Task, batch: Batch, scores: Tensor, question: Mapping[str, Any], start: ReferenceResult | None,
    workers: int, folder: Path | str, tell: Progress,
) -> Parts:  # fmt: skip
    """Sums over blocks of each part's estimates, ``(S, H, I, N)``; what is known is not redone."""
    sigmas, groups = numbers_of(question["sigmas"]), list(_grouped(batch, scores))
    known = 0 if start is None else _checked(start, question).blocks
    blocks = range(known, question["draws"] // BLOCK)
    pieces = [(block, g) for block in blocks for g in range(len(groups))]

    def work(piece: tuple[int, int]) -> Parts:
        block, g = piece
        return block_gradients(task, *groups[g], question["k"], sigmas, question["seed"], block * BLOCK)

    total = np.zeros((len(sigmas), PARTS, *scores.shape), np.float32) if start is None else start.parts.copy()
    rows = len(groups[0][0].ids)
    with open_chunk_log(folder, {"question": dict(question), "versions": versions()}) as log:
        todo = [piece for piece in pieces if piece[0] * len(groups) + piece[1] not in log.chunks]
        done = len(pieces) - len(todo)
        for (block, g), found in zip(todo, in_threads(work, todo, workers), strict=True):
            log.append(block * len(groups) + g, found.astype("<f4").tobytes())
            done += 1
            tell(f"reference of {question['draws']} draws", done, len(pieces))
        for block, g in pieces:  # in this order, so that the sums are the same bytes
            part = total[:, :, g * rows : (g + 1) * rows]
            part += np.frombuffer(log.chunks[block * len(groups) + g], "<f4").reshape(part.shape)
    return total


def _losses(task: Task, batch: Batch, scores: Tensor, k: int, workers: int) -> Array:
    """Deployed loss of each image, ``(I,)``."""

    def work(part: tuple[Batch, Tensor]) -> Tensor:
        group, given = part
        return deployed_losses(task, group, k, given, torch.arange(len(given)))[0]

    return torch.cat(list(in_threads(work, _grouped(batch, scores), workers))).double().cpu().numpy()


def _grouped(batch: Batch, scores: Tensor) -> list[tuple[Batch, Tensor]]:
    """Groups of images as encoder calls take them, with their scores."""
    groups = groups_of(batch)
    return list(zip(groups, scores.split(len(groups[0].ids)), strict=True))


def _checked(start: ReferenceResult, question: Mapping[str, Any]) -> ReferenceResult:
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
    task: Task, batch: Batch, held: Batch, parts: Parts, question: Mapping[str, Any], workers: int, tell: Progress
) -> dict[str, Array]:
    """The scorer's gradients of J_sigma: their products between groups of images, and steps along them."""
    sigmas = len(parts)
    if question["scores"] == "random":
        return {
            "theta_bb": np.zeros((sigmas, 0, 0)), "theta_noise": np.zeros(sigmas), "ladder": np.zeros(0),
            "held": np.zeros(0), "after": np.zeros((sigmas, 0, 0)),
        }  # fmt: skip
    ladder = numbers_of(question["ladder"])
    around = HeldOut.of(task, held, question["k"], ladder, workers)
    groups = groups_for(task, len(batch.ids))
    found, after = [], []
    for u in parts:
        rows = group_gradients(task, batch, torch.from_numpy(u), groups, workers)
        found.append(own_products(rows))
        after.append(around.after(rows.mean(1).sum(0)))
        tell("scorer's gradient of the reference", len(found), sigmas)
    bb, noise = (np.stack(x) for x in zip(*found, strict=True))
    return {
        "theta_bb": bb, "theta_noise": noise, "ladder": np.array(ladder), "held": around.losses,
        "after": np.stack(after),
    }  # fmt: skip
