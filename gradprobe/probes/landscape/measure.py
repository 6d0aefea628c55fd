"""Measurement of a landscape: the losses of all images at every cell of a line or plane."""

import tempfile
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradprobe.core import AnyOperator, Batch, Task
from gradprobe.errors import GradprobeError, UsageError
from gradprobe.landscapes.directions import select
from gradprobe.probes.contract import Budget, Reporting, Resources, Resumable, Subject, Threads, question_of
from gradprobe.probes.environment import environment, versions
from gradprobe.probes.landscape import PROBE, REACH, LandscapeSettings
from gradprobe.probes.landscape.axes import Axes, check_points, checkpoint_axes, pca_axes, random_axes
from gradprobe.probes.landscape.checkpoints import read_scorer, trajectory
from gradprobe.probes.landscape.notation import FINGERPRINT, parse_grid
from gradprobe.probes.landscape.plane_losses import Plane, evaluate, pieces_of, plain_losses
from gradprobe.probes.landscape.result import LandscapeResult
from gradprobe.settings import takes
from gradprobe.store.chunk_log import ChunkLog, open_chunk_log
from gradprobe.training.workers import numbered_groups, one_thread, workers_for


@dataclass(frozen=True, kw_only=True)
class Arguments(Reporting, Threads, Resumable, LandscapeSettings, Budget):
    """Keyword arguments of `landscape`."""


@takes(Arguments)
def landscape(task: Task, operator: AnyOperator, given: Arguments) -> LandscapeResult:
    """Measure the loss of every image at ``theta + a_i d1 + b_j d2``, for every cell of a grid.

    Returns:
        A result whose ``row()`` gives the table's numbers and whose ``surface`` is the mean loss.

    Raises:
        UsageError: a number or name outside what is possible.
        GradprobeError: an operator that breaks its contract or draws noise of its own, or too few images.

    Source: Li et al. 2018, arXiv 1712.09913; DiffPrune, section 3 and Fig. 2.
    """
    return measure(Subject.of(task, operator, given), given, Resources.of(given))


def measure(subject: Subject, settings: LandscapeSettings, resources: Resources) -> LandscapeResult:
    """Answer the question of a subject and settings, see `landscape`."""
    question = question_of(PROBE, subject, settings)
    started = time.perf_counter()
    (batch,) = subject.task.batches(1, settings.images, settings.seed)  # refuses at once if there are too few images
    groups = numbered_groups(batch)
    run = {"question": question, "versions": versions()}
    with (
        tempfile.TemporaryDirectory() as aside,
        open_chunk_log(aside if resources.folder is None else resources.folder, run) as log,
    ):
        axes = _axes(subject, settings, log, resources)
        plane = Plane(subject, axes, settings.seed, settings.noise == "fresh")
        centre = plain_losses(plane, groups, axes.origin)
        again = plain_losses(plane, groups[:1], axes.origin)
        _check_equal(subject.name, centre[: len(groups[0].ids)], again)
        path = [plain_losses(plane, groups, point) for point in axes.checkpoints]
        losses = _grid_losses(plane, groups, log, resources).astype(centre.dtype, copy=False)
    if settings.noise == "common":
        losses[np.ix_(axes.a == 0, axes.b == 0)] = centre  # the plain loss itself, whatever the rounding of a cell
    with one_thread():  # BLAS adds the products of directions in another order on two
        directions = axes.describe()
    return LandscapeResult(
        question=question, losses=losses, a=axes.a, b=axes.b, centre=centre, directions=directions, path=axes.path,
        path_losses=np.stack(path) if path else np.zeros((0, len(centre)), centre.dtype),
        explained=axes.explained, residual=axes.residual,
        environment=environment(time.perf_counter() - started, subject.task.skipped),
    )  # fmt: skip


def check(subject: Subject, settings: LandscapeSettings) -> dict[str, str]:
    """Refuse settings that do not go together; no key is added to the question.

    Raises:
        UsageError: axes without what they need, or with settings of others; parameters that the scorer has not.
    """
    axes, points = settings.axes, settings.checkpoints
    rows, _ = parse_grid(settings.grid)
    if axes == "random":
        select(dict(subject.task.scorer.named_parameters()), settings.params)
    elif (settings.reach, settings.one_d, settings.params) != (None, "zero", "*"):
        raise UsageError(f"--reach, --one-d and --params are for --axes random; --axes {axes} has its own range")
    if axes == "checkpoints" and settings.steps:
        raise UsageError("--axes checkpoints takes no --steps; name steps as points: --axes checkpoints:0,100,200")
    if axes == "pca" and settings.steps < 2:
        raise UsageError("--axes pca draws a training trajectory; give its length, e.g. --steps 200")
    if (axes == "checkpoints") != bool(points):
        raise UsageError("--axes checkpoints needs its points: --axes checkpoints:A,B (a line) or checkpoints:A,B,C")
    if axes == "checkpoints":
        check_points(len(points), rows)
    if hashes := [point for point in points if str(point).startswith(FINGERPRINT)]:
        raise UsageError(
            f"{hashes[0]} is the fingerprint of a checkpoint, not its file; give the files, --axes checkpoints:A,B, or "
            'in a preset where = { checkpoints = "A,B" }'
        )
    return {}


def _axes(subject: Subject, settings: LandscapeSettings, log: ChunkLog, resources: Resources) -> Axes:
    """Train the scorer as far as the axes need it, and return them."""
    rows, columns = parse_grid(settings.grid)
    points = trajectory(subject, settings, log, resources)
    match settings.axes:
        case "pca":
            return pca_axes([points[mark] for mark in sorted(points)], rows, columns)
        case "checkpoints":
            chosen = [points[p] if isinstance(p, int) else read_scorer(subject.task, p) for p in settings.checkpoints]
            return checkpoint_axes(chosen, rows, columns)
    return random_axes(
        points[max(points)],
        rows,
        columns,
        seed=settings.seed,
        reach=settings.reach or REACH,
        one_d=settings.one_d,
        pattern=settings.params,
    )


def _grid_losses(plane: Plane, groups: list[Batch], log: ChunkLog, resources: Resources) -> NDArray[np.float64]:
    """Return the losses ``(A, B, I)`` of all cells; those in the log are not measured again."""
    pieces, cells = pieces_of(plane, groups), (len(plane.axes.a), len(plane.axes.b))
    missing = {number: piece for number, piece in enumerate(pieces) if number not in log.chunks}
    done = sum(piece.size for number, piece in enumerate(pieces) if number in log.chunks)

    def tick() -> None:
        nonlocal done
        done += 1
        resources.report(f"{plane.subject.name}: cells", done // len(groups), cells[0] * cells[1])

    workers = workers_for(plane.subject.task, resources.workers)
    for number, losses in evaluate(plane, groups, missing, workers, tick):
        log.append(number, losses.astype("<f8").tobytes())
    ends = np.cumsum([0, *(len(group.ids) for group in groups)])
    whole = np.empty((*cells, ends[-1]))
    for number, piece in enumerate(pieces):
        values = np.frombuffer(log.chunks[number], "<f8").reshape(piece.size, -1)
        whole[piece.row, piece.columns, ends[piece.group] : ends[piece.group + 1]] = values
    return whole


def _check_equal(name: str, once: np.ndarray, again: np.ndarray) -> None:
    """Refuse losses that are not the same bit for bit when an image is evaluated twice.

    Raises:
        GradprobeError: the operator or the model draws random numbers that `Noise` does not give.
    """
    if not np.array_equal(once, again, equal_nan=True):
        raise GradprobeError(
            f"operator {name} gave the loss {once.mean():g} and then {again.mean():g} for the same scores; draw random "
            f"numbers from the noise that it is given, and nothing from torch's global generator"
        )
