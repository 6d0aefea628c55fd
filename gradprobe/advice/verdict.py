"""Words of an advice: the operator to use, its price, what it is expected to retain, and what would change that."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from gradprobe.advice import measures
from gradprobe.advice.advice import Advice
from gradprobe.advice.candidates import USUAL, Candidate, words
from gradprobe.advice.command import command, in_python
from gradprobe.advice.questions import Asking
from gradprobe.advice.rows import (
    Evidence,
    Row,
    candidate_rows,
    narrowly_left,
    ranking_rows,
    rung_rows,
    runners_up,
    seconds_of,
)
from gradprobe.plotting.columns import interval, number, seeds
from gradprobe.probes.metrics import FEWEST_SEEDS


def advice_of(evidence: Evidence, asking: Asking, measure: str | None, model: str, wanted: Any) -> Advice:
    """Return the advice that rests on some evidence.

    Args:
        evidence: of the candidates.
        asking: how it was asked for.
        measure: name of the confirmed measure; None: none is.
        model: name of the model.
        wanted: arguments of `gradprobe.advice.run.advise`.
    """
    best, rows, rankings = evidence.best, candidate_rows(evidence), ranking_rows(evidence)
    alike, n = runners_up(evidence), asking.task.n_tokens
    rungs = rung_rows(evidence, asking.seeds)
    expected = rungs[-1]["trained"][0] if rungs else None
    price = _price(rows, evidence, best)
    settings = {"backbone": model, "k": asking.k, "tokens": n, "steps": wanted.steps, "batch_size": wanted.batch_size}
    settings |= {name: value for name, value in asking.task.question.items() if name not in settings}
    return Advice(
        title=f"{model}, K = {asking.k} of {n}",
        verdict=(
            _use(best, rows[0], expected, measure, asking.k, n), _priced(price), *_alike(rows, alike, expected),
            *_ranked(evidence, measure), *_floors(rankings, expected), *_short(rungs, wanted.steps),
        ),
        op=best.op,
        tau=words(best.tau),
        command=(in_python if wanted.is_open else command)(best, asking, wanted),
        expected=expected,
        price=price,
        runners_up=tuple(alike),
        measure=measure,
        candidates=tuple(rows),
        rungs=tuple(rungs),
        rankings=tuple(rankings),
        changes=tuple(_changes(evidence, expected)),
        missing=dict(evidence.failed) | {label: why for t in evidence.rungs for label, why in t.failed.items()},
        seconds=_seconds(evidence, rungs, wanted.budget),
        settings=settings,
    )  # fmt: skip


def _use(best: Candidate, row: Row, expected: Row | None, measure: str | None, k: int, n: int) -> str:
    tau = "" if best.tau == USUAL else f" with --tau {words(best.tau)}"
    use = f"Use {best.op}{tau} at K = {k} of {n}"
    if expected is None:
        value = measures.written(str(measure), row["value"], row["value_low"], row["value_high"])
        return f"{use}: first by {measures.WORDS[str(measure)]}, {value}; nothing was trained (--no-confirm)."
    count = len(expected["by_seed"])
    if count >= FEWEST_SEEDS:
        kept = interval(expected["retention"], expected["low"], expected["high"])
        return f"{use}: expected to retain {kept}, over {seeds(count)}."
    values = ", ".join(number(value, 3) for value in expected["by_seed"])
    decide = "1 seed decides nothing" if count == 1 else f"{count} seeds decide nothing"
    return f"{use}: expected to retain {number(expected['retention'], 3)} ({decide}: {values})."


def _price(rows: Sequence[Row], evidence: Evidence, best: Candidate) -> Row:
    step, forward = evidence.costs.step[best.op], evidence.costs.forward[best.op]
    cheapest = min(rows, key=lambda row: row["step"])
    return {"step": step, "forward": forward, "relative": step / cheapest["step"], "cheapest": cheapest["op"]}


def _priced(price: Row) -> str:
    least = f"{price['relative']:.2g} times the cheapest ({price['cheapest']})"
    rest = max(0.0, price["step"] - price["forward"])
    return (
        f"A training step takes {price['step']:.2g} s here, {least if price['relative'] > 1 else 'the least of all'}: "
        f"{price['forward']:.2g} s forward, {rest:.2g} s backward and images."
    )


def _alike(rows: Sequence[Row], alike: Sequence[str], expected: Row | None) -> list[str]:
    if not alike:
        return []
    known = {row["label"]: row for row in rows}
    if expected is None:
        return [f"Not told apart from it at 95 %: {'; '.join(alike)}."]
    named = "; ".join(f"{label} ({number(known[label]['retention'], 3)})" for label in alike)
    return [f"Not told apart from it among those trained last: {named}."]


def _ranked(evidence: Evidence, measure: str | None) -> list[str]:
    if measure is None:
        return [measures.UNCONFIRMED]
    first, *others = evidence.placed
    apart = sum(each.apart is True for each in others)
    value = measures.written(measure, first.value.value, first.value.low, first.value.high)
    return [
        f"By {measures.WORDS[measure]} the first is {first.label}, {value}; {apart} of the {len(others)} other "
        "candidates are told apart from it."
    ]


def _floors(rankings: Sequence[Row], expected: Row | None) -> list[str]:
    if not rankings or expected is None:
        return []
    if good := [row for row in rankings if row["as_good"]]:
        named = ", ".join(f"by {row['ranking']} ({number(row['retention'], 3)})" for row in good)
        return [f"Training may not be worth it: rankings that need none are not shown to be below it: {named}."]
    first = rankings[0]
    return [f"Without training the best ranking, by {first['ranking']}, retains {number(first['retention'], 3)}."]


def _short(rungs: Sequence[Row], full: int) -> list[str]:
    if not rungs or rungs[-1]["steps"] == full:
        return []
    steps = rungs[-1]["steps"]
    return [f"The budget paid for trainings of {steps} of {full} steps; longer ones may end in another order."]


def _changes(evidence: Evidence, expected: Row | None) -> list[str]:
    lines = []
    if expected is None:
        return ["Training: without --no-confirm the best candidates are trained and deployed."]
    if len(expected["by_seed"]) < FEWEST_SEEDS:
        lines.append(f"More seeds: fewer than {FEWEST_SEEDS} decide nothing between trainings; --seeds 1..5 does.")
    for i, pair in enumerate(pairwise(evidence.rungs), 1):
        if left := len(narrowly_left(*pair)):
            images = pair[0].rung.images
            lines.append(
                f"A longer rung {i}: on its {images} test images {left} of the candidates that left it are not told "
                "apart from the last that stayed."
            )
    finalists = len(evidence.rungs[-1].results)
    if finalists > 1:
        lines.append(
            f"Other seeds and test images: the expected retention is the best of {finalists} under the seeds and on "
            "the images that chose it, so it is too high on average, by more where trainings differ more between seeds."
        )
    return [*lines, "Another model, scorer, data or K: nothing here carries over to it."]


def _seconds(evidence: Evidence, rungs: Sequence[Row], budget: float) -> Row:
    trainings = sum(row["spent"] for row in rungs)
    rankings = sum(seconds_of(results) for results in evidence.floors.values())
    spent = {"timing": evidence.costs.spent, "measure": evidence.measured, "trainings": trainings, "rankings": rankings}
    return {"budget": budget, "planned": evidence.plan.total, **spent, "spent": sum(spent.values())}
