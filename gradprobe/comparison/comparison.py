"""Numbers of all probes for each operator, beside those of the focus (numpy and scipy; no torch).

Every difference is paired, by the probe's own machinery: same batches, images, grid or seeds. None of the intervals is
corrected for their number; `Count` says how many there are.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from gradprobe.errors import GradprobeError, Notice, UsageError, nearest
from gradprobe.operators.temperature import family
from gradprobe.plotting.columns import RANKED
from gradprobe.plotting.shown import Shown
from gradprobe.probes import names, probe_of
from gradprobe.probes.metrics import FEWEST_SEEDS, NOT_ASKED, Metric, cell
from gradprobe.store.results import key_of

Row = dict[str, Any]


def compared() -> dict[str, Any]:
    """Return the place in a comparison of each probe that has one: name -> module or object with its ``METRICS``.

    Those of installed packages and of files named in this process are among them; a package that cannot be loaded is
    told by a notice.
    """
    places = {}
    for name in names():
        try:
            place = probe_of(name).part("compared")
        except GradprobeError as error:
            warnings.warn(f"left out of the comparison: {error}", Notice, stacklevel=2)
            continue
        if place is not None:
            places[name] = place
    return places


def metrics() -> tuple[Metric, ...]:
    """Return the metrics of all probes that have a place in a comparison, in their order."""
    return tuple(metric for place in compared().values() for metric in place.METRICS)


@dataclass(frozen=True, repr=False)
class Comparison(Shown):
    """Results of several probes on several operators, one of which all others are compared with.

    Attributes:
        title: what it is, for people.
        ops: canonical names, the asked ones first, then baselines.
        focus: the operator that all others are compared with.
        results: by probe, of any of the operators. Probes that pool seeds may hold several of each operator;
            ``retention`` holds rankings too (``ranked:NAME``), ``equivalence`` ``hard+gather``, the reference.
        settings: what all results share.
        command: what makes it again.
        missing: what was not computed and why, a sentence each.
        plan: how the time it was given was kept, a sentence each.

    Raises:
        UsageError: an operator twice, a focus that is none of them, or a probe that is no part of a comparison.
    """

    title: str
    ops: tuple[str, ...]
    focus: str
    results: Mapping[str, Sequence[Any]]
    settings: Mapping[str, Any]
    command: str = ""
    missing: tuple[str, ...] = ()
    plan: tuple[str, ...] = ()
    _shown_by: ClassVar[str] = "gradprobe.comparison.shown"

    def __post_init__(self) -> None:
        if self.focus not in self.ops or len(set(self.ops)) < len(self.ops):
            told = ", ".join(self.ops) or "none"
            raise UsageError(f"a comparison with {self.focus} needs it among its operators, each once; they are {told}")
        known = compared()
        for probe in self.results:
            if probe not in known:
                raise UsageError(f"the probe {probe!r} is no part of a comparison: {nearest(probe, known)}")

    @property
    def versions(self) -> dict[str, str]:
        """Of the packages that the answers were computed with; several of one are all named."""
        versions: dict[str, dict[str, None]] = {}
        for result in (each for results in self.results.values() for each in results):
            for package, version in result.environment.get("versions", {}).items():
                versions.setdefault(package, {})[str(version)] = None
        return {package: ", ".join(several) for package, several in versions.items()}

    @property
    def floors(self) -> tuple[str, ...]:
        """Rankings that need no training, in the order in which they come."""
        every = (str(result.question["op"]) for results in self.results.values() for result in results)
        return tuple(dict.fromkeys(op for op in every if op.startswith(RANKED)))


@dataclass(frozen=True)
class Count:
    """Count the comparisons of a table, those that are decided, and those that would be by chance alone.

    Attributes:
        compared: those that could be decided.
        decided: those whose interval excludes no difference.
        few: comparisons of what was trained, or asked with several seeds, with fewer than 5, which decide nothing.
    """

    compared: int
    decided: int
    few: int

    @property
    def by_chance(self) -> float:
        """Expected false ones if no operator differed from the focus: a twentieth at 95 %."""
        return self.compared / 20


def rows(comparison: Comparison) -> list[Row]:
    """One row an operator: each metric with its interval, its paired difference from the focus, and what that decides.

    A row has ``op``, ``focus``, ``floor`` (a ranking, with retention alone), ``gradient`` (``yes``, ``none``, None:
    unknown) and ``metrics``, by name: ``value``, ``low``, ``high``; ``difference``, ``difference_low``,
    ``difference_high`` (row less focus; row over focus where the metric is compared by ratio); ``verdict``; ``reason``
    for a value that is not there; ``seeds`` for what was trained or asked with several seeds, how many of them the
    difference is of, and ``by_seed``, the value of each. ``retention`` also has ``trainings`` and ``spread``: the
    standard deviation over ``seeds``, and the mean standard error over ``images``. Verdicts are ``higher`` or ``lower``
    than the focus where the interval excludes no difference, else ``undecided``, as is whatever rests on fewer than 5
    seeds; None where nothing was compared. That of ``equivalence`` is of its test against
    hard top-K: ``equivalent``, ``small gap``, ``different`` or ``undecided``.

    Raises:
        GradprobeError: two answers of one operator where there can be one.

    Example:
        >>> rows(Comparison("nothing yet", ("lapsum+vpnoise",), "lapsum+vpnoise", {}, {}))[0]["metrics"]["coherence"]
        {'value': None, ..., 'seeds': None, 'verdict': None, 'reason': 'not measured'}
    """
    tables = {probe: dict(probe_rows(comparison, probe)) for probe in compared()}
    every, operator_rows = metrics(), []
    for op in (*comparison.ops, *comparison.floors):
        gradients = [table[op]["gradient"] for table in tables.values() if "gradient" in table.get(op, {})]
        cells = {}
        for metric in every:
            if op not in comparison.ops and op not in tables[metric.probe]:
                continue
            row = tables[metric.probe].get(op)
            cells[metric.name] = cell(reason=NOT_ASKED) if row is None else metric.read(row)
        about = {"op": op, "focus": op == comparison.focus, "floor": op not in comparison.ops}
        operator_rows.append({**about, "gradient": gradients[0] if gradients else None, "metrics": cells})
    return operator_rows


def probe_rows(comparison: Comparison, probe: str) -> list[tuple[str, Row]]:
    """Each operator that a probe was asked of and its row of that probe's table, compared with the focus.

    Rows of ``equivalence`` are compared with hard top-K, as in its own table; ``versus`` holds the other comparison.

    Raises:
        GradprobeError: two answers of one operator where there can be one.
    """
    ops = [*comparison.ops, *comparison.floors]
    answers = {op: results for op in ops if (results := answers_of(comparison, probe, op))}
    focus, every = answers.get(comparison.focus, []), list(comparison.results.get(probe, ()))
    place = compared()[probe]
    probe_table = []
    for op, results in answers.items():
        base = [] if op == comparison.focus or not _alike(results, focus) else focus
        probe_table.append((op, _row(place, probe, results, base, every)))
    return probe_table


def answers_of(comparison: Comparison, probe: str, op: str) -> list[Any]:
    """Return the results of an operator: exact match of its name, else a match that ignores tau.

    Training anneals tau and equivalence asks for a sharp one, so the same operator may go by two names. Where several
    operators of a comparison differ in tau alone, only the full name counts.
    """
    every = comparison.results.get(probe, ())
    exact = [result for result in every if result.question["op"] == op]
    if exact or op.startswith(RANKED):
        return exact
    if [family(other) for other in comparison.ops].count(family(op)) > 1:
        return []
    return [result for result in every if family(result.question["op"]) == family(op)]


def count(table: Sequence[Mapping[str, Any]]) -> Count:
    """Count the differences from the focus in a summary's rows, and those that are decided."""
    tests = [m.name for m in metrics() if m.name != "equivalence"]
    cells = [row["metrics"][name] for row in table for name in tests if name in row["metrics"]]
    compared = [cell for cell in cells if cell["verdict"] is not None]
    able = [cell for cell in compared if not few_seeds(cell)]
    return Count(len(able), sum(cell["verdict"] != "undecided" for cell in able), len(compared) - len(able))


def few_seeds(cell: Mapping[str, Any]) -> bool:
    """Tell whether a cell's difference rests on seeds, too few to decide anything."""
    return cell["seeds"] is not None and cell["seeds"] < FEWEST_SEEDS


def to_json(comparison: Comparison) -> dict[str, Any]:
    """All that a comparison says, in JSON types: rows, what the metrics mean, settings, and keys of the answers."""
    table = rows(comparison)
    counted = count(table)
    plain = ("name", "heading", "probe", "better", "ratio", "meaning")
    return {
        "title": comparison.title, "ops": list(comparison.ops), "focus": comparison.focus, "rows": table,
        "metrics": [{name: getattr(metric, name) for name in plain} for metric in metrics()],
        "comparisons": {
            "compared": counted.compared, "decided": counted.decided, "by_chance": counted.by_chance,
            "few_seeds": counted.few,
            "level": 0.95, "corrected": False,
        },
        "settings": dict(comparison.settings), "versions": comparison.versions, "answers": keys(comparison),
        "missing": list(comparison.missing), "plan": list(comparison.plan), "command": comparison.command,
    }  # fmt: skip


def keys(comparison: Comparison) -> list[dict[str, Any]]:
    """Return the answers of a comparison: probe, operator, seed and key."""
    return [
        {"probe": p, "op": r.question["op"], "seed": r.question.get("seed"), "key": key_of(r.question)}
        for p, results in comparison.results.items()
        for r in results
    ]


def _row(place: Any, probe: str, results: Sequence[Any], base: Sequence[Any], every: Sequence[Any]) -> Row:
    """Return the row of one operator in a probe's table."""
    making = getattr(place, "row", None)
    if not getattr(place, "POOLS_SEEDS", False) and len(results) > 1:
        keys = ", ".join(key_of(result.question) for result in results)
        told = f"{len(results)} answers of {probe} on {results[0].question['op']} stand for one: {keys}"
        raise GradprobeError(f"{told}; give one question each")
    if making is not None:
        return making(results, base, every, _alike)
    return results[0].row(baseline=base[0] if base else None)


def _alike(ours: Sequence[Any], theirs: Sequence[Any]) -> bool:
    """Tell if two operators were asked the same: all that both questions name is equal, but for the operator.

    Where seeds are pooled, a seed in common is enough: the probe pairs them. A ranking has no training, so its question
    names less.
    """
    if not ours or not theirs:
        return False
    a, b = ours[0].question, theirs[0].question
    free = {"op", "op_code"} | ({"steps"} if str(a["op"]).startswith(RANKED) else set())
    if getattr(probe_of(a["probe"]).part("compared"), "POOLS_SEEDS", False):
        if not {each.question.get("seed") for each in ours} & {each.question.get("seed") for each in theirs}:
            return False
        free |= {"seed"} | ({"weights"} if str(a.get("weights")).startswith("random:") else set())  # they are its own
    return all(a[name] == b[name] for name in a.keys() & b.keys() - free)
