"""Rows pooled over seeds: results that differ in nothing but their seed become one row. Nothing here needs torch.

A probe declares its numbers and their scales as ``POOLED`` in the module of its place in comparisons, one `Pooled` a
number; retention, whose seeds are trainings with counts of images, has a function there instead.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from gradprobe.errors import GradprobeError, UsageError
from gradprobe.probes import names, probe_of
from gradprobe.probes.contract import Probe
from gradprobe.store.results import key_of

if TYPE_CHECKING:
    from gradprobe.statistics.estimates import Estimate

GENERATED = ("scenes", "photo-scenes", "pictures", "photos")  # data of which every seed has images of its own
ANY, SIGNED, APART, POSITIVE, SHARE = (
    (-float("inf"), float("inf")), (-1.0, 1.0), (-2.0, 2.0), (0.0, float("inf")), (0.0, 1.0),
)  # fmt: skip
Result = TypeVar("Result")
Row = dict[str, Any]


@dataclass(frozen=True)
class Pooled:
    """A number of a probe's row, and its mean over seeds.

    Attributes:
        name: Field of the row.
        scale: Scale of the mean, as in `gradprobe.statistics.nested.nested`.
        ends: Fields of its interval; None: the number has none, and its mean gets none.
        table: List of tables in the row that the number lies in, dotted where one lies in another; empty: the row.
        versus: Flag of a comparison with the baseline.
        possible: Range of the number.
        uncut: Field of the number before it was cut to its range, which is pooled instead; empty: it is not cut.
        reason: Field of the words for an undefined number; empty: it has none.
    """

    name: str
    scale: Literal["identity", "atanh", "log"] = "identity"
    ends: tuple[str, str] | None = None
    table: str = ""
    versus: bool = False
    possible: tuple[float, float] = ANY
    uncut: str = ""
    reason: str = ""


def over_seeds(results: Sequence[Any], baseline: Sequence[Any] | None = None, paths: Sequence[Path | None] = ()) -> Row:
    """Return one row for the same question asked under several seeds.

    Every number that has an interval is the mean over seeds on its scale with an interval in which images are nested in
    seeds; with fewer than five seeds there is no interval, and ``by_seed`` is what to read. Other numbers are plain
    means. A number that is undefined for one seed is undefined, and its reason says for how many.

    Args:
        results: Of one operator, a seed each.
        baseline: Results of another operator; those of the same seeds are paired.
        paths: Places of the results, in their order.

    Returns:
        Row as of one result, with ``seeds``, the values ``by_seed`` of each number with an interval (in each table of a
        row that has tables), and ``difference_seeds``, the number of seeds that are paired with the baseline. One
        result keeps its own intervals.

    Raises:
        GradprobeError: The results differ in more than their seeds, or two are of one seed.
        UsageError: No results, or their probe is not pooled over seeds.
    """
    if not results:
        raise UsageError("no results to pool over seeds; give one result a seed")
    place = _place(results[0].probe)
    check_seeds(results)
    if hasattr(place, "over_seeds"):
        return place.over_seeds(results, baseline, paths)
    bases = {result.question["seed"]: result for result in baseline or ()}
    others = [bases.get(result.question["seed"]) for result in results]
    rows = [result.row(baseline=other) for result, other in zip(results, others, strict=True)]
    pooled = _pooled(rows, place.POOLED, [other is not None for other in others], shares_images(results))
    about = {
        "seeds": [result.question["seed"] for result in results],
        "difference_seeds": sum(other is not None for other in others) or None,
        "paths": [str(path) for path in paths if path is not None],
    }
    return {name: value for name, value in pooled.items() if name != "path"} | about


def row_of(results: Sequence[Any], base: Sequence[Any], every: Sequence[Any], alike: Any) -> Row:
    """Return an operator's row in a comparison: its own where every operator has the same seed, else the pooled one.

    An operator with one of several seeds has a pooled row too, of one seed, which decides as little as two do.

    Args:
        results: Of the operator, one a seed.
        base: Results of the focus, which are paired by seed; empty: not compared.
        every: Results of the probe in the comparison.
        alike: Function ``(results, results) -> bool`` for results that were asked the same.

    Raises:
        GradprobeError: The results differ in more than their seeds, or two are of one seed.
    """
    if len({result.question.get("seed") for result in every}) > 1 or len(results) > 1:
        return over_seeds(results, base or None)
    same = [result for result in base if result.question.get("seed") == results[0].question.get("seed")]
    return results[0].row(baseline=same[0] if same else None)


def check_seeds(results: Sequence[Any]) -> None:
    """Refuse results that one row cannot stand for.

    Raises:
        GradprobeError: They differ in more than their seeds, or two are of one seed; the message names their keys.
    """
    seeds = [result.question["seed"] for result in results]
    if len(seed_groups(results)) > 1 or len(set(seeds)) < len(seeds):
        first = results[0].question
        keys = ", ".join(key_of(result.question) for result in results)
        differ = "differ in more than their seeds" if len(seed_groups(results)) > 1 else "have a seed in common"
        raise GradprobeError(
            f"{len(results)} answers of {first['probe']} on {first['op']} {differ}: {keys}; give one question each"
        )


def pools(probe: Probe) -> bool:
    """Tell whether results of a probe are pooled over seeds."""
    place = probe.part("compared")
    return hasattr(place, "POOLED") or hasattr(place, "over_seeds")


def seed_groups(results: Sequence[Result]) -> list[list[Result]]:
    """Return results that differ in nothing but their seeds together, in the order of the first of each."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(_but(result, "seed"), []).append(result)
    return list(groups.values())


def table(results: Sequence[Any], paths: Sequence[Path | None], base: str | None) -> list[tuple[dict[str, Any], Row]]:
    """Return the pooled rows of a command's results, each with the question that its seeds have in common.

    Args:
        results: Of all operators, settings and seeds.
        paths: Places of the results.
        base: Name of the operator that all others are compared with; None: there is none.
    """
    places = {id(result): path for result, path in zip(results, paths, strict=True)}
    groups = seed_groups(results)
    bases = {_but(g[0], "seed", "op", "op_code"): g for g in groups if g[0].question.get("op") == base}
    pooled = []
    for group in groups:
        other = bases.get(_but(group[0], "seed", "op", "op_code"))
        question = {name: value for name, value in group[0].question.items() if name != "seed"}
        row = over_seeds(group, None if other is group else other, [places[id(result)] for result in group])
        pooled.append((question, row))
    return pooled


def shares_images(results: Sequence[Any]) -> bool:
    """Tell whether seeds may have images in common: those of a folder; generated ones are each seed's own."""
    return len(results) > 1 and str(results[0].question.get("data")).partition(":")[0] not in GENERATED


def _place(probe: str) -> Any:
    """Return the module that says how a probe is pooled."""
    if not pools(probe_of(probe)):
        possible = ", ".join(name for name in names() if pools(probe_of(name)))
        raise UsageError(f"{probe} is not pooled over seeds; possible: {possible}")
    return probe_of(probe).part("compared")


def _but(result: Any, *names: str) -> str:
    """Return a question as text, without some of its keys; random weights are the seed's."""
    shared = {name: value for name, value in result.question.items() if name not in names}
    if str(shared.get("weights")).startswith("random:"):
        shared["weights"] = "random"
    return repr(sorted(shared.items()))


def _pooled(rows: Sequence[Mapping[str, Any]], numbers: Sequence[Pooled], paired: Sequence[bool], shared: bool) -> Row:
    """Return one row, or one table of a row, for those of several seeds.

    What is not declared keeps the value that all seeds have, and is None where they differ.
    """
    pooled: Row = {}
    for key in dict.fromkeys(key for row in rows for key in row):
        values = [row.get(key) for row in rows]
        if all(isinstance(value, list) and value and isinstance(value[0], dict) for value in values):
            inner = [replace(n, table=n.table.removeprefix(key).removeprefix(".")) for n in numbers
                     if n.table.split(".")[0] == key]  # fmt: skip
            pooled[key] = [_pooled(tables, inner, paired, shared) for tables in zip(*values, strict=True)]
        else:
            pooled[key] = values[0] if all(value == values[0] for value in values) else None
    by_seed = {}
    for number in numbers:
        if number.table or number.name not in pooled:
            continue
        own = [row for row, pair in zip(rows, paired, strict=True) if pair or not number.versus]
        pooled |= _mean(own, number, shared) if len(rows) > 1 and own else {}
        if number.ends is not None:
            by_seed[number.name] = [row.get(number.name) for row in own]
    return pooled | {"by_seed": by_seed} if by_seed else pooled


def _mean(rows: Sequence[Mapping[str, Any]], number: Pooled, shared: bool) -> Row:
    """Return the fields of a number that depend on the seed: its mean, the ends of its interval and their words."""
    from gradprobe.statistics.estimates import Estimate, finite
    from gradprobe.statistics.nested import nested

    nan = float("nan")
    values = [row.get(number.uncut) for row in rows] if number.uncut else [None] * len(rows)
    values = [row.get(number.name) if value is None else value for row, value in zip(rows, values, strict=True)]
    known = [nan if value is None else float(value) for value in values]
    ends = [[row.get(end) for end in number.ends or ()] or [None, None] for row in rows]
    estimates = [
        Estimate(value, *(nan if end is None else float(end) for end in own))
        for value, own in zip(known, ends, strict=True)
    ]
    mean = nested(estimates, number.scale, shared, ANY if number.uncut else number.possible)
    fields: Row = {}
    if number.uncut:
        beyond = not number.possible[0] <= mean.value <= number.possible[1]
        fields[number.uncut] = finite(mean.value) if beyond else None
        mean = _cut(mean, number.possible)
    fields[number.name] = finite(mean.value)
    if number.ends is not None:
        fields |= {number.ends[0]: finite(mean.low), number.ends[1]: finite(mean.high)}
    if number.reason:
        fields[number.reason] = _reason(rows, number) if fields[number.name] is None else None
    return fields


def _reason(rows: Sequence[Mapping[str, Any]], number: Pooled) -> str | None:
    """Return the words for a number that is undefined for some seeds; None if no seed has any."""
    words = [str(row[number.reason]) for row in rows if row.get(number.reason)]
    values = [row.get(number.name) for row in rows]
    undefined = sum(value is None for value in values)
    if words:
        first = words[0].removeprefix("undefined: ")
        return words[0] if undefined == len(rows) else f"undefined: {first} ({undefined} of {len(rows)} seeds)"
    below = sum(value is not None and value <= 0 for value in values) if number.scale == "log" else 0
    return f"undefined: not above 0 with {below} of {len(rows)} seeds" if below else None


def _cut(mean: "Estimate", possible: tuple[float, float]) -> "Estimate":
    """Return an estimate cut to its range; an interval that lies beyond an end as a whole keeps half its width."""
    least, most = possible
    half = mean.half
    low = max(most - half, least) if mean.low > most else max(mean.low, least)
    high = min(least + half, most) if mean.high < least else min(mean.high, most)
    return replace(mean, value=min(max(mean.value, least), most), low=low, high=high)
