"""The loss landscape of a scorer through an operator."""

import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradprobe.core import AnyOperator, Batch, SelectionOperator, Task, check_k
from gradprobe.data.fingerprints import weights_file
from gradprobe.data.hashes import file_hash
from gradprobe.errors import GradprobeError, Notice, UsageError, nearest
from gradprobe.files import atomic_write
from gradprobe.landscapes.directions import ONE_D, Params, select
from gradprobe.landscapes.planes import axis
from gradprobe.models.weights import read_weights
from gradprobe.operators import registry
from gradprobe.probes.landscape.axes import (
    REACH,
    Axes,
    check_points,
    checkpoint_axes,
    parse_grid,
    pca_axes,
    random_axes,
)
from gradprobe.probes.landscape.plane_losses import Plane, evaluate, pieces_of, plain_losses
from gradprobe.probes.landscape.result import LandscapeResult
from gradprobe.probes.questions import (
    Progress,
    asked_of,
    check_counts,
    check_same,
    environment,
    operator_and_k,
    operator_of,
    task_of,
    versions,
)
from gradprobe.ranges import check_numbers
from gradprobe.store.chunk_log import ChunkLog, open_chunk_log
from gradprobe.training.train import LEARNING_RATE, training
from gradprobe.training.workers import groups_of, one_thread, workers_for

NOISE = ("common", "fresh")
AXES = ("random", "pca", "checkpoints")
TRAJECTORY = 11  # checkpoints of a training trajectory, its beginning and end included


def landscape(
    task: Task,
    operator: AnyOperator,
    k: int | None = None,
    *,
    keep: float | None = None,
    grid: str = "31x31",
    reach: float | None = None,
    noise: str = "common",
    one_d: str = "zero",
    params: str = "*",
    images: int = 32,
    axes: str = "random",
    checkpoints: Sequence[int | str | Path] = (),
    steps: int = 0,
    learning_rate: float = LEARNING_RATE,
    batch_size: int = 16,
    seed: int = 0,
    workers: int | None = None,
    folder: Path | str | None = None,
    progress: Progress | None = None,
) -> LandscapeResult:
    """The mean loss at ``theta + a_i d1 + b_j d2`` for every cell of a grid, image by image.

    Args:
        task: frozen model, scorer and data; its scorer is trained in place if ``steps`` > 0.
        operator: what selects: itself, its name or its class.
        k: tokens kept, 1..N; or ``keep`` instead.
        keep: their share of N, in (0, 1].
        grid: rows along d1 x columns along d2, ``61x31``; ``81`` is a line of 81 points along d2.
        reach: half the width of the grid in filter units, 0.3 by default; random axes only.
        noise: ``common``: an image gets the same noise in all cells; ``fresh``: noise of its own in each cell.
        one_d: what biases and norm layers do: ``zero`` (they stay), ``vector`` or ``element``; random axes only.
        params: which of the scorer's parameters move, a pattern such as ``hidden.*``; random axes only.
        images: how many.
        axes: ``random`` (filter-normalised), ``pca`` of the training trajectory of ``steps`` steps, ``checkpoints``.
        checkpoints: A, B and for a plane C: safetensors files of the scorer, or numbers of training steps.
        steps: train the scorer through the operator this many steps first.
        learning_rate: of that training.
        batch_size: of that training.
        seed: of directions, images, noise and training.
        workers: threads, each running torch on one; the numbers do not depend on it. None: as many as torch has.
        folder: where finished pieces are kept, so that a killed run goes on from them; the caller's to remove.
        progress: called with (what, done, of how many).

    Returns:
        A result whose ``row()`` gives the table's numbers and whose ``surface`` is the mean loss.

    Raises:
        UsageError: a number or name outside what is possible.
        GradprobeError: an operator that breaks its contract or draws noise of its own, or too few images.

    Source: Li et al. 2018, arXiv 1712.09913; DiffPrune, section 3 and Fig. 2.
    """
    operator, k = operator_and_k(task, operator, k, keep)
    name = registry.label(operator)
    settings: dict[str, Any] = {
        "grid": grid, "reach": reach, "noise": noise, "one_d": one_d, "params": params, "images": images,
        "axes": axes, "checkpoints": checkpoints, "steps": steps, "learning_rate": learning_rate,
        "batch_size": batch_size, "seed": seed,
    }  # fmt: skip
    question = question_of(task, operator, k, **settings)
    check_counts({"workers": (1 if workers is None else workers, 1)})
    started = time.perf_counter()
    (batch,) = task.batches(1, images, seed)  # refuses at once if there are too few images
    with tempfile.TemporaryDirectory() as aside:
        kept = Path(folder) if folder is not None else Path(aside)
        with open_chunk_log(kept, {"question": question, "versions": versions()}) as log:
            marks = _marks(axes, checkpoints, steps)
            points = _checkpoints(task, operator, k, name, marks, question, log, progress)
            found = _axes(task, points, question, checkpoints)
            plane = Plane(
                task, operator, k, name, found.origin, found.d1, found.d2, found.a, found.b, seed, noise == "fresh"
            )
            result = _measured(plane, found, question, batch, workers, log, progress, started)
    return result


def question_of(
    task: Task, operator: SelectionOperator, k: int, *, grid: str, reach: float | None, noise: str, one_d: str,
    params: str, images: int, axes: str, checkpoints: Sequence[int | str | Path], steps: int, learning_rate: float,
    batch_size: int, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """The question that a result answers: all that decides its numbers, in JSON types.

    Raises:
        UsageError: a number or name outside what is possible.
    """
    check_k(k, task.n_tokens)
    check_counts({"images": (images, 1), "steps": (steps, 0), "batch-size": (batch_size, 1)})
    check_numbers({"seed": seed, "learning_rate": learning_rate, "reach": reach})
    for option, value, possible in (("noise", noise, NOISE), ("axes", axes, AXES), ("one-d", one_d, ONE_D)):
        if value not in possible:
            raise UsageError(f"--{option} {value} is not possible; {nearest(value, possible)}")
    rows, columns = parse_grid(grid)
    settings: dict[str, Any] = {
        "grid": str(columns) if rows == 1 else f"{rows}x{columns}", "noise": noise, "axes": axes, "images": images,
        "steps": steps, "seed": seed,
    }  # fmt: skip
    if axes == "random":
        axis(REACH if reach is None else reach, 3)  # refuses what is no range
        select(dict(task.scorer.named_parameters()), params)
        settings |= {"reach": float(REACH if reach is None else reach), "one_d": one_d, "params": params}
    elif reach is not None or one_d != "zero" or params != "*":
        raise UsageError(f"--reach, --one-d and --params are for --axes random; --axes {axes} has its own range")
    if axes == "checkpoints" and steps:
        raise UsageError("--axes checkpoints takes no --steps; name steps as points: --axes checkpoints:0,100,200")
    if axes == "pca" and steps < 2:
        raise UsageError("--axes pca draws a training trajectory; give its length, e.g. --steps 200")
    if (axes == "checkpoints") != bool(checkpoints):
        raise UsageError("--axes checkpoints needs its points: --axes checkpoints:A,B (a line) or checkpoints:A,B,C")
    if axes == "checkpoints":
        check_points(len(checkpoints), rows)
        settings["checkpoints"] = ",".join(_named(point) for point in checkpoints)
    if steps or any(isinstance(point, int) for point in checkpoints):
        settings |= {"learning_rate": learning_rate, "train_batch": batch_size}
    return asked_of("landscape", task, operator, k, settings)


def answer(question: Mapping[str, Any], where: Mapping[str, str], progress: Progress | None = None) -> LandscapeResult:
    """Answer a question as it is stored, with the files it is about.

    Args:
        question: as `question_of` writes it.
        where: ``weights``, ``data`` and ``device``, where they differ from the defaults; ``checkpoints``, where they
            are files; ``workers``; ``partial``, the folder for unfinished pieces.
        progress: called with (what, done, of how many).

    Raises:
        GradprobeError: it cannot be answered here, or it is about other weights or images than these.
    """
    q = question
    task, operator = task_of(q, where), operator_of(q)
    settings = {name: q[name] for name in ("k", "grid", "noise", "axes", "images", "steps", "seed")}
    settings |= {name: q.get(name, default) for name, default in (("reach", None), ("one_d", "zero"), ("params", "*"))}
    points = where.get("checkpoints", q.get("checkpoints", ""))
    settings["checkpoints"] = parse_checkpoints(points)
    settings["learning_rate"] = q.get("learning_rate", LEARNING_RATE)
    settings["batch_size"] = q.get("train_batch", 16)
    check_same(question_of(task, operator, **settings), q)
    workers = int(where["workers"]) if "workers" in where else None
    return landscape(task, operator, **settings, workers=workers, folder=where.get("partial"), progress=progress)


def parse_checkpoints(text: str) -> tuple[int | str, ...]:
    """Points of a line or plane: numbers of training steps, or files.

    Example:
        >>> parse_checkpoints("0,100,after.safetensors"), parse_checkpoints("")
        ((0, 100, 'after.safetensors'), ())
    """
    return tuple(int(part) if part.isdigit() else part for part in text.split(",") if part)


def _named(point: int | str | Path) -> str:
    """A checkpoint as the question names it: its steps, or the fingerprint of its file."""
    return str(point) if isinstance(point, int) else f"sha256:{file_hash(weights_file(str(point)))[:16]}"


def _marks(axes: str, checkpoints: Sequence[int | str | Path], steps: int) -> list[int]:
    """After how many steps the training leaves a checkpoint, ascending."""
    if axes == "pca":
        return sorted({round(i * steps / (TRAJECTORY - 1)) for i in range(TRAJECTORY)})
    return sorted({point for point in checkpoints if isinstance(point, int)} or {steps})


def _checkpoints(
    task: Task, operator: SelectionOperator, k: int, name: str, marks: list[int], question: Mapping[str, Any],
    log: ChunkLog, progress: Progress | None,
) -> dict[int, Params]:  # fmt: skip
    """The scorer's parameters after each of some numbers of training steps; kept with the pieces of the run."""
    from safetensors.torch import load, save

    def now() -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in task.scorer.named_parameters()}

    if marks == [0]:
        return {0: now()}
    path = log.beside("safetensors")
    if path.is_file():
        flat = load(path.read_bytes())
        device = next(task.scorer.parameters()).device
        found: dict[int, Params] = {
            mark: {p: flat[f"{mark}/{p}"].to(device) for p, _ in task.scorer.named_parameters()} for mark in marks
        }
        with torch.no_grad():
            for p, value in task.scorer.named_parameters():
                value.copy_(found[marks[-1]][p])
        return found
    found = {0: now()} if 0 in marks else {}
    with task.running():
        rate, size = question["learning_rate"], question["train_batch"]
        trained = training(task, operator, k, name, seed=question["seed"], batch_size=size, learning_rate=rate)
        for step in trained:
            if progress:
                progress(f"{name}: training", step, marks[-1])
            if step in marks:
                found[step] = now()
            if step == marks[-1]:
                break
    atomic_write(path, save({f"{mark}/{p}": value for mark, each in found.items() for p, value in each.items()}))
    return found


def _axes(task: Task, points: dict[int, Params], question: Mapping[str, Any], checkpoints: Sequence) -> Axes:
    rows, columns = parse_grid(question["grid"])
    last = points[max(points)]
    match question["axes"]:
        case "pca":
            return pca_axes([points[mark] for mark in sorted(points)], rows, columns)
        case "checkpoints":
            chosen = [points[p] if isinstance(p, int) else _read(task, p) for p in checkpoints]
            return checkpoint_axes(chosen, rows, columns)
    return random_axes(
        last, rows, columns, seed=question["seed"], reach=question["reach"], one_d=question["one_d"],
        pattern=question["params"],
    )  # fmt: skip


def _read(task: Task, path: str | Path) -> Params:
    """A scorer's parameters from a safetensors file or a checkpoint of its training.

    Raises:
        UsageError: no such file, or it is of another scorer.
        GradprobeError: it cannot be read.
    """
    own = dict(task.scorer.named_parameters())
    weights = read_weights(path, own)
    if notice := weights.notice():
        warnings.warn(notice, Notice, stacklevel=2)
    state = weights.tensors
    wrong = [p for p in {**own, **state} if p not in own or p not in state or own[p].shape != state[p].shape]
    if wrong:
        raise UsageError(f"{path} is of another scorer: {wrong[0]!r} does not fit; give its --scorer, or another file")
    return {p: state[p].to(own[p].device, own[p].dtype) for p in own}


def _measured(
    plane: Plane, axes: Axes, question: Mapping[str, Any], batch: Batch, workers: int | None, log: ChunkLog,
    progress: Progress | None, started: float,
) -> LandscapeResult:  # fmt: skip
    groups = groups_of(batch)
    centre = plain_losses(plane, groups, axes.origin)
    _check_equal(plane.name, centre[: len(groups[0].ids)], plain_losses(plane, groups[:1], axes.origin))
    path = [plain_losses(plane, groups, point) for point in axes.checkpoints]
    pieces = pieces_of(plane, groups)
    todo = {number: piece for number, piece in enumerate(pieces) if number not in log.chunks}
    count = len(plane.a) * len(plane.b)
    done = sum(piece.size for number, piece in enumerate(pieces) if number in log.chunks)

    def tick() -> None:
        nonlocal done
        done += 1
        if progress:
            progress(f"{plane.name}: cells", done // len(groups), count)

    for number, losses in evaluate(plane, groups, todo, workers_for(plane.task, workers), tick):
        log.append(number, losses.astype("<f8").tobytes())
    whole = np.empty((len(plane.a), len(plane.b), len(centre)), dtype=centre.dtype)
    ends = np.cumsum([0, *(len(group.ids) for group in groups)])
    for number, piece in enumerate(pieces):
        values = np.frombuffer(log.chunks[number], "<f8").reshape(piece.size, -1)
        whole[piece.row, piece.columns, ends[piece.group] : ends[piece.group + 1]] = values
    if question["noise"] == "common":
        whole[np.ix_(plane.a == 0, plane.b == 0)] = centre  # the plain loss itself, whatever the rounding of a cell
    with one_thread():  # BLAS adds the products of directions in another order on two
        directions = axes.describe()
    return LandscapeResult(
        question=dict(question), losses=whole, a=plane.a, b=plane.b, centre=centre, directions=directions,
        path=axes.path, path_losses=np.stack(path) if path else np.zeros((0, len(centre)), centre.dtype),
        explained=axes.explained, residual=axes.residual,
        environment=environment(time.perf_counter() - started, plane.task.skipped),
    )  # fmt: skip


def _check_equal(name: str, once: np.ndarray, again: np.ndarray) -> None:
    """The built-in self-test: an image has the same loss twice, bit for bit.

    Raises:
        GradprobeError: it has not, so the operator or the model draws random numbers that `Noise` does not give.
    """
    if not np.array_equal(once, again, equal_nan=True):
        raise GradprobeError(
            f"operator {name} gave the loss {once.mean():g} and then {again.mean():g} for the same scores; draw random "
            f"numbers from the noise that it is given, and nothing from torch's global generator"
        )
