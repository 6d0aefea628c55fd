"""Is the focus better than the others? A grid of words, and one sentence, from the rows of a comparison (no torch)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gradprobe.comparison.comparison import Comparison, compared, metrics, rows, to_json
from gradprobe.plotting.columns import Row, name_of, seeds
from gradprobe.probes.metrics import FEWEST_SEEDS, Metric

Standing = Literal["better", "same", "worse", "undecided"]
Outcome = Literal["better", "same", "worse", "undecided", "mixed"]

FIRST = ("retention", "fidelity", "cost")  # measures of the sentence, in this order; the first decides
FEWEST_IMAGES = 100  # of a test: the 95 % interval of an accuracy of a half is then 0.1 wide on either side
MARGIN, RATIO = 0.02, 1.05  # a difference within these is none
NAMED = 3  # operators named in a sentence; of more, their number is told
DIRECTIONS = {"higher": "higher is better", "lower": "lower is better", None: "neither way is better"}
ARROWS = {"higher": " ↑", "lower": " ↓", None: ""}
SIGNS = {"better": "▲", "worse": "▼", "same": "=", "undecided": "·"}
TURNED: dict[Standing, Standing] = {
    "better": "worse", "worse": "better", "same": "same", "undecided": "undecided"
}  # fmt: skip
WORDS: dict[Standing, str] = {
    "better": "better than", "same": "the same as", "worse": "worse than", "undecided": "undecided against"
}  # fmt: skip
COMPARED = (
    f"same: the 95 % interval of the difference is within {MARGIN:g}, that of a ratio within {100 * (RATIO - 1):.0f} %"
)


@dataclass(frozen=True)
class Measure:
    """Line of the grid: how the focus stands against each operator by one metric.

    Attributes:
        metric: that is compared.
        against: by operator, None where it is not compared.
        seeds: number that each rests on, by operator; None: one scorer, or no scorer at all.
        scorers: whether it differs between scorers, so that one scorer says little of another.
    """

    metric: Metric
    against: Mapping[str, Standing | None]
    seeds: Mapping[str, int | None]
    scorers: bool

    def rests_on(self, op: str) -> str:
        """Return what a standing rests on, in words; empty where no scorer matters."""
        if not self.scorers:
            return ""
        count = self.seeds.get(op)
        return "one scorer" if count is None else seeds(count)


@dataclass(frozen=True)
class Verdict:
    """Answer of a comparison to "is it better?".

    Attributes:
        outcome: by retention, against all operators; ``undecided`` if seeds or images are too few, ``mixed`` if
            operators differ.
        sentence: for people.
        seeds: of retention, the fewest of any pair; None: not compared.
        images: test images of retention, the fewest of any seed; None: not compared.
    """

    outcome: Outcome
    sentence: str
    seeds: int | None
    images: int | None


def standing(metric: Metric, cell: Mapping[str, Any]) -> Standing | None:
    """Return how a row's operator stands against the focus by a metric; every mark of better and worse is of this.

    Args:
        metric: of the cell; None is returned for one of which neither direction is better.
        cell: as `gradprobe.comparison.comparison.rows` holds it.

    Returns:
        ``better`` or ``worse`` where the interval of the difference excludes none, ``same`` where it lies within the
        margin, else ``undecided``, as is all that rests on too few seeds; None where nothing was compared.

    Example:
        >>> cost = next(metric for metric in metrics() if metric.name == "cost")
        >>> standing(cost, {"verdict": "lower", "seeds": None}), standing(cost, {"verdict": None})
        ('better', None)
    """
    verdict = cell["verdict"]
    if verdict is None or metric.better is None:
        return None
    if verdict != "undecided":
        return "better" if verdict == metric.better else "worse"
    low, high, count = cell["difference_low"], cell["difference_high"], cell["seeds"]
    if low is None or high is None or (count is not None and count < FEWEST_SEEDS):
        return "undecided"
    if metric.figures and not metric.ratio:
        return "undecided"  # its size is unknown, so that no margin is small
    least, most = (1 / RATIO, RATIO) if metric.ratio else (-MARGIN, MARGIN)
    return "same" if least <= low <= high <= most else "undecided"


def turned(word: Standing | None) -> Standing | None:
    """Return the same standing seen from the other operator.

    Example:
        >>> turned("better"), turned("same"), turned(None)
        ('worse', 'same', None)
    """
    return word and TURNED[word]


def measures(operator_rows: Sequence[Row]) -> list[Measure]:
    """Return the grid: each measure that has a better direction, those that decide first, and the focus against others.

    Args:
        operator_rows: as `gradprobe.comparison.comparison.rows` makes them.
    """
    others = [row for row in operator_rows if not row["focus"] and not row["floor"]]
    every = {metric.name: metric for metric in metrics() if metric.better is not None}
    order = [*(name for name in FIRST if name in every), *(name for name in every if name not in FIRST)]
    lines, places = [], compared()
    for metric in (every[name] for name in order):
        cells = {row["op"]: row["metrics"][metric.name] for row in others if metric.name in row["metrics"]}
        against = {op: turned(standing(metric, cell)) for op, cell in cells.items()}
        if any(against.values()):
            scorers = getattr(places[metric.probe], "POOLS_SEEDS", False)
            lines.append(Measure(metric, against, {op: cell["seeds"] for op, cell in cells.items()}, scorers))
    return lines


def verdict(operator_rows: Sequence[Row], focus: str, images: int | None = None) -> Verdict:
    """Return whether the focus is better than the others: by retention first, then by fidelity, then by cost.

    Args:
        operator_rows: as `gradprobe.comparison.comparison.rows` makes them.
        focus: the operator that all others are compared with.
        images: test images of retention; None: unknown, so that they are not what is too few.

    Example:
        >>> verdict([{"op": "a+zero", "focus": True, "floor": False, "metrics": {}}], "a+zero").sentence
        'Do not conclude: nothing is compared with a+zero.'
    """
    lines = {line.metric.name: line for line in measures(operator_rows)}
    others = [f"{_told(lines[name])} by {_measure(lines[name])}" for name in FIRST[1:] if name in lines]
    decides = lines.get(FIRST[0])
    if decides is None:
        nothing = f"nothing is compared with {focus}" if not lines else _unmeasured(operator_rows, focus)
        told = "" if not others else f"; {focus} is {', '.join(others)}"
        return Verdict("undecided", f"Do not conclude: {nothing}{told}.", None, None)
    counts = [count for op, count in decides.seeds.items() if count is not None and decides.against[op]]
    fewest = min(counts, default=0)
    few = [f"on {seeds(fewest)} ({FEWEST_SEEDS} decide)"] if fewest < FEWEST_SEEDS else []
    if images is not None and images < FEWEST_IMAGES:
        few.append(f"on {images} test images ({FEWEST_IMAGES} at least)")
    if few:
        told = "" if not others else f"; {focus} is {', '.join(others)}"
        return Verdict("undecided", f"Do not conclude: retention rests {' and '.join(few)}{told}.", fewest, images)
    words = {word for word in decides.against.values() if word}
    outcome: Outcome = words.pop() if len(words) == 1 else "mixed"
    by = f"{'undecided with' if outcome == 'undecided' else 'decided by'} {seeds(fewest)}"
    by += "" if images is None else f" of {images} test images"
    sentence = "; ".join([f"{focus} is {_told(decides)} by retention ({by})", *others])
    return Verdict(outcome, f"{sentence}.", fewest, images)


def verdict_of(comparison: Comparison, operator_rows: Sequence[Row] | None = None) -> Verdict:
    """Return the verdict of a comparison, with the test images that its answers hold.

    Args:
        comparison: the operators, compared with its focus.
        operator_rows: its rows, where they are at hand.
    """
    counts = [len(r.correct) for r in comparison.results.get("retention", ()) if r.question["op"] in comparison.ops]
    table = rows(comparison) if operator_rows is None else operator_rows
    return verdict(table, comparison.focus, min(counts, default=None))


def floors_line(operator_rows: Sequence[Row], focus: str) -> str:
    """Return a sentence on rankings that need no training, by what is retained; empty where there are none."""
    metric = next(metric for metric in metrics() if metric.name == FIRST[0])
    floors = [row for row in operator_rows if row["floor"] and metric.name in row["metrics"]]
    cells = {name_of(row): row["metrics"][metric.name] for row in floors}
    against = {name: turned(standing(metric, cell)) for name, cell in cells.items()}
    if not any(against.values()):
        return ""
    line = Measure(metric, against, {name: cell["seeds"] for name, cell in cells.items()}, scorers=True)
    return f"By retention {focus} is {_told(line, 'rankings')} without training."


def report_json(comparison: Comparison) -> dict[str, Any]:
    """All that a comparison says in JSON types, with its verdict first and the grid of its page."""
    table = rows(comparison)
    found = verdict_of(comparison, table)
    answer = {
        "outcome": found.outcome, "sentence": found.sentence, "seeds": found.seeds, "images": found.images,
        "margin": MARGIN, "ratio": RATIO,
    }  # fmt: skip
    grid = [
        {"measure": line.metric.name, "better": line.metric.better, "against": dict(line.against),
         "seeds": dict(line.seeds)}
        for line in measures(table)
    ]  # fmt: skip
    return {"verdict": answer, "grid": grid} | to_json(comparison)


def _told(line: Measure, what: str = "operators") -> str:
    """Return how the focus stands against the others in words, the decided ones first."""
    groups: dict[Standing, list[str]] = {word: [] for word in ("better", "same", "worse", "undecided")}
    for op, word in line.against.items():
        if word is not None:
            groups[word].append(op)
    total = sum(map(len, groups.values()))
    parts = [f"{WORDS[word]} {_named(ops, total, what)}" for word, ops in groups.items() if ops]
    return _joined(parts)


def _measure(line: Measure) -> str:
    """Return the name of a measure; what is measured on one fresh scorer says little of another one."""
    untrained = line.scorers and all(count is None for count in line.seeds.values())
    return f"{line.metric.heading}{' of one scorer' if untrained else ''}"


def _named(ops: Sequence[str], total: int, what: str) -> str:
    if len(ops) <= NAMED and (len(ops) < total or total == 1):
        return _joined(ops)
    return (
        f"{'both' if total == 2 else f'all {total}'} {what}" if len(ops) == total else f"{len(ops)} of {total} {what}"
    )


def _joined(texts: Sequence[str]) -> str:
    """Words in a row: a, b and c."""
    return " and ".join(filter(None, [", ".join(texts[:-1]), *texts[-1:]]))


def _unmeasured(operator_rows: Sequence[Row], focus: str) -> str:
    """Return why retention says nothing of the focus."""
    own = next((row["metrics"].get(FIRST[0]) for row in operator_rows if row["focus"]), None)
    reason = own["reason"] if own else None
    return f"retention of {focus} is {f'missing ({reason})' if reason else 'compared with nothing'}"
