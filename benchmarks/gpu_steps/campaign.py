"""Run of the steps in turn: each within its bound and the budget, each failure written down and passed over."""

import math
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from gpu_steps.machine import clear, is_broken, machine
from gpu_steps.report import BOUND, DONE, FAILED, Report, read, strict
from gpu_steps.step import Setup, Step
from gradprobe.errors import UsageError

SKIPPED, EARLIER = "skipped", "measured earlier"
LINES = 12  # of a traceback
Say = Callable[[str], None]
Clock = Callable[[], float]


@dataclass(frozen=True)
class Outcome:
    """Outcome of a step.

    Attributes:
        step: The step.
        status: ``done``, ``bound reached``, ``failed``, ``skipped`` or ``measured earlier``.
        content: Content of its file; None where it has none.
        reason: Why it was skipped or failed.
        broken: Whether the device can no longer be used in this process.
    """

    step: Step
    status: str
    content: dict[str, Any] | None = None
    reason: str = ""
    broken: bool = False


def chosen(steps: Sequence[Step], only: str | None) -> list[Step]:
    """Return the steps of a list of letters, in their own order; all without one.

    Raises:
        UsageError: A letter that no step has, or none.
    """
    letters = [step.letter for step in steps]
    asked = letters if only is None else [each.strip() for each in only.split(",")]
    if unknown := [each for each in asked if each not in letters]:
        raise UsageError(f"--only {unknown[0]!r} is no step; give some of {','.join(letters)}, e.g. --only a,c")
    return [step for step in steps if step.letter in asked]


def run(
    steps: Sequence[Step], setup: Setup, budget: float, say: Say = print, clock: Clock = time.monotonic
) -> list[Outcome]:
    """Run steps one after another; end early where the device is broken.

    A step gets its bound, but leaves those after it the least that they need; without that for itself it is skipped.
    One that was measured with the same settings on the same device is not run again, and one that is unfinished goes
    on from its rows.

    Args:
        steps: In their order.
        setup: Device, sizes and folders, which exist.
        budget: Seconds in all.
        say: Called with a line when a step begins and ends.
        clock: Function that returns the time in seconds.
    """
    facts, began = machine(setup.device), clock()
    outcomes: list[Outcome] = []
    for number, step in enumerate(steps):
        left = budget - (clock() - began)
        later = sum(each.least for each in steps[number + 1 :])
        seconds = min(step.bound, max(left - later, step.least)) if left >= step.least else 0.0
        outcome = _run(step, setup, facts, seconds, clock, partial(_prefixed, say, f"{step.letter}  {step.about}: "))
        outcomes.append(outcome)
        clear(setup.device)
        if outcome.broken:
            break
    return outcomes


def _prefixed(say: Say, prefix: str, text: str) -> None:
    say(prefix + text)


def _run(step: Step, setup: Setup, facts: dict[str, Any], seconds: float, clock: Clock, say: Say) -> Outcome:
    """Run one step in the seconds allowed to it; 0: it is skipped unless it was measured earlier."""
    path, base = setup.out / step.file, {"device": setup.device, "tiny": setup.tiny}
    try:
        code = step.code()
        settings = strict(base | code.settings(setup))
    except Exception as error:  # a step that cannot even be prepared is no reason to lose the others
        head = {"step": step.letter, "about": step.about, "settings": base, "machine": facts}
        return _failed(step, Report(path, head, clock=clock), error, say)
    earlier = read(path) or {}
    same = earlier.get("settings") == settings and earlier["machine"]["device"] == facts["device"]
    if same and earlier["status"] == DONE:
        say(f"measured earlier, {path}")
        return Outcome(step, EARLIER, earlier)
    if not seconds:
        say(reason := f"too little of the budget is left: it needs {step.least:g} s")
        return Outcome(step, SKIPPED, reason=reason)
    say("begins" if setup.tiny else f"begins, at most {seconds:.0f} s")
    head = {"step": step.letter, "about": step.about, "settings": settings, "machine": facts}
    judged = setup.device == "cuda" and not setup.tiny
    rows = earlier["rows"] if same else []
    report = Report(path, head, math.inf if setup.tiny else seconds, judged, rows, clock=clock)
    try:
        code.measure(setup, settings, report)
    except Exception as error:  # of any step: the next one is run
        return _failed(step, report, error, say)
    content = report.end()
    for each in report.missing:
        say(f"not measured: {each}")
    say(f"{content['seconds']:.1f} s")
    return Outcome(step, BOUND if report.missing else DONE, content)


def _failed(step: Step, report: Report, error: Exception, say: Say) -> Outcome:
    """Write down why a step failed, beside what it had measured."""
    lines = "".join(traceback.format_exception(error)).strip().splitlines()
    text = f"{type(error).__name__}: {error}"
    content = report.end({"message": text, "traceback": "\n".join(lines[-LINES:])})
    say(f"failed: {text.splitlines()[0]}")
    return Outcome(step, FAILED, content, text.splitlines()[0], is_broken(error))
