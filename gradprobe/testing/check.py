"""Hold an operator to what every operator promises."""

from collections.abc import Callable
from dataclasses import replace

import torch

from gradprobe.core import AnyOperator, Operator
from gradprobe.operator_info import about_of
from gradprobe.operators import registry
from gradprobe.operators.throttles.scale import Scale
from gradprobe.testing import gradients, properties, surroundings
from gradprobe.testing.cases import DTYPES, normal_case
from gradprobe.testing.findings import SHAPE, Broken, BrokenContract, Finding, Skipped, Subject
from gradprobe.training.workers import one_thread

PROPERTIES: dict[str, properties.Property] = {
    "call": properties.call,
    "weights": properties.weights_in_range,
    "budget": properties.budget,
    "identity": properties.identity,
    "equivariance": properties.equivariance,
    "repeatable": properties.repeatable,
    "fresh noise": properties.fresh_noise,
    "inputs": surroundings.inputs_untouched,
    "surroundings": surroundings.surroundings_untouched,
    "finite": gradients.finite,
    "keyed by image": gradients.keyed_by_image,
    "gradient": gradients.gradient_kind,
}
OF_A_RELAXATION = ("weights", "budget", "gradient")  # what a throttle could hide


def check_operator(op: AnyOperator, *, name: str | None = None) -> None:
    """Raise unless an operator keeps every promise that operators make.

    Args:
        op: an operator, its name as typed on the command line, or its class.
        name: what the error calls it; None: its canonical name.

    Raises:
        BrokenContract: some property does not hold; the text names each, with its input, what was seen, what is
            promised and what to do.
        UsageError: an unknown name, or what is no operator.

    Example:
        >>> check_operator("lapsum+scale")
    """
    findings = examine(op)
    if failed := [f for f in findings if f.status == "failed"]:
        called = name or _subject(op).name
        lines = [f"{called} breaks {len(failed)} of {len(findings)} properties", *map(str, failed)]
        raise BrokenContract("\n  ".join(lines))


def examine(op: AnyOperator, *, progress: Callable[[str, int, int], None] | None = None) -> tuple[Finding, ...]:
    """Look at every property of an operator, and at those of its relaxation by itself.

    Nothing that an operator does ends in a traceback: an exception of its own is a finding.

    Args:
        op: an operator, its name as typed on the command line, or its class.
        progress: called with (what, done, of how many).

    Returns:
        A finding for each property, in the order of `PROPERTIES`.

    Raises:
        UsageError: an unknown name, or what is no operator.

    Example:
        >>> {f.property: f.status for f in examine("lapsum+gather")}["relaxation: gradient"]
        'passed'
    """
    subject = _subject(op)
    asked = [(name, name, subject) for name in PROPERTIES]
    if isinstance(subject.operator, Operator):
        relaxation = subject.operator.relaxation
        alone = Subject(registry.label(relaxation), Operator(relaxation, Scale()), about_of(relaxation))
        asked += [(f"relaxation: {name}", name, alone) for name in OF_A_RELAXATION]
        if hasattr(relaxation, "log_prob"):
            asked.pop()  # a score function's gradient is the operator's, whatever the throttle
    findings: list[Finding] = []
    with one_thread(), torch.enable_grad():
        found = _callable_in(subject)
        for title, name, each in asked:
            if found or name in ("call", "inputs"):
                findings.append(_finding(title, PROPERTIES[name], replace(each, dtypes=found)))
            else:
                findings.append(Finding(title, "skipped", _promise(PROPERTIES[name]), told="it cannot be called"))
            if progress is not None:
                progress(subject.name, len(findings), len(asked))
    return tuple(findings)


def _subject(op: AnyOperator) -> Subject:
    operator = registry.build(op)
    return Subject(registry.label(operator), operator, about_of(operator))


def _callable_in(subject: Subject) -> tuple[torch.dtype, ...]:
    """The precisions in which the plainest call works; what fails in the others is told once, by ``call``."""
    found = []
    for dtype in DTYPES:
        try:
            with surroundings.surroundings_kept():
                subject(normal_case(dtype=dtype))
        except Broken:
            continue
        found.append(dtype)
    return tuple(found)


def _finding(name: str, look: properties.Property, subject: Subject) -> Finding:
    promise = _promise(look)
    try:
        with surroundings.surroundings_kept():
            return Finding(name, "passed", promise, told=look(subject))
    except Broken as broken:
        return Finding(name, "failed", promise, broken.case, broken.told, broken.remedy)
    except Skipped as skipped:
        return Finding(name, "skipped", promise, told=skipped.told, remedy=skipped.remedy)
    except Exception as error:  # what it returned cannot even be looked at
        told = f"looking at it raised {type(error).__name__}: {' '.join(str(error).split())}"
        return Finding(name, "failed", promise, "normal", told, SHAPE)


def _promise(look: properties.Property) -> str:
    return (look.__doc__ or "").splitlines()[0].rstrip(".")
