"""One row for each operator and seed: what it retains, how coherent and how faithful its gradient is."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from gpu_steps.trainings import trained
from gradprobe.core import Task
from gradprobe.errors import GradprobeError
from gradprobe.operators.registry import build
from gradprobe.probes import probe_of
from gradprobe.probes.contract import Resources, Subject
from gradprobe.probes.fidelity import REFERENCE

Row = dict[str, Any]


def operators_by_seeds(
    tasks: tuple[Task, Task],
    operators: Sequence[str],
    seeds: Sequence[int],
    k: int,
    sizes: Mapping[str, Mapping[str, Any]],
    skip: Callable[[str, int], bool],
) -> Iterator[Row]:
    """Yield a row for each operator and seed, operator by operator: its scorers of all seeds train side by side.

    Args:
        tasks: One that is trained and tested on, and one whose images the gradients are measured on.
        operators: Their names, in order.
        seeds: In order.
        k: Tokens kept.
        sizes: Settings of ``retention``, ``coherence`` and ``fidelity``, without their seed.
        skip: Called with operator and seed, before its training and again after it; True: leave this row out.
    """
    task, probed = tasks
    references: dict[int, Any] = {}
    for name in operators:
        operator, todo = build(name), [seed for seed in seeds if not skip(name, seed)]
        recipes = [probe_of("retention").settings(**sizes["retention"], seed=seed) for seed in todo]
        retained = trained([(Subject(task, operator, k), recipe) for recipe in recipes])
        for seed, (result, seconds) in zip(todo, retained, strict=True):
            if skip(name, seed):
                continue
            row: Row = {"op": name, "seed": seed}
            if isinstance(result, str):
                row["retention_error"] = result
            else:
                row |= _retention(result.row()) | {"retention_s": round(seconds, 2)}
            if seed not in references:
                references[seed] = _reference(probed, seed, k, sizes["fidelity"])
            for probe in ("coherence", "fidelity"):
                given = Resources(reference=references[seed] if probe == "fidelity" else None)
                row |= _measured(probe, Subject(probed.with_new_scorer(seed), operator, k), sizes[probe], seed, given)
            yield row


def _reference(task: Task, seed: int, k: int, sizes: Mapping[str, Any]) -> Any:
    """Measure the reference of fidelity, which the operators of a seed share."""
    settings = probe_of("fidelity").settings(**sizes, seed=seed).reference
    return REFERENCE.part("measure")(Subject(task.with_new_scorer(seed), None, k), settings, Resources())


def _measured(probe: str, subject: Subject, sizes: Mapping[str, Any], seed: int, resources: Resources) -> Row:
    """Return the numbers of one probe, or why there are none."""
    began, declared = time.perf_counter(), probe_of(probe)
    try:
        result = declared.part("measure")(subject, declared.settings(**sizes, seed=seed), resources)
    except (GradprobeError, torch.OutOfMemoryError) as error:
        return {f"{probe}_error": str(error).splitlines()[0]}
    return NUMBERS[probe](result.row()) | {f"{probe}_s": round(time.perf_counter() - began, 2)}


def _retention(row: Row) -> Row:
    return {name: row[name] for name in ("retention", "accuracy", "unpruned", "untrained", "loss")}


def _coherence(row: Row) -> Row:
    names = {"coherence": "coherence", "low": "coherence_low", "high": "coherence_high", "centred": "centred"}
    return {own: row[name] for name, own in names.items()}


def _fidelity(row: Row) -> Row:
    """Return the cosine at the largest sigma, and the descent of the deployed loss at the largest step."""
    widest = max(row["sigmas"], key=lambda each: each["sigma"])
    names = ("cosine", "cosine_low", "cosine_high", "cosine_ungated")
    longest = max(row["ladder"], key=lambda each: each["step"], default={})
    descent = {"descent": "rate", "descent_low": "rate_low", "descent_high": "rate_high", "step": "step"}
    return {name: widest[name] for name in names} | {own: longest.get(name) for own, name in descent.items()}


NUMBERS: dict[str, Callable[[Row], Row]] = {
    "coherence": _coherence,
    "fidelity": _fidelity,
}
