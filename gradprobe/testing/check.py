"""Examination of an operator, property by property."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

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
OF_A_RELAXATION = ("weights", "budget", "gradient")  # a throttle could hide them


def check_operator(op: AnyOperator, *, name: str | None = None) -> None:
    """Raise unless an operator has every property of the contract.

    Args:
        op: Operator, its name as typed on the command line, or its class.
        name: Name in the error; None for the canonical name.

    Raises:
        BrokenContract: A property does not hold; the text gives each one's input, observation, promise and remedy.
        UsageError: An unknown name, or something that is no operator.

    Example:
        >>> check_operator("lapsum+scale")
    """
    refuse_broken(name or _subject(op).name, examine(op))


def examine(op: AnyOperator, *, progress: Callable[[str, int, int], None] | None = None) -> tuple[Finding, ...]:
    """Examine every property of an operator, and those of its relaxation alone.

    An exception of the operator is a finding, never a traceback.

    Args:
        op: Operator, its name as typed on the command line, or its class.
        progress: Callback with (name, done, total).

    Returns:
        A finding for each property, in the order of `PROPERTIES`.

    Raises:
        UsageError: An unknown name, or something that is no operator.

    Example:
        >>> {f.property: f.status for f in examine("lapsum+gather")}["relaxation: gradient"]
        'passed'
    """
    subject = _subject(op)
    questions = [(name, name, subject) for name in PROPERTIES]
    if isinstance(subject.operator, Operator):
        relaxation = subject.operator.relaxation
        alone = Subject(registry.label(relaxation), Operator(relaxation, Scale()), about_of(relaxation))
        questions += [(f"relaxation: {name}", name, alone) for name in OF_A_RELAXATION]
        if hasattr(relaxation, "log_prob"):
            questions.pop()  # a score function's gradient does not depend on the throttle
    findings: list[Finding] = []
    with one_thread(), torch.enable_grad():
        dtypes = _callable_in(subject)
        for title, name, each in questions:
            if dtypes or name in ("call", "inputs"):
                findings.append(finding_of(title, PROPERTIES[name], replace(each, dtypes=dtypes)))
            else:
                findings.append(Finding(title, "skipped", promise_of(PROPERTIES[name]), told="it cannot be called"))
            if progress is not None:
                progress(subject.name, len(findings), len(questions))
    return tuple(findings)


def _subject(op: AnyOperator) -> Subject:
    operator = registry.build(op)
    return Subject(registry.label(operator), operator, about_of(operator))


def _callable_in(subject: Subject) -> tuple[torch.dtype, ...]:
    """Return the dtypes in which the plainest call works; ``call`` alone reports the others."""
    dtypes = []
    for dtype in DTYPES:
        try:
            with surroundings.surroundings_kept():
                subject(normal_case(dtype=dtype))
        except Broken:
            continue
        dtypes.append(dtype)
    return tuple(dtypes)


def refuse_broken(name: str, findings: tuple[Finding, ...]) -> None:
    """Raise if a property of the contract does not hold.

    Args:
        name: Name in the error.
        findings: Findings of an examination.

    Raises:
        BrokenContract: The text gives each failed property's input, observation, promise and remedy.
    """
    if failed := [f for f in findings if f.status == "failed"]:
        lines = [f"{name} breaks {len(failed)} of {len(findings)} properties", *map(str, failed)]
        raise BrokenContract("\n  ".join(lines))


def finding_of(name: str, look: Callable[[Any], str], subject: Any, shape: str = SHAPE) -> Finding:
    """Examine one property, whatever the subject does meanwhile to global state.

    Args:
        name: Name of the property.
        look: Function of the subject; its docstring begins with the promise.
        subject: Subject of the examination.
        shape: Remedy where the returned object cannot even be read.
    """
    promise = promise_of(look)
    try:
        with surroundings.surroundings_kept():
            return Finding(name, "passed", promise, told=look(subject))
    except Broken as broken:
        return Finding(name, "failed", promise, broken.case, broken.message, broken.remedy)
    except Skipped as skipped:
        return Finding(name, "skipped", promise, told=skipped.message, remedy=skipped.remedy)
    except Exception as error:  # the returned object cannot even be read
        message = f"looking at it raised {type(error).__name__}: {' '.join(str(error).split())}"
        return Finding(name, "failed", promise, "normal", message, shape)


def promise_of(look: Callable[[Any], str]) -> str:
    """Return the promise with which a property's docstring begins."""
    return (look.__doc__ or "").splitlines()[0].rstrip(".")
