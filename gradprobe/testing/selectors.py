"""Examination of a selector, property by property."""

import inspect
from collections.abc import Callable
from typing import Any

import torch

from gradprobe.devices import cuda_available
from gradprobe.errors import UsageError, in_words
from gradprobe.operators import registry
from gradprobe.operators.fields import make
from gradprobe.operators.third_party import role_of
from gradprobe.testing import selector_properties as properties
from gradprobe.testing.check import finding_of, refuse_broken
from gradprobe.testing.findings import Finding, Skipped
from gradprobe.testing.selector_cases import view_catalogue
from gradprobe.testing.selector_subject import SHAPE, SelectorSubject
from gradprobe.training.workers import one_thread
from gradprobe.view import Selector, SelectorAbout, Unavailable

SELECTOR_PROPERTIES: dict[str, properties.SelectorProperty] = {
    "call": properties.call,
    "budget": properties.budget,
    "order": properties.order,
    "identity": properties.identity,
    "merged": properties.merged,
    "finite": properties.finite,
    "scores": properties.scores_agree,
    "ties": properties.ties,
    "repeatable": properties.repeatable,
    "equivariance": properties.equivariance,
    "keyed by image": properties.keyed_by_image,
    "inputs": properties.inputs_untouched,
    "surroundings": properties.surroundings_untouched,
    "gradient": properties.gradient,
    "flops": properties.flops,
    "declared": properties.declared,
}


def check_selector(selector: Selector | str | type, *, name: str | None = None) -> None:
    """Raise unless a selector has every property of the contract.

    Args:
        selector: Selector, its name as typed on the command line, or its class.
        name: Name in the error; None for the canonical name.

    Raises:
        BrokenContract: A property does not hold; the text gives each one's input, observation, promise and remedy.
        UsageError: An unknown name, or something that is no selector.

    Example:
        >>> check_selector("random")
    """
    made = selector_of(selector)
    refuse_broken(name or registry.label(made), examine_selector(made))


def examine_selector(
    selector: Selector | str | type, *, progress: Callable[[str, int, int], None] | None = None
) -> tuple[Finding, ...]:
    """Examine every property of a selector.

    An exception of the selector is a finding, never a traceback; a view that it refuses with
    `gradprobe.view.Unavailable` is left out.

    Args:
        selector: Selector, its name as typed on the command line, or its class.
        progress: Callback with (name, done, total).

    Returns:
        A finding for each property, in the order of `SELECTOR_PROPERTIES`.

    Raises:
        UsageError: An unknown name, or something that is no selector.

    Example:
        >>> {f.property: f.status for f in examine_selector("random")}["keyed by image"]
        'passed'
    """
    made = selector_of(selector)
    about = getattr(made, "about", None)
    subject = SelectorSubject(registry.label(made), made, about if isinstance(about, SelectorAbout) else None)
    cases = view_catalogue(("cpu", "cuda") if cuda_available() else ("cpu",))
    total = len(cases) + len(SELECTOR_PROPERTIES)

    def done(count: int) -> None:
        if progress is not None:
            progress(subject.name, count, total)

    answers, findings = [], []
    with one_thread(), torch.enable_grad():
        for case in cases:
            answers.append(subject.answer(case))
            done(len(answers))
        subject = SelectorSubject(subject.name, made, subject.about, tuple(answers))
        for name, look in SELECTOR_PROPERTIES.items():
            findings.append(finding_of(name, _refusing(look), subject, SHAPE))
            done(len(answers) + len(findings))
    return tuple(findings)


def selector_of(selector: Selector | str | type) -> Any:
    """Return the selector of a name or a class; an object or function is returned unchanged.

    Raises:
        UsageError: An unknown name, or something that is no selector.
    """
    if isinstance(selector, str):
        made = registry.part("selector", selector)
    else:
        made = make(selector, {}, selector.__name__) if inspect.isclass(selector) else selector
    if not callable(made) or (role := role_of(made)) not in ("selector", "none"):
        kind = f"is {'an' if role == 'operator' else 'a'} {role}" if callable(made) else "cannot be called"
        raise UsageError(f"{in_words(made)} {kind}; a selector is called with (view, k)")
    return made


def _refusing(look: properties.SelectorProperty) -> properties.SelectorProperty:
    """Return a property that is skipped where the selector refuses a view of its own."""

    def asked(subject: SelectorSubject) -> str:
        try:
            return look(subject)
        except Unavailable as reason:
            raise Skipped(" ".join(str(reason).split())) from reason

    asked.__doc__ = look.__doc__
    return asked
