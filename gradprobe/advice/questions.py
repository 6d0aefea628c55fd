"""The questions of an advice: the confirmed measure of the fresh scorer, trainings, and rankings without training."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from gradprobe.advice import measures
from gradprobe.advice.asking import Means, Question, Stage, answers
from gradprobe.advice.candidates import Candidate
from gradprobe.advice.measures import Measured
from gradprobe.advice.model import Model, on_training_images, opened, places
from gradprobe.advice.plan import FLOORS, Plan
from gradprobe.advice.schedule import Rung
from gradprobe.errors import GradprobeError
from gradprobe.models.rankings import fault_of
from gradprobe.probes.contract import Ranking, Subject
from gradprobe.probes.fidelity import PROBE as FIDELITY
from gradprobe.probes.fidelity import REFERENCE
from gradprobe.probes.retention import PROBE as RETENTION
from gradprobe.probes.retention import RetentionSettings


@dataclass(frozen=True)
class Asking:
    """Everything that the questions of one advice have in common.

    Attributes:
        model: arguments that name it.
        task: open; every question gets a fresh scorer of its seed.
        k: tokens kept.
        batch_size: images in a training step.
        seeds: in the order in which they are used.
        means: of asking.
        plan: of the work.
    """

    model: Model
    task: Any
    k: int
    batch_size: int
    seeds: tuple[int, ...]
    means: Means
    plan: Plan

    def measured(self, every: Sequence[Candidate], measure: str) -> tuple[list[Measured], dict[str, str], float]:
        """Return candidates by the measure, the reasons of those without one, and the seconds that it took.

        The reference comes first, so that workers do not each make their own.

        Raises:
            GradprobeError: none of them can be measured.
        """
        model, plan, settings = on_training_images(self.model), self.plan, self.plan.fidelity
        assert settings is not None
        task = self.task if model is self.model else opened(model, self.seeds[0])[0]
        stage = Stage(f"{measure} of {len(every)} candidates", plan.timing, plan.measure, plan.total)
        reference = Question(REFERENCE, Subject(task, None, self.k), settings.reference, places(model))
        first = answers([reference], self.means, replace(stage, label="reference of all candidates", seconds=0.0))
        asked = [Question(FIDELITY, Subject(task, c.beginning, self.k), settings, places(model)) for c in every]
        results = dict(zip([c.label for c in every], answers(asked, self.means, stage), strict=True))
        failed = {label: str(r) for label, r in results.items() if isinstance(r, GradprobeError)}
        known = {label: r for label, r in results.items() if label not in failed}
        if not known:
            raise GradprobeError(f"no candidate could be measured; the first: {next(iter(failed.values()))}")
        placed = measures.ranked(measure, known)
        failed |= dict.fromkeys(known.keys() - {each.label for each in placed}, "no gradient reaches the scores")
        return placed, failed, sum(r.environment["seconds"] for r in [*first, *known.values()])

    def trained(self, rung: Rung, some: Sequence[Candidate]) -> list[list[Any]]:
        """Return the results of a rung's trainings, for each candidate a result or an error a seed."""
        plan, seeds = self.plan, self.seeds[: rung.seeds]
        number = plan.rungs.index(rung)
        label = f"rung {number + 1} of {len(plan.rungs)}: {len(some)} candidates, {rung.steps} steps"
        before = plan.timing + plan.measure + sum(plan.trainings[:number])
        asked = [
            Question(RETENTION, Subject(self.task, c.operator, self.k), self._recipe(c, rung, seed), places(self.model))
            for c in some
            for seed in seeds
        ]
        results = answers(asked, self.means, Stage(label, before, plan.trainings[number], plan.total))
        return [results[i * len(seeds) : (i + 1) * len(seeds)] for i in range(len(some))]

    def floors(self) -> dict[str, list[Any]]:
        """Return the results of the rankings that the task allows, one a seed, on the images of the last rung."""
        rung, total = self.plan.rungs[-1], self.plan.total
        (one,) = self.task.batches(1, 1, self.seeds[0])
        names = [name for name in FLOORS if fault_of(self.task, name, self.k, one) is None]
        asked = [
            Question(RETENTION, Subject(self.task, Ranking(name), self.k), settings, places(self.model))
            for name in names
            for seed in self.seeds[: rung.seeds]
            for settings in [RetentionSettings(steps=0, images=rung.images, seed=seed)]
        ]
        results = answers(asked, self.means, Stage("rankings without training", total, 0.0, total))
        by_name = {name: results[i * rung.seeds : (i + 1) * rung.seeds] for i, name in enumerate(names)}
        return {n: each for n, each in by_name.items() if not any(isinstance(r, GradprobeError) for r in each)}

    def _recipe(self, candidate: Candidate, rung: Rung, seed: int) -> RetentionSettings:
        first, last = candidate.tau
        size = self.batch_size
        return RetentionSettings(
            steps=rung.steps, batch_size=size, tau_start=first, tau_end=last, images=rung.images, seed=seed
        )
