"""What all probes together say of each operator, against the one that was asked about (numpy and scipy; no torch).

Every difference is paired, by the probe's own machinery: same batches, images, grid or seeds. None of the intervals is
corrected for their number; `Count` says how many there are.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gradprobe.errors import GradprobeError, UsageError, nearest
from gradprobe.operators.temperature import family
from gradprobe.store.results import key_of

REFERENCE = "hard+gather"  # what is deployed
RANKED = "ranked:"
FEWEST_SEEDS = 5  # trainings that decide a difference, as in `gradprobe.statistics.ratios`
NO_GRADIENT, NOT_ASKED = "no gradient", "not measured"
Row = dict[str, Any]
Cell = dict[str, Any]


@dataclass(frozen=True)
class Metric:
    """A column of the summary.

    Attributes:
        name: in JSON.
        heading: above the column.
        probe: whose result it is from.
        better: ``higher`` or ``lower``; None: neither.
        ratio: whether operators are compared by a ratio to the focus, not by the difference.
        figures: whether its size is known beforehand (False: fixed decimals) or not (True: significant figures).
        meaning: one sentence.
        read: row of the probe -> cell.
    """

    name: str
    heading: str
    probe: str
    better: str | None
    ratio: bool
    figures: bool
    meaning: str
    read: Callable[[Row], Cell]


@dataclass(frozen=True)
class Comparison:
    """Results of several probes on several operators, one of which all others are compared with.

    Attributes:
        title: what it is, for people.
        ops: canonical names, the asked ones first, then baselines.
        focus: the operator that all others are compared with.
        results: by probe, of any of the operators. ``retention`` may hold several seeds, and rankings
            (``ranked:NAME``); ``equivalence`` holds ``hard+gather``, the reference.
        settings: what all results share.
        command: what makes it again.
        missing: what was not computed and why, a sentence each.

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

    def __post_init__(self) -> None:
        if self.focus not in self.ops or len(set(self.ops)) < len(self.ops):
            told = ", ".join(self.ops) or "none"
            raise UsageError(f"a comparison with {self.focus} needs it among its operators, each once; they are {told}")
        for probe in self.results:
            if probe not in PROBES:
                raise UsageError(f"the probe {probe!r} is no part of a comparison: {nearest(probe, PROBES)}")

    @property
    def versions(self) -> dict[str, str]:
        """Of the packages that the answers were computed with; several of one are all named."""
        found: dict[str, dict[str, None]] = {}
        for result in (each for results in self.results.values() for each in results):
            for package, version in result.environment.get("versions", {}).items():
                found.setdefault(package, {})[str(version)] = None
        return {package: ", ".join(several) for package, several in found.items()}

    @property
    def floors(self) -> tuple[str, ...]:
        """Rankings that need no training, in the order in which they come."""
        every = (str(result.question["op"]) for result in self.results.get("retention", ()))
        return tuple(dict.fromkeys(op for op in every if op.startswith(RANKED)))


@dataclass(frozen=True)
class Count:
    """Count the comparisons of a table, those that are decided, and those that would be by chance alone.

    Attributes:
        compared: those that could be decided.
        decided: those whose interval excludes no difference.
        few: comparisons of what was trained with fewer than 5 seeds, which cannot be decided.
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
    for a value that is not there; ``seeds`` for what was trained, how many trainings the difference is of
    (``retention`` also has ``by_seed``). Verdicts are
    ``higher`` or ``lower`` than the focus where the interval excludes no difference, else ``undecided``, as is whatever
    was trained with fewer than 5 seeds; None where nothing was compared. That of ``equivalence`` is of its test against
    hard top-K: ``equivalent``, ``small gap``, ``different`` or ``undecided``.

    Raises:
        GradprobeError: two answers of one operator where there can be one.

    Example:
        >>> rows(Comparison("nothing yet", ("lapsum+vpnoise",), "lapsum+vpnoise", {}, {}))[0]["metrics"]["coherence"]
        {'value': None, ..., 'seeds': None, 'verdict': None, 'reason': 'not measured'}
    """
    tables = {probe: dict(probe_rows(comparison, probe)) for probe in PROBES}
    found = []
    for op in (*comparison.ops, *comparison.floors):
        gradients = [table[op]["gradient"] for table in tables.values() if "gradient" in table.get(op, {})]
        cells = {}
        for metric in METRICS:
            if op not in comparison.ops and metric.probe != "retention":
                continue
            row = tables[metric.probe].get(op)
            cells[metric.name] = _cell(reason=NOT_ASKED) if row is None else metric.read(row)
        about = {"op": op, "focus": op == comparison.focus, "floor": op not in comparison.ops}
        found.append({**about, "gradient": gradients[0] if gradients else None, "metrics": cells})
    return found


def probe_rows(comparison: Comparison, probe: str) -> list[tuple[str, Row]]:
    """Each operator that a probe was asked of and its row of that probe's table, compared with the focus.

    Rows of ``equivalence`` are compared with hard top-K, as in its own table; ``versus`` holds the other comparison.

    Raises:
        GradprobeError: two answers of one operator where there can be one.
    """
    ops = [*comparison.ops, *(comparison.floors if probe == "retention" else ())]
    answers = {op: found for op in ops if (found := answers_of(comparison, probe, op))}
    focus = answers.get(comparison.focus, [])
    reference = [r for r in comparison.results.get(probe, ()) if r.question["op"] == REFERENCE]
    found = []
    for op, results in answers.items():
        base = [] if op == comparison.focus or not _alike(results, focus) else focus
        found.append((op, _row(probe, results, base, reference)))
    return found


def answers_of(comparison: Comparison, probe: str, op: str) -> list[Any]:
    """The results of a probe that are of an operator: those of its name or, failing that, of its name but for tau.

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
    """How many differences from the focus a summary's rows tell, and how many of them are decided."""
    tests = [m.name for m in METRICS if m.name != "equivalence"]
    cells = [row["metrics"][name] for row in table for name in tests if name in row["metrics"]]
    compared = [cell for cell in cells if cell["verdict"] is not None]
    able = [cell for cell in compared if not few_seeds(cell)]
    return Count(len(able), sum(cell["verdict"] != "undecided" for cell in able), len(compared) - len(able))


def few_seeds(cell: Mapping[str, Any]) -> bool:
    """Tell whether a cell is of a training with too few seeds to decide anything."""
    return cell["seeds"] is not None and cell["seeds"] < FEWEST_SEEDS


def to_json(comparison: Comparison) -> dict[str, Any]:
    """All that a comparison says, in JSON types: rows, what the metrics mean, settings, and keys of the answers."""
    table = rows(comparison)
    counted = count(table)
    plain = ("name", "heading", "probe", "better", "ratio", "meaning")
    return {
        "title": comparison.title, "ops": list(comparison.ops), "focus": comparison.focus, "rows": table,
        "metrics": [{name: getattr(metric, name) for name in plain} for metric in METRICS],
        "comparisons": {
            "compared": counted.compared, "decided": counted.decided, "by_chance": counted.by_chance,
            "few_seeds": counted.few,
            "level": 0.95, "corrected": False,
        },
        "settings": dict(comparison.settings), "versions": comparison.versions, "answers": keys(comparison),
        "missing": list(comparison.missing), "command": comparison.command,
    }  # fmt: skip


def keys(comparison: Comparison) -> list[dict[str, Any]]:
    """The answers that a comparison is made of: probe, operator, seed and key."""
    return [
        {"probe": p, "op": r.question["op"], "seed": r.question.get("seed"), "key": key_of(r.question)}
        for p, results in comparison.results.items() for r in results
    ]  # fmt: skip


def _row(probe: str, results: Sequence[Any], focus: Sequence[Any], reference: Sequence[Any]) -> Row:
    """The row of one operator in a probe's table."""
    if probe == "retention":
        from gradprobe.probes.retention.result import over_seeds, seed_groups

        if len(seed_groups(results)) > 1:
            raise GradprobeError(_several(probe, results, "differ in more than their seeds"))
        return over_seeds(results, focus or None)
    if len(results) > 1:
        raise GradprobeError(_several(probe, results, "stand for one"))
    base = focus[0] if focus else None
    if probe != "equivalence":
        return results[0].row(baseline=base)
    itself = results[0].question["op"] == REFERENCE
    hard = None if itself else next((r for r in reference if _alike(results, [r])), None)
    return results[0].row(baseline=hard) | {"reference": itself, "versus": results[0].row(baseline=base)}


def _several(probe: str, results: Sequence[Any], why: str) -> str:
    told = ", ".join(key_of(result.question) for result in results)
    return f"{len(results)} answers of {probe} on {results[0].question['op']} {why}: {told}; give one question each"


def _alike(ours: Sequence[Any], theirs: Sequence[Any]) -> bool:
    """Whether two operators were asked the same: what both questions name is equal, but for operator and seed.

    A ranking has no training, so its question names less; seeds are paired by `over_seeds`.
    """
    if not ours or not theirs:
        return False
    a, b = ours[0].question, theirs[0].question
    free = {"op", "op_code"} | ({"seed", "weights"} if a["probe"] == "retention" else set())
    free |= {"steps"} if str(a["op"]).startswith(RANKED) else set()
    return all(a[name] == b[name] for name in a.keys() & b.keys() - free)


def _cell(
    row: Mapping[str, Any] | None = None, value: str = "", ends: tuple[str, str] = ("", ""), versus: str = "",
    ratio: bool = False, reason: str | None = None, seeds: int | None = None,
) -> Cell:  # fmt: skip
    """A cell from a probe's row, whose fields have these names; its reason where the value is not there.

    With a number of seeds it is of something trained, which fewer than 5 of them do not decide.
    """
    row = row or {}
    cell = {"value": row.get(value), "low": row.get(ends[0]), "high": row.get(ends[1])}
    cell |= {f"difference{end}": row.get(f"{versus}{end}") for end in ("", "_low", "_high")}
    low, high, equal = cell["difference_low"], cell["difference_high"], 1 if ratio else 0
    verdict = None if cell["difference"] is None else "undecided"
    enough = seeds is None or seeds >= FEWEST_SEEDS
    if enough and low is not None and high is not None and not low <= equal <= high:
        verdict = "higher" if low > equal else "lower"
    why = (reason or "undefined") if cell["value"] is None else None
    return {**cell, "seeds": None if verdict is None else seeds, "verdict": verdict, "reason": why}


def _trained(row: Row) -> int | None:
    """Trainings that a row of coherence or landscape is of: one after steps or along checkpoints, None at the start."""
    return 1 if row.get("steps") or row.get("axes", "random") != "random" else None


def _ends(name: str) -> tuple[str, str]:
    return f"{name}_low", f"{name}_high"


def _why(row: Row, else_: str | None = None) -> str | None:
    return NO_GRADIENT if row.get("gradient") == "none" else else_


def _fidelity(row: Row) -> Cell:
    at = max(row["sigmas"], key=lambda each: each["sigma"])
    return _cell(at, "cosine", _ends("cosine"), "cosine_difference", reason=_why(row, at.get("cosine_reason")))


def _descent(row: Row) -> Cell:
    if not row["ladder"]:
        return _cell(reason=NOT_ASKED)
    at = row["ladder"][len(row["ladder"]) // 2]
    return _cell(at, "rate", _ends("rate"), "rate_difference", reason=_why(row))


def _retention(row: Row) -> Cell:
    """Retention, with the value of each seed beside it."""
    cell = _cell(row, "retention", ("low", "high"), "difference", seeds=row["difference_seeds"])
    return {**cell, "by_seed": row["by_seed"]}


def _equivalence(row: Row) -> Cell:
    """The gap to hard top-K and its verdict; beside it the difference from the focus."""
    why = "the reference" if row["reference"] else f"no {REFERENCE} on the same images"
    cell = _cell(row, "top1_difference", _ends("top1_difference"), reason=why)
    versus = {f"difference{end}": row["versus"][f"top1_difference{end}"] for end in ("", "_low", "_high")}
    return {**cell, **versus, "seeds": None, "verdict": row["top1_verdict"]}


METRICS: tuple[Metric, ...] = (
    Metric(
        "coherence", "coherence", "coherence", "higher", False, False,
        "mean cosine between the scorer's gradients of different batches; 1 if every batch asks for the same step",
        lambda row: _cell(row, "coherence", ("low", "high"), "difference", reason=_why(row), seeds=_trained(row)),
    ),
    Metric(
        "centred", "centred C", "coherence", "higher", False, False,
        "coherence without what moves all scores of an image alike, which no ranking notices",
        lambda row: _cell(
            row, "centred", _ends("centred"), "centred_difference", reason=_why(row), seeds=_trained(row)
        ),
    ),
    Metric(
        "roughness", "roughness", "landscape", "lower", True, True,
        "mean step of the loss between neighbouring points of a line, compared by ratio; a steep smooth line has large "
        "steps too",
        lambda row: _cell(row, "d2_variation", _ends("d2"), "d2_ratio", ratio=True, seeds=_trained(row)),
    ),
    Metric(
        "fidelity", "fidelity", "fidelity", "higher", False, False,
        "cosine with the gradient of the smoothed deployed loss, in the scores, at the largest sigma asked",
        _fidelity,
    ),
    Metric(
        "descent", "descent", "fidelity", "higher", False, True,
        "fall of the deployed loss on held-out images per unit of step along the gradient, at the middle step asked",
        _descent,
    ),
    Metric(
        "equivalence", "gap to hard", "equivalence", None, False, False,
        "top-1 accuracy less that of hard top-K by the same random scores on the same images; 0 is what is deployed",
        _equivalence,
    ),
    Metric(
        "retention", "retention", "retention", "higher", False, False,
        "accuracy with the K deployed tokens after training through the operator, over that with all tokens",
        _retention,
    ),
    Metric(
        "cost", "cost", "cost", "lower", True, False,
        "time of a training gradient over a bare forward pass of the unpruned encoder, compared by ratio",
        lambda row: _cell(row, "training", _ends("training"), "ratio", ratio=True, reason=_why(row)),
    ),
)  # fmt: skip
PROBES = tuple(dict.fromkeys(metric.probe for metric in METRICS))
