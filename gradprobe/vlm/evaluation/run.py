"""Evaluation of a model on a benchmark: answered from a store, else through lmms-eval and saved."""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isclose
from pathlib import Path
from typing import Any

from gradprobe.data.fingerprints import model_fingerprint
from gradprobe.errors import GradprobeError
from gradprobe.models.rankings import code_of_plan
from gradprobe.probes.ask import stored
from gradprobe.probes.contract import Resources
from gradprobe.probes.environment import environment
from gradprobe.settings import RANKED, asked
from gradprobe.store.leftovers import FORCED
from gradprobe.store.results import Store
from gradprobe.vlm.evaluation import UNPRUNED, EvaluationSettings
from gradprobe.vlm.evaluation.benchmarks import Benchmark
from gradprobe.vlm.evaluation.generation import Answering
from gradprobe.vlm.evaluation.groups import units_of
from gradprobe.vlm.evaluation.harness import graded
from gradprobe.vlm.evaluation.installed import lmms_eval_version
from gradprobe.vlm.evaluation.log import Log
from gradprobe.vlm.evaluation.prepared import Prepared, prepared
from gradprobe.vlm.evaluation.result import EvaluationResult
from gradprobe.vlm.model import VLM
from gradprobe.vlm.pruner import Pruner


@dataclass(frozen=True)
class Evaluated:
    """Subject of an evaluation.

    Attributes:
        model: The model, or its pruner.
        benchmark: The benchmark.
        data: Folder of prepared benchmarks.
    """

    model: VLM | Pruner
    benchmark: Benchmark
    data: Path

    @property
    def vlm(self) -> VLM:
        """The model that is asked."""
        return self.model.vlm if isinstance(self.model, Pruner) else self.model

    @property
    def record(self) -> Prepared:
        """Record of the benchmark.

        Raises:
            GradprobeError: It is not prepared.
        """
        return prepared(self.data, self.benchmark)

    def question(self, settings: EvaluationSettings) -> dict[str, Any]:
        """Return all that decides the answers and their scores, in JSON types."""
        vlm = self.vlm
        names = {"probe": "evaluation", "task": self.benchmark.name, "backbone": vlm.name}
        names |= {"weights": model_fingerprint(vlm.name), "data": self.record.fingerprint}
        names |= {"dtype": str(vlm.model.dtype).removeprefix("torch."), "lmms_eval": lmms_eval_version()}
        return names | asked(settings) | selection_of(self.model)

    def limit(self, settings: EvaluationSettings) -> int | None:
        """Return the number of questions of whole units; None: all."""
        return None if settings.samples is None else self.record.whole(settings.samples)


@dataclass(frozen=True)
class Answer:
    """Answer to a question: its result, where it is stored, and whether it was computed now."""

    result: EvaluationResult
    path: Path
    computed: bool


def measure(subject: Evaluated, settings: EvaluationSettings, resources: Resources) -> EvaluationResult:
    """Answer and grade a benchmark.

    Args:
        subject: Model and benchmark.
        settings: Of the evaluation.
        resources: Folder in which answers are kept until all are there, and progress.
    """
    began, question = time.monotonic(), subject.question(settings)
    words = f"{subject.benchmark.column}, {question['op'].removeprefix(RANKED)}"
    folder = None if resources.folder is None else Path(resources.folder)
    log = Log(folder, question, lambda done, total: resources.report(words, done, total))
    answering = Answering(subject.model, settings.batch_size)
    place = subject.data / subject.benchmark.name
    found = graded(answering, subject.benchmark, place, log, subject.limit(settings))
    units, parts = units_of(subject.benchmark, found.samples)
    answers = tuple(str(sample["filtered_resps"][0]) for sample in found.samples)
    skipped = tuple(name for _, name, _ in subject.record.skipped)
    circumstances = environment(time.monotonic() - began, skipped)
    shown = found.score * subject.benchmark.reported
    result = EvaluationResult(question, answers, units, parts, shown, circumstances)
    if not isclose(ours := result.estimate.value, shown, rel_tol=1e-6, abs_tol=1e-6):
        raise GradprobeError(
            f"{subject.benchmark.name}: lmms-eval {question['lmms_eval']} gives a score of {shown:g}, and the grades "
            f"of the single questions make {ours:g}; install lmms-eval 0.7.3, whose scores are known"
        )
    return result


def evaluate(
    subject: Evaluated,
    settings: EvaluationSettings,
    stores: Sequence[Store],
    *,
    force: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> Answer:
    """Return the scores of a model on a benchmark: from the first store that has them, else computed and saved.

    An interrupted evaluation goes on after the last batch that was answered.

    Args:
        subject: Model and benchmark.
        settings: Of the evaluation.
        stores: Searched in order; what is computed is saved in the last.
        force: Compute even what is stored.
        progress: Called with (description, done, of how many).

    Raises:
        GradprobeError: The benchmark is not prepared, lmms-eval is missing, or a store cannot be read or written.
    """
    question = subject.question(settings)
    if not force and (answer := stored(question, stores)) is not None:
        return Answer(answer.result, answer.path, computed=False)
    with stores[-1].working(question, force) as partial:
        if not force and (answer := stored(question, stores[-1:])) is not None:  # another process worked on it till now
            return Answer(answer.result, answer.path, computed=False)
        result = measure(subject, settings, Resources(folder=partial, progress=progress))
        (partial / FORCED).unlink(missing_ok=True)
        path = stores[-1].save(result)
        shutil.rmtree(partial, ignore_errors=True)
    return Answer(result, path, computed=True)


def selection_of(model: VLM | Pruner) -> dict[str, Any]:
    """Return what selects, in JSON types."""
    if not isinstance(model, Pruner):
        return {"op": UNPRUNED}
    plan = model.plan
    chosen: dict[str, Any] = {"op": f"{RANKED}{plan.label}"}
    if model.budget is not None:
        budget = {name: getattr(model.budget, name) for name in ("k", "ratio", "average")}
        chosen |= {name: value for name, value in budget.items() if value is not None}
    if plan.positions != "keep":
        chosen["positions"] = plan.positions
    if model.scorer is not None:
        chosen["trained"] = _scorer_hash(model)
    if code := code_of_plan(plan):
        chosen["op_code"] = code
    return chosen


def _scorer_hash(model: Pruner) -> str:
    """Return a hash of the parameters of a trained scorer."""
    assert model.scorer is not None
    digest = hashlib.sha256(json.dumps(model.metadata.get("scorer"), sort_keys=True).encode())
    for name, value in sorted(model.scorer.state_dict().items()):
        digest.update(name.encode() + value.detach().float().cpu().numpy().tobytes())
    return f"sha256:{digest.hexdigest()[:16]}"
