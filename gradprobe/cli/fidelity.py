"""``gradprobe fidelity``: operators that share a reference, whose draws double until a tolerance is reached."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

import typer

from gradprobe.cli.probe import Request, combinations, command
from gradprobe.errors import UsageError
from gradprobe.probes.fidelity import PROBE, REFERENCE

FIRST = 64  # draws of the first answer under a tolerance
SECONDS = 600  # that a tolerance may take
Tolerance = Annotated[
    float | None, typer.Option(help="Double the draws until intervals of cosines are narrower than -+ this.")
]
Seconds = Annotated[float | None, typer.Option(help=f"Seconds that --tolerance may take; {SECONDS} by default.")]
Round = tuple[list[Any], list[Any]]  # answers of the references, one a seed, and of each operator and seed


def until(measured: Callable[[int, Any], Round], tolerance: float, budget: float) -> tuple[list[Any], str]:
    """Return answers with more and more draws, and a sentence on what ended it: the tolerance, or the budget.

    Args:
        measured: ``(draws, starts) -> answers of the references and of each operator``; the references go on from the
            results ``starts``, which is None at first.
        tolerance: Half the width of the widest interval of a cosine.
        budget: Seconds.
    """
    from gradprobe.statistics.agreement import widest

    began, draws, starts = time.perf_counter(), FIRST, None
    while True:
        references, answers = measured(draws, starts)
        half = widest([row for row in (a.result.row() for a in answers) if row["gradient"] == "yes"])
        reached = "an undefined cosine" if half == float("inf") else f"-+{half:.3f}"
        if half <= tolerance:
            return answers, f"tolerance {tolerance:g} reached with {draws} draws: the widest interval is {reached}"
        spent = time.perf_counter() - began
        new = draws if draws == FIRST else draws // 2
        first, again = (sum(a.result.environment["seconds"] for a in each) for each in (references, answers))
        more = first * draws / new + again  # as many new draws as there are, and the operators again
        if spent + more > budget:
            why = f"{2 * draws} would take about {more:.0f} s more than the {spent:.0f} s spent"
            return answers, (
                f"stopped at {draws} draws by --budget {budget:g}: {why}; reached {reached} of -+{tolerance:g}"
            )
        draws, starts = 2 * draws, [reference.result for reference in references]


def _prepare(request: Request) -> None:
    """Refuse a tolerance that no interval exceeds; under a tolerance all begin with the same number of draws."""
    tolerance, budget = request.values["tolerance"], request.values["budget"]
    if tolerance is None and budget is not None:
        words = f"give both, as in --tolerance 0.05 --budget {budget:g}, or --draws alone"
        raise UsageError(f"--budget {budget:g} goes with --tolerance; {words}")
    if tolerance is None:
        return
    request.values["budget"] = SECONDS if budget is None else budget
    if tolerance >= 1:
        raise UsageError(f"--tolerance {tolerance:g} is not possible; give half the width of an interval, e.g. 0.05")
    request.settings = list(dict.fromkeys(replace(settings, draws=FIRST) for settings in request.settings))


def _answers(request: Request, progress: Any) -> list[Any]:
    """Answer the questions of all operators, for each budget and settings against one reference a seed."""
    combinations(request)  # refuses an impossible one before any work
    every: list[Any] = []
    for k in request.budgets:
        for seeds in _but_seeds(request.settings):
            measured = partial(_round, request, progress, k, seeds)
            if (tolerance := request.values["tolerance"]) is None:
                _, answers = measured(seeds[0].draws, None)
            else:
                answers, note = until(measured, tolerance, request.values["budget"])
                request.notes.append(note)
            every += answers
    if request.notes:
        request.shown["tolerance"] = "; ".join(request.notes)
    order = list(request.operators)
    return sorted(every, key=lambda answer: order.index(answer.result.question["op"]))


def _but_seeds(settings: Sequence[Any]) -> list[list[Any]]:
    """Return settings that differ in nothing but their seeds together: all of them get as many draws."""
    groups: dict[Any, list[Any]] = {}
    for each in settings:
        groups.setdefault(replace(each, seed=0), []).append(each)
    return list(groups.values())


def _round(request: Request, progress: Any, k: int, seeds: Sequence[Any], draws: int, starts: Any) -> Round:
    """Answer for each seed the question of the reference, once, then those of the operators."""
    references, answers = [], []
    for i, each in enumerate(seeds):
        settings = replace(each, draws=draws)
        start = None if starts is None else starts[i]
        reference = request.ask(None, k, settings.reference, progress, REFERENCE, start=start)
        references.append(reference)
        answers += [
            request.ask(operator, k, settings, progress, reference=reference.result)
            for operator in request.operators.values()
        ]
    return references, answers


fidelity = command(
    PROBE, extra={"tolerance": (Tolerance, None), "budget": (Seconds, None)}, prepare=_prepare, answer=_answers
)
