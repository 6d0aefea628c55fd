"""Several trainings of one operator side by side: one encoder batch for their scorers."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from torch import Tensor

from gradprobe.deferred import deferring, settle
from gradprobe.errors import UsageError
from gradprobe.probes.contract import Resources, Subject
from gradprobe.probes.retention import RetentionSettings
from gradprobe.probes.retention.result import RetentionResult
from gradprobe.probes.retention.training_run import TrainingRun
from gradprobe.training.joined import Joined, apart, together
from gradprobe.training.scorer_trainer import ScorerTrainer


def alike(one: tuple[Subject, RetentionSettings], other: tuple[Subject, RetentionSettings]) -> bool:
    """Tell whether two questions can be trained side by side: they differ in the seed and the tokens kept alone."""
    (a, of_a), (b, of_b) = one, other
    if not of_a.steps or a.name != b.name or {**vars(of_a), "seed": 0} != {**vars(of_b), "seed": 0}:
        return False
    return a.task.question == b.task.question  # random weights are another model for each seed


def measure_all(
    subjects: Sequence[Subject], settings: Sequence[RetentionSettings], resources: Sequence[Resources]
) -> list[RetentionResult]:
    """Answer questions that are `alike`, with the numbers of separate trainings to rounding.

    Each keeps its own checkpoint, as a training alone does; those that have come equally far go on side by side.

    Args:
        subjects: One for each question, with a task of its own scorer.
        settings: Of each.
        resources: Of each; a folder for its checkpoint and its scorer.

    Raises:
        UsageError: The questions are not alike.
        GradprobeError: As a training alone; or scorers, images or targets that cannot be joined.
    """
    each = list(zip(subjects, settings, strict=True))
    if not all(alike(each[0], other) for other in each[1:]):
        raise UsageError("trainings side by side differ in seeds and tokens kept alone")
    runs = [TrainingRun(*question, means) for question, means in zip(each, resources, strict=True)]
    losses: dict[int, list[float]] = {}
    with ExitStack() as held:
        for run in runs:
            held.enter_context(run.claimed())
        states = [run.restored() for run in runs]
        done = [0 if state is None else state["losses"].shape[-1] for state in states]
        for steps in sorted(set(done)):
            here = [i for i, d in enumerate(done) if d == steps]
            trained = _train([runs[i] for i in here], [states[i] for i in here])
            losses |= dict(zip(here, trained, strict=True))
        results = []
        for i, run in enumerate(runs):
            with run.subject.task.running():
                results.append(run.result(losses[i]))
    return results


def _train(runs: Sequence[TrainingRun], states: Sequence[Mapping[str, Tensor] | None]) -> list[list[float]]:
    """Take all steps of trainings that have come equally far; return the losses of each."""
    first, count = runs[0], len(runs)
    subject, steps, report = first.subject, first.recipe.steps, first.resources.report
    task: Any = subject.task
    if count > 1:
        seeds, budgets = zip(*((run.settings.seed, run.subject.k) for run in runs), strict=True)
        task = Joined(tuple(run.subject.task for run in runs), seeds, budgets)
    trainer = ScorerTrainer(task, subject.operator, subject.k, subject.name, first.recipe, first.threads)
    if known := [state for state in states if state is not None]:
        trainer.load_state_dict(known[0] if count == 1 else together(known))
    label = ", ".join(run.label for run in runs)
    with task.running(), deferring():
        for run in runs:
            run.share = 1 / count
            run.begin()
        for step in trainer.run():
            looks, saves = first.look_is_due(step), any(run.save_is_due(step) for run in runs)
            if looks and count > 1:
                task.write()
            for run in runs if looks else ():
                run.look()
            if saves:
                settle()  # no checkpoint holds a scorer that came of a bad gradient
                state = trainer.state_dict()
                for run, own in zip(runs, [state] if count == 1 else apart(state, count), strict=True):
                    if run.save_is_due(step):
                        run.save(own)
            report(f"{label}: training", step, steps)
    if count > 1:
        task.write()
    losses = trainer.losses
    return [losses] if count == 1 else [list(own) for own in zip(*losses, strict=True)]
