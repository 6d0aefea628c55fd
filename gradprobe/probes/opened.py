"""Stored questions and presets -> subjects and settings; each frozen model is opened once."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from gradprobe.errors import GradprobeError
from gradprobe.operators import registry
from gradprobe.probes import probe_of
from gradprobe.probes.ask import Answer, ask, stored
from gradprobe.probes.contract import Ranking, Resources, Subject, check_keys, check_same, question_of
from gradprobe.settings import RANKED, settings_from
from gradprobe.store.results import Store

ORIGIN = "the question"  # of names that no user typed in this process
OPEN = 2  # tasks that stay open: more would hold more models than a machine may bear
VARIED = ("seed", "k")  # keys in which questions that are measured side by side may differ
UNUSED = "mlp:width=1"  # scorer of a task whose scorer plays no part


class OpenTasks:
    """Tasks of stored questions and presets; a frozen model stays open for the questions that follow."""

    def __init__(self) -> None:
        self._open: dict[str, Any] = {}
        self.known: dict[str, Any] = {}  # outcomes that questions of the run share, see `Resources`

    def task(self, question: Mapping[str, Any], where: Mapping[str, str]) -> Any:
        """Return the task of a question, with a fresh scorer and denoiser of its seed.

        Args:
            question: as `gradprobe.probes.contract.question_of` writes it.
            where: ``weights``, ``data``, ``train_data`` and ``device``, where they differ from the defaults.

        Raises:
            GradprobeError: it is about a model that a Python program handed over, which no file holds.
        """
        from gradprobe.models.own_models import STATE  # torch: stored answers are read and drawn without
        from gradprobe.tasks import maker

        q, seed = question, question.get("seed", 0)
        if str(q["weights"]).startswith(STATE):
            raise GradprobeError(
                f"the question is about a model that Python code handed over ({q['weights']}); ask it there, or save "
                "the weights and name their file with --weights"
            )
        parts = {"scorer": q.get("scorer", UNUSED), "denoiser": q.get("denoiser", "none")}
        for kind, name in parts.items():
            registry.check_trusted(kind, name, ORIGIN)
        weights = where.get("weights", "none" if str(q["weights"]).startswith("random:") else None)
        files: dict[str, Any] = {"weights": weights, "data": where.get("data"), "device": where.get("device", "cpu")}
        files |= {"train_data": where.get("train_data") if "train_data" in q else None}
        model = {name: q.get(name) for name in ("weights_key", "image_size", "class_order")}
        model |= {name: q[name] for name in ("backbone", "layer", "loss", "dtype")} | files
        model |= {"generator": q.get("generator", "host")}
        kind = q.get("task", "classification")
        key = json.dumps([kind, q["weights"], model], sort_keys=True)
        if key not in self._open:
            while len(self._open) >= OPEN:
                del self._open[next(iter(self._open))]
            backbone = model.pop("backbone")
            self._open[key] = maker(kind)(backbone, **parts, **model, seed=seed)
        return self._open[key].with_new_scorer(seed, **parts)


def answered(
    question: Mapping[str, Any],
    where: Mapping[str, str],
    stores: Sequence[Store],
    tasks: OpenTasks,
    resources: Resources = Resources(),
    force: bool = False,
    coming: Sequence[Mapping[str, Any]] = (),
) -> Answer:
    """Answer a question as it is stored or as a preset writes it; a stored answer opens no model.

    Args:
        question: all that decides the numbers.
        where: places of files on this machine.
        stores: searched in order; what is measured is saved in the last.
        tasks: those that are open.
        resources: threads and progress.
        force: measure even if an answer is stored.
        coming: questions that will be asked later, with the same files; see `gradprobe.probes.ask.ask`.

    Raises:
        UsageError: the question lacks a setting, or has one that its probe does not know.
        GradprobeError: it cannot be answered here, or it is about other weights or images than these.
    """
    if not force and (answer := stored(question, stores)) is not None:
        return answer
    probe = probe_of(str(question.get("probe")))
    check_keys(probe, question)
    settings: Any = settings_from(probe.settings, {**question, **where})
    subject = Subject(tasks.task(question, where), operator_of(question), question["k"])
    check_same(question_of(probe, subject, settings), question)
    others: list[tuple[Subject, Any]] = []
    if probe.side_by_side is not None:
        same = {name: value for name, value in question.items() if name not in VARIED}
        for each in coming:
            if {name: value for name, value in each.items() if name not in VARIED} == same:
                own: Any = settings_from(probe.settings, {**each, **where})
                others.append((replace(subject, k=each["k"]), own))
    return ask(probe, subject, settings, stores, replace(resources, known=tasks.known), force, others)


def operator_of(question: Mapping[str, Any]) -> Any:
    """Return the operator or ranking of a stored question; Python files that the user has not named do not run.

    Raises:
        UsageError: an unknown name, or a path that is not trusted.
    """
    registry.check_trusted("plan", question.get("scores"), ORIGIN)
    if "op" not in question:
        return None
    name = str(question["op"])
    registry.check_trusted("operator", name, ORIGIN)
    return Ranking(name.removeprefix(RANKED)) if name.startswith(RANKED) else registry.build(name)
