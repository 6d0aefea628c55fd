"""Measurement of a schedule: a search or a grid chooses it, fresh images judge it."""

import json
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
from torch import nn

from gradprobe.core import Batch
from gradprobe.errors import UsageError
from gradprobe.models.rankings import code_of_plan
from gradprobe.probes.contract import Ranking, Resources, Subject, question_of
from gradprobe.probes.environment import environment
from gradprobe.selectors.plan import plan_of
from gradprobe.vlm.schedule import GRID, PROBE, ScheduleSettings
from gradprobe.vlm.schedule.result import ScheduleResult
from gradprobe.vlm.search.asked import Search, Settings, check_named, selector_of
from gradprobe.vlm.search.deployed import Deployed, outcomes
from gradprobe.vlm.search.grid import Counts, best, measurements, schedules
from gradprobe.vlm.search.kernels import Free, kernel_of
from gradprobe.vlm.search.search import search
from gradprobe.vlm.task import Captioning

Made = TypeVar("Made")
Judged = tuple[np.ndarray, np.ndarray]
_measured: WeakKeyDictionary[nn.Module, dict[str, Any]] = WeakKeyDictionary()  # of a model, in this process


@dataclass(frozen=True, eq=False)
class Choice:
    """Schedule that was chosen, with what there is to tell of the choice; arrays as of `ScheduleResult`."""

    counts: Counts
    loss: float
    violations: np.ndarray
    grid: np.ndarray
    grid_losses: np.ndarray


def measure(subject: Subject, settings: ScheduleSettings, resources: Resources) -> ScheduleResult:
    """Choose a schedule within a budget and measure it on fresh images, with tokens really dropped.

    Args:
        subject: Captioning, with a selector inside the language model.
        settings: Kernel, budget, search and images.
        resources: Folder of the search's checkpoint or of the grid's measured schedules, and progress.

    Raises:
        UsageError: What is asked is not possible with this model or these images.
        GradprobeError: A loss is no finite number, or a file cannot be read or written.
    """
    question, started = question_of(PROBE, subject, settings), time.perf_counter()
    asked = search_of(subject, settings)
    asked.check([settings.budget])
    label = f"{subject.name}, {settings.kernel} at {settings.budget:g}, seed {settings.seed}"
    with ExitStack() as held:
        folder = Path(resources.folder or held.enter_context(TemporaryDirectory()))
        choose = _of_grid if settings.kernel == GRID else _searched
        choice = choose(asked, settings.budget, folder, partial(resources.report, label))
    seconds = time.perf_counter() - started
    groups = fresh(asked, settings.images)
    losses, right = _judged(asked, choice.counts, groups)
    whole = (asked.spending.tokens,) * asked.spending.layers
    make = partial(_judged, asked, whole, groups)
    whole_losses, whole_right = _once(asked, f"all tokens, {settings.images}", make)
    resources.report(label, 1, 1)
    return ScheduleResult(
        question=question,
        counts=np.array(choice.counts, np.int32),
        share=float(asked.spending.share(choice.counts)),
        chosen_loss=choice.loss,
        losses=losses,
        right=right,
        whole_losses=whole_losses,
        whole_right=whole_right,
        violations=choice.violations,
        grid=choice.grid,
        grid_losses=choice.grid_losses,
        environment=environment(time.perf_counter() - started, subject.task.skipped)
        | {"chosen_seconds": round(seconds, 2)},
    )


def check(subject: Subject, settings: ScheduleSettings) -> Mapping[str, Any]:
    """Refuse another task, an operator, fewer than all tokens before the language model, and settings of no search.

    Returns:
        Keys of the question that the subject decides: the scorer plays no part.

    Raises:
        UsageError: As said.
    """
    if not isinstance(subject.task, Captioning):
        raise UsageError("a schedule is of a vision-language model; give one as the task: --task photos-vlm")
    if not isinstance(subject.operator, Ranking):
        raise UsageError(f"{subject.name} is no selector inside a language model; name one, such as ranked:fastv")
    if subject.k != (n := subject.task.n_tokens):
        raise UsageError(f"k = {subject.k} is not possible: layer 0 reads all {n} tokens, and a budget says the rest")
    asked = search_of(subject, settings)
    check_named(asked.selector, [settings.budget])
    code = code_of_plan(plan_of(subject.operator.name))
    return {**dict.fromkeys(("scorer", "denoiser", "train_data")), "op_code": code}


def search_of(subject: Subject, settings: ScheduleSettings) -> Search:
    """Return the search of a question; of a grid one whose kernel plays no part."""
    kernel = Free() if settings.kernel == GRID else kernel_of(settings.kernel)
    own: dict[str, Any] = {f.name: getattr(settings, f.name) for f in fields(Settings) if hasattr(settings, f.name)}
    return Search(subject.task, selector_of(subject.operator.name), kernel, Settings(**own))


def fresh(asked: Search, images: int) -> tuple[Batch, ...]:
    """Return held-out images behind those that choose the schedule.

    Raises:
        UsageError: There are too few.
    """
    chosen, there = asked.settings.validation, asked.task.source.size
    if there < chosen + images:
        raise UsageError(
            f"{chosen} held-out images choose the schedule and {images} others judge it, and there are {there}; give "
            f"fewer, such as {max(3, there - chosen)} images, or more captioned images"
        )
    return asked.held_out(chosen, images)


def _searched(asked: Search, budget: float, folder: Path, progress: Callable[[int, int], None]) -> Choice:
    """Return the schedule that a search finds."""
    found = search(asked, budget, folder / "search.safetensors", progress)
    violations = [iterate["violation"] for iterate in found.iterates if "violation" in iterate]
    none = np.zeros((0, len(found.counts)), np.int32)
    return Choice(found.counts, found.deployed.loss, np.array(violations), none, np.zeros(0))


def _of_grid(asked: Search, budget: float, folder: Path, progress: Callable[[int, int], None]) -> Choice:
    """Return the best schedule of the default grid within the budget; budgets share what was measured."""
    wanted = schedules(asked.spending, (), budget)
    known: dict[Counts, Deployed] = _once(asked, "grid", dict)
    measured = measurements(asked, wanted, folder / "schedules.json", progress, known)
    known.update(measured.outcomes)
    counts = best(measured, asked.spending, budget)
    assert counts is not None  # `schedules` returns one at least
    losses = np.array([measured.outcomes[each].loss for each in wanted])
    return Choice(counts, measured.outcomes[counts].loss, np.zeros(0), np.array(wanted, np.int32), losses)


def _judged(asked: Search, counts: Counts, groups: tuple[Batch, ...]) -> Judged:
    """Return the caption loss of each image and the flags of right answers, none where there are no questions."""
    losses, right = outcomes(asked.task, asked.selector, counts, groups, asked.settings.seed)
    flags = np.zeros(0, np.bool_) if right is None else right.cpu().numpy()
    return losses.cpu().numpy().astype(np.float32), flags


def _once(asked: Search, words: str, make: Callable[[], Made]) -> Made:
    """Return what was made for the same model, selector and images before, else make it."""
    kept = _measured.setdefault(asked.task.vlm.model, {})
    key = json.dumps([words, asked.question], sort_keys=True)
    if key not in kept:
        kept[key] = make()
    made: Made = kept[key]
    return made
