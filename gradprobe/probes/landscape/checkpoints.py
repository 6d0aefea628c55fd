"""Checkpoints that span a line or plane: the scorer's parameters along a training, or in files."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load, save

from gradprobe.core import Task
from gradprobe.errors import Notice, UsageError
from gradprobe.files import atomic_write
from gradprobe.landscapes.directions import Params
from gradprobe.models.weights import read_weights
from gradprobe.probes.contract import Resources, Subject
from gradprobe.probes.landscape import LandscapeSettings
from gradprobe.store.chunk_log import ChunkLog
from gradprobe.training.train import training

TRAJECTORY = 11  # checkpoints of a training trajectory, its beginning and end included


def trajectory(subject: Subject, settings: LandscapeSettings, log: ChunkLog, resources: Resources) -> dict[int, Params]:
    """Train the scorer in place; return its parameters after each number of steps that the axes need, ascending.

    They are kept beside the log, so that a resumed run does not train again.
    """
    scorer, marks = subject.task.scorer, _marks(settings)
    if marks == [0]:
        return {0: _parameters(scorer)}
    path = log.beside("safetensors")
    if path.is_file():
        return _restored(path, scorer, marks)
    points = {0: _parameters(scorer)} if 0 in marks else {}
    with subject.task.running():
        steps = training(
            subject.task,
            subject.operator,
            subject.k,
            seed=settings.seed,
            batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
        )
        for step in steps:
            resources.report(f"{subject.name}: training", step, marks[-1])
            if step in marks:
                points[step] = _parameters(scorer)
            if step == marks[-1]:
                break
    atomic_write(path, save({f"{mark}/{p}": value for mark, each in points.items() for p, value in each.items()}))
    return points


def read_scorer(task: Task, path: str | Path) -> Params:
    """Read a scorer's parameters from a safetensors file or a checkpoint of its training.

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


def _marks(settings: LandscapeSettings) -> Sequence[int]:
    """Return the numbers of training steps after which a checkpoint is needed, ascending."""
    if settings.axes == "pca":
        return sorted({round(i * settings.steps / (TRAJECTORY - 1)) for i in range(TRAJECTORY)})
    return sorted({point for point in settings.checkpoints if isinstance(point, int)} or {settings.steps})


def _parameters(scorer: torch.nn.Module) -> Params:
    return {name: p.detach().clone() for name, p in scorer.named_parameters()}


def _restored(path: Path, scorer: torch.nn.Module, marks: Sequence[int]) -> dict[int, Params]:
    """Read the checkpoints of an interrupted run, and put the scorer where its training ended."""
    flat, own = load(path.read_bytes()), dict(scorer.named_parameters())
    points: dict[int, Params] = {mark: {p: flat[f"{mark}/{p}"].to(own[p].device) for p in own} for mark in marks}
    with torch.no_grad():
        for p, value in own.items():
            value.copy_(points[marks[-1]][p])
    return points
