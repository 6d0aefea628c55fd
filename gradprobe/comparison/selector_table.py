"""Tables 1 to 3, trained scorers beside selectors, from answers of the retention probe; nothing here needs torch.

A stored answer is a method at K, the tokens left behind its last stage. What it costs is told by the tokens that each
layer of the language model reads: K in every layer for a choice made outside, more for one made inside. Methods are
compared at equal average tokens, the columns of the table; points of no column stand apart and have no rank.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan
from typing import Any

from gradprobe.errors import UsageError
from gradprobe.probes.retention.result import RetentionResult, over_seeds, seed_groups
from gradprobe.selectors.schedule import MARGIN, Counts
from gradprobe.settings import RANKED
from gradprobe.statistics.ratios import FEWEST_SEEDS

TRAINED, OUTSIDE, INSIDE = KINDS = ("trained", "outside", "inside")
SAME_SHARE = 0.005  # of N: difference between the paper's share of tokens and a column's that is rounding
_BUDGET = re.compile(r"[:,](keep|k)=[0-9.,]*[0-9]")  # of a plan, which its tokens of the layers tell
Counter = Callable[[str, int], Counts]  # an answer's ``op`` and K -> the tokens of each layer


@dataclass(frozen=True)
class Method:
    """Row of the paper's table, or a method that has none there.

    Attributes:
        name: Name in the table.
        loc: Place of the pruning as the paper has it; empty: it does not say.
        ops: Operators or rankings of ours that are the method, on one model or another; plans without budgets.
        denoiser: Denoiser that it is trained with.
        quoted: The paper's average retention by the share of tokens that is kept, both of 1.
        common: Likewise over the benchmarks alone that all its rows have.
        contested: Objection to the paper's numbers, with its source; empty: none.
        note: What to know about ours.
        rerun: False for a method that trains the language model, which is quoted alone.
    """

    name: str
    loc: str = ""
    ops: tuple[str, ...] = ()
    denoiser: str = "none"
    quoted: Mapping[float, float] = field(default_factory=dict)
    common: Mapping[float, float] = field(default_factory=dict)
    contested: str = ""
    note: str = ""
    rerun: bool = True


@dataclass(frozen=True, eq=False)
class Point:
    """Method with K tokens left, measured.

    Attributes:
        method: The method.
        op: Operator or ranking of the answers.
        k: Tokens left behind its last stage.
        counts: Tokens of each layer.
        row: Row over the seeds, as `gradprobe.probes.retention.result.over_seeds` makes it.
        results: Answers, one a seed.
    """

    method: Method
    op: str
    k: int
    counts: Counts
    row: Mapping[str, Any]
    results: tuple[RetentionResult, ...]

    @property
    def kind(self) -> str:
        """One of `KINDS`."""
        return TRAINED if not self.op.startswith(RANKED) else INSIDE if self.counts.inside else OUTSIDE

    @property
    def name(self) -> str:
        """Name of the method, with its layers inside the language model."""
        layers = ",".join(str(layer) for layer, _ in self.counts.inside)
        return self.method.name + (f"@{layers}" if layers and "@" not in self.method.name else "")

    @property
    def interval(self) -> tuple[float, float] | None:
        """Interval of the retention; None for fewer than five trained scorers, of which images alone say nothing."""
        low, high = self.row["low"], self.row["high"]
        few = self.kind == TRAINED and len(self.results) < FEWEST_SEEDS
        return None if few or low is None or high is None else (low, high)

    @property
    def average(self) -> float:
        """Mean number of tokens over the layers."""
        return self.counts.average


@dataclass(frozen=True)
class Line:
    """Line of a block: a method measured at its average, or quoted alone with the reason."""

    method: Method
    point: Point | None
    paper: float | None
    common: float | None
    reason: str = ""


@dataclass(frozen=True)
class SelectorTable:
    """Methods, measured and quoted.

    Attributes:
        model: Name of the paper's model.
        of: Its visual tokens; None where they are an image's own.
        source: Place of the quoted numbers.
        tokens: N of the model that is asked.
        layers: L of its language model.
        averages: Columns, the largest first.
        benchmarks: Those that all rows of the paper have, where not all benchmarks are.
        methods: In the order of the preset, then those that it does not name.
        points: All that was measured.
        least: The least average by the ``op`` of a method inside the language model, without its budget.
    """

    model: str
    of: int | None
    source: str
    tokens: int
    layers: int
    averages: tuple[float, ...]
    benchmarks: tuple[str, ...]
    methods: tuple[Method, ...]
    points: tuple[Point, ...]
    least: Mapping[str, float]

    def at(self, average: float) -> list[Point]:
        """Return the points of a column, the highest retention first."""
        return ranked([p for p in self.points if abs(p.average - average) <= MARGIN], average)

    def block(self, average: float) -> list[Line]:
        """Return the lines of a column: measured ones by rank, then those that the paper alone has."""
        points, share = self.at(average), average / self.tokens
        lines = [Line(p.method, p, _near(p.method.quoted, share), _near(p.method.common, share)) for p in points]
        for method in self.methods:
            quoted = _near(method.quoted, share)
            if quoted is not None and all(point.method is not method for point in points):
                lines.append(Line(method, None, quoted, _near(method.common, share), self._reason(method, average)))
        return lines

    def share_of(self, average: float) -> float | None:
        """Return the share of tokens for which the paper has numbers that is a column's; None without one."""
        every = (share for method in self.methods for share in method.quoted)
        return next((share for share in every if abs(share - average / self.tokens) < SAME_SHARE), None)

    @property
    def apart(self) -> list[Point]:
        """Points of no column, method by method."""
        rest = [p for p in self.points if all(abs(p.average - each) > MARGIN for each in self.averages)]
        names = list(dict.fromkeys(p.name for p in self.points))
        return sorted(rest, key=lambda p: (names.index(p.name), -p.average))

    def _reason(self, method: Method, average: float) -> str:
        if not method.rerun:
            return "quoted, not re-run"
        least = [self.least[op] for op in method.ops if op in self.least]
        if least and min(least) > average + MARGIN:
            return f"{min(least):g} at least"
        return "no answer yet"


def ranked(points: Sequence[Point], average: float) -> list[Point]:
    """Return points by falling retention.

    Args:
        points: Methods to be compared.
        average: Average tokens that they have in common, up to half a token.

    Raises:
        UsageError: The average tokens of one are others.
    """
    for point in points:
        if abs(point.average - average) > MARGIN:
            raise UsageError(
                f"{point.name} reads {point.average:g} tokens a layer on average, not {average:g}: methods are ranked "
                f"at equal averages alone; ask it with another K, see gradprobe vlm cost --average {average:g}"
            )
    return sorted(points, key=lambda p: -_known(p.row["retention"]))


def selector_table(experiment: Any, answers: Sequence[Any], counted: Counter) -> SelectorTable:
    """Return the table of a preset.

    Args:
        experiment: Preset whose [table] has ``tokens``, ``layers`` and ``average``, whose first [[paper]] has
            ``model``, ``source``, ``rate``, ``benchmarks``, ``unpruned`` and perhaps ``tokens``, and each further one
            a ``method``.
        answers: Answers to its questions.
        counted: Tokens of each layer of an answer.

    Raises:
        UsageError: The preset lacks some of it.
    """
    shape, head, rows = _parts(experiment)
    common = _common(rows, head)
    methods = [_method(row, head, common) for row in rows]
    points: list[Point] = []
    for group in seed_groups([answer.result for answer in answers]):
        asked = group[0].question
        op, denoiser = str(asked["op"]), str(asked.get("denoiser", "none"))
        plain = _BUDGET.sub("", op)
        method = next((m for m in methods if plain in m.ops and m.denoiser == denoiser), None)
        if method is None:
            methods.append(method := Method(_typed(plain, denoiser), ops=(plain,), denoiser=denoiser))
        points.append(Point(method, op, asked["k"], counted(op, asked["k"]), over_seeds(group), tuple(group)))
    return SelectorTable(
        head["model"], head.get("tokens"), head["source"], shape["tokens"], shape["layers"],
        tuple(sorted(shape["average"], reverse=True)),
        () if len(common) == len(head["benchmarks"]) else tuple(head["benchmarks"][i] for i in common),
        tuple(methods), tuple(points), _least(experiment, counted),
    )  # fmt: skip


def _parts(experiment: Any) -> tuple[Mapping[str, Any], Mapping[str, Any], Sequence[Mapping[str, Any]]]:
    """Return [table], the first [[paper]] and the others, with all that they need.

    Raises:
        UsageError: Something is not there.
    """
    shape: Mapping[str, Any] = experiment.table
    tables: Sequence[Mapping[str, Any]] = experiment.paper or ({},)
    head, rows = tables[0], tables[1:]
    wanted = {"tokens": int, "layers": int, "average": list}
    of_head = {"model": str, "source": str, "rate": list, "benchmarks": list, "unpruned": list}
    for name, table, needs in (("[table]", shape, wanted), ("first [[paper]]", head, of_head)):
        if lacking := [key for key, kind in needs.items() if not isinstance(table.get(key), kind)]:
            raise UsageError(f"{experiment.name} needs {', '.join(lacking)} in its {name}; see table1_llava15.toml")
    for row in rows:
        scores, averages = row.get("scores", []), row.get("retention", [])
        if "method" not in row or len(averages) not in (0, len(head["rate"])) or len(scores) != len(averages):
            raise UsageError(
                f"{experiment.name}: a [[paper]] table needs a method and, where the paper has it, retention and "
                f"scores for each of the {len(head['rate'])} rates; see {row.get('method', 'one without a method')}"
            )
        if any(len(each) != len(head["benchmarks"]) for each in [*scores, head["unpruned"]]):
            told = f"{row['method']} needs a score for each of the {len(head['benchmarks'])} benchmarks"
            raise UsageError(f"{experiment.name}: {told}; write nan where there is none")
    return shape, head, rows


def _method(row: Mapping[str, Any], head: Mapping[str, Any], common: Sequence[int]) -> Method:
    shares, ops = [1 - rate / 100 for rate in head["rate"]], row.get("op", [])
    means = [_mean(each, head["unpruned"], common) for each in row.get("scores", [])]
    return Method(
        name=row["method"], loc=row.get("loc", ""), ops=(ops,) if isinstance(ops, str) else tuple(ops),
        denoiser=row.get("denoiser", "none"),
        quoted={share: value / 100 for share, value in zip(shares, row.get("retention", []), strict=False)},
        common=dict(zip(shares, means, strict=False)),
        contested=row.get("contested", ""), note=row.get("note", ""), rerun=row.get("rerun", True),
    )  # fmt: skip


def _common(rows: Sequence[Mapping[str, Any]], head: Mapping[str, Any]) -> list[int]:
    """Return the numbers of the benchmarks that every row of the paper has."""
    every = [each for row in rows for each in row.get("scores", [])]
    return [i for i in range(len(head["benchmarks"])) if not any(isnan(each[i]) for each in every)]


def _mean(scores: Sequence[float], unpruned: Sequence[float], which: Sequence[int]) -> float:
    """Return the mean over some benchmarks of scores over those of the unpruned model."""
    return sum(scores[i] / unpruned[i] for i in which) / max(len(which), 1)


def _least(experiment: Any, counted: Counter) -> dict[str, float]:
    """Return the average of one token behind its first stage, by plan inside the language model."""
    named = [row.get("op", []) for row in experiment.paper] + [run.question["op"] for run in experiment.runs]
    ops = {_BUDGET.sub("", op) for each in named for op in ([each] if isinstance(each, str) else each)}
    least = {}
    for op in sorted(op for op in ops if op.startswith(RANKED)):
        try:
            counts = counted(op, 1)
        except UsageError:  # its budget is its own, or its layers are those of another model
            continue
        if counts.inside:
            before, layers = counts.inside[0][0], len(counts.layers)
            least[op] = (before * counts.outside + layers - before) / layers
    return least


def _typed(op: str, denoiser: str) -> str:
    """Return what a user types for a method that the preset does not name."""
    if op.startswith(RANKED):
        return op.removeprefix(RANKED)
    return op if denoiser == "none" else f"{op} ({denoiser} denoiser)"


def _near(by_share: Mapping[float, float], share: float) -> float | None:
    return next((value for key, value in by_share.items() if abs(key - share) < SAME_SHARE), None)


def _known(value: float | None) -> float:
    return -1.0 if value is None else value
