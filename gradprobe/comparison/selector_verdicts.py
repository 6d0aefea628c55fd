"""Order of selectors and trained scorers at equal average tokens, and the differences that decide it (no torch).

Differences are paired: the same seeds, and with them the same test images. Fewer than five seeds decide nothing; the
95 % intervals are not corrected for the number of comparisons.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from gradprobe.comparison.ablation import TIE
from gradprobe.comparison.selector_table import INSIDE, TRAINED, Point, SelectorTable, ranked
from gradprobe.plotting.columns import number, seeds
from gradprobe.probes.retention.result import over_seeds
from gradprobe.settings import RANKED
from gradprobe.statistics.ratios import FEWEST_SEEDS


@dataclass(frozen=True)
class Gap:
    """Retention of one method less that of another, at equal average tokens.

    Attributes:
        value: Mean over the seeds that both have; None without such seeds.
        low: Lower end of its interval; None with fewer than five seeds.
        high: Upper end.
        count: Number of those seeds.
    """

    value: float | None
    low: float | None
    high: float | None
    count: int

    @property
    def decided(self) -> bool:
        """True if five seeds or more exclude 0."""
        return self.count >= FEWEST_SEEDS and self.low is not None and self.high is not None and (
            self.low > 0 or self.high < 0
        )  # fmt: skip

    @property
    def cause(self) -> str:
        """Cause of its not being decided; empty if it is."""
        if self.decided:
            return ""
        return "the interval holds 0" if self.count >= FEWEST_SEEDS else seeds(self.count)

    @property
    def doubt(self) -> str:
        """The same as a verdict."""
        if self.decided:
            return ""
        return f"not decided: {self.cause}" if self.count >= FEWEST_SEEDS else f"not decided by {self.cause}"

    @property
    def text(self) -> str:
        """The difference in points, with its interval."""
        if self.value is None:
            return "no seed in common"
        span = "" if self.low is None or self.high is None else f" [{_points(self.low)}, {_points(self.high)}]"
        return f"{'+' if self.value > 0 else ''}{_points(self.value)}{span} points"


def gap(ours: Point, theirs: Point, average: float) -> Gap:
    """Return the difference of two methods.

    Args:
        ours: Method whose retention is the minuend.
        theirs: The other method.
        average: Average tokens that both have.

    Raises:
        UsageError: Their average tokens are others.
    """
    ranked([ours, theirs], average)
    common = {r.question["seed"] for r in ours.results} & {r.question["seed"] for r in theirs.results}
    a, b = ([r for r in each.results if r.question["seed"] in common] for each in (ours, theirs))
    if not common:
        return Gap(None, None, None, 0)
    row = over_seeds(a, b)
    few = len(common) < FEWEST_SEEDS  # one seed has an interval over its images, which is not what is asked here
    low, high = (None if few else row[f"difference_{end}"] for end in ("low", "high"))
    return Gap(row["difference"], low, high, len(common))


def neighbours(points: Sequence[Point], average: float) -> list[Gap]:
    """Return the difference of each point to the next one of the order."""
    return [gap(above, below, average) for above, below in pairwise(ranked(points, average))]


def verdicts(table: SelectorTable, baseline: str) -> list[str]:
    """Return the order at each average, and the paper's method against the others, in sentences.

    Args:
        table: Methods, measured and quoted.
        baseline: Operator of the paper's method.
    """
    sentences = []
    for average in table.averages:
        sentences += [each for each in (order(table, average), contest(table, average)) if each]
    sentences += _papers(table, baseline)
    sentences += [each for each in (_impossible(table), _same_benchmarks(table)) if each]
    return sentences


def order(table: SelectorTable, average: float) -> str:
    """Return the order at an average in words, with the neighbours that are not told apart; empty without points."""
    points = table.at(average)
    if not points:
        return ""
    places = ", ".join(f"{i}. {p.name} {_percent(p.row['retention'])}" for i, p in enumerate(points, start=1))
    doubts: dict[str, list[int]] = {}
    for i, each in enumerate(neighbours(points, average), start=1):
        if each.cause:
            doubts.setdefault(each.cause, []).append(i)
    doubt = "; ".join(f"{_runs(first)} ({cause})" for cause, first in doubts.items())
    sentence = f"at an average of {average:g} tokens: {places}"
    return f"{sentence}; not decided against the next: {doubt}" if doubt else sentence


def contest(table: SelectorTable, average: float) -> str:
    """Return the best trained scorer against the best method without training, in words; empty if one is missing."""
    points = table.at(average)
    trained = next((p for p in points if p.kind == TRAINED), None)
    free = next((p for p in points if p.kind != TRAINED and not _knows(p)), None)
    if trained is None or free is None:
        return ""
    each = gap(free, trained, average)
    verdict = each.doubt or ("training-free ahead" if (each.value or 0) > 0 else "trained ahead")
    return (
        f"at an average of {average:g} tokens, the best without training ({free.name}) less the best trained "
        f"({trained.name}): {each.text}: {verdict}"
    )


def _runs(firsts: Sequence[int]) -> str:
    """Return pairs of neighbours, each by its first place, as ranges.

    Example:
        >>> _runs([1, 4, 5, 6])
        '1 to 2, 4 to 7'
    """
    ranges: list[list[int]] = []
    for first in firsts:
        if ranges and ranges[-1][1] == first:
            ranges[-1][1] += 1
        else:
            ranges.append([first, first + 1])
    return ", ".join(f"{first} to {last}" for first, last in ranges)


def _papers(table: SelectorTable, baseline: str) -> Iterable[str]:
    """Yield the baseline against each method of the paper, beside the paper's difference."""
    for method in table.methods:
        parts = []
        for average in table.averages:
            lines = [line for line in table.block(average) if line.point is not None and line.paper is not None]
            base = next((line for line in lines if line.point and line.point.op == baseline), None)
            other = next((line for line in lines if line.method is method), None)
            if base is None or other is None or base is other or base.point is None or other.point is None:
                continue
            each, claimed = gap(base.point, other.point, average), (base.paper or 0) - (other.paper or 0)
            claim = f"{100 * claimed:+.1f}".replace("-0.0", "0.0").replace("+0.0", "0.0")
            parts.append(f"{average:g} tokens {each.text}, paper {claim}: {_verdict(each, claimed)}")
        if parts:
            first = next(m.name for m in table.methods if baseline in m.ops)
            yield f"{first} less {method.name}: " + "; ".join(parts)


def _verdict(each: Gap, claimed: float) -> str:
    if not each.decided:
        return each.doubt
    if abs(claimed) < TIE:
        return "decided"
    return "reproduced" if (each.value or 0) * claimed > 0 else "the other way round"


def _impossible(table: SelectorTable) -> str:
    """Name the averages that cannot be had inside the language model."""
    by_least: dict[float, list[str]] = {}
    for point in table.points:
        least = min((table.least[op] for op in point.method.ops if op in table.least), default=None)
        if point.kind == INSIDE and least is not None:
            by_least.setdefault(least, []).append(point.method.name)
    parts = [
        f"{', '.join(dict.fromkeys(names))}: {least:g} at least"
        for least, names in sorted(by_least.items())
        if min(table.averages) < least
    ]
    return f"averages that cannot be had in {table.layers} layers are left out: " + "; ".join(parts) if parts else ""


def _same_benchmarks(table: SelectorTable) -> str:
    """Say how the paper's order changes if all methods are averaged over the same benchmarks."""
    if not table.benchmarks:
        return ""
    shares = list(dict.fromkeys(share for method in table.methods for share in method.quoted))
    parts = []
    for share in shares:
        own, same = (_best(table, share, name) for name in ("quoted", "common"))
        parts.append(f"{100 * share:.1f} % kept: {', '.join(same)} (as printed: {', '.join(own)})")
    return (
        f"{table.source}: a row's average is over the benchmarks that it has; over the {len(table.benchmarks)} that "
        f"all have ({', '.join(table.benchmarks)}) the first three are, at " + "; at ".join(parts)
    )


def _best(table: SelectorTable, share: float, which: str) -> list[str]:
    values: Mapping[str, float] = {
        method.name: getattr(method, which)[share] for method in table.methods if share in method.quoted
    }
    first = sorted(values, key=lambda name: -values[name])[:3]
    return [f"{name} {_percent(values[name])}" for name in first]


def _knows(point: Point) -> bool:
    """Tell whether a ranking knows the answer, as no method does."""
    return point.op == f"{RANKED}truth"


def _percent(value: float | None) -> str:
    return number(None if value is None else 100 * value, 1)


def _points(value: float) -> str:
    return number(100 * value, 1)
