"""Tokens and FLOPs of the points of a table of selectors, from plans and the model's configuration alone.

Torch is imported for the plans, and transformers for the FLOPs; without it a table is drawn over average tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from gradprobe.comparison.selector_table import Counter, Point, SelectorTable, selector_table
from gradprobe.errors import GradprobeError, UsageError
from gradprobe.selectors.schedule import Counts
from gradprobe.settings import RANKED

TEXT = 97  # text tokens, unless the preset says how many


class Mismatch(UsageError):
    """A preset's [table] about another model than its questions."""


@dataclass(frozen=True)
class Spent:
    """FLOPs of a point up to the first token.

    Attributes:
        language: The language model, each layer at its own number of tokens.
        selector: The scorer or the selectors; None where they do not tell theirs.
    """

    language: int
    selector: int | None

    @property
    def total(self) -> int:
        """Sum of both, of the selector as far as it is known."""
        return self.language + (self.selector or 0)


def counter_of(tokens: int, layers: int) -> Counter:
    """Return the function from an answer's ``op`` and K to the tokens of each layer.

    Args:
        tokens: N of the model.
        layers: L of its language model.

    Example:
        >>> counter_of(100, 4)("ranked:random@1", 11).text, counter_of(100, 4)("lapsum+vpnoise", 11).text
        ('100 x1, 11 x3', '11 x4')
    """

    def counted(op: str, k: int) -> Counts:
        if not op.startswith(RANKED):
            return Counts(k, (), (k,) * layers, float(k))
        from gradprobe.selectors.plan import plan_of  # torch

        return plan_of(op.removeprefix(RANKED)).counts(tokens, layers, k=k)

    return counted


def table_and_costs(experiment: Any, answers: Sequence[Any]) -> tuple[SelectorTable, Sequence[Spent] | None, str]:
    """Return the table of a preset, the FLOPs of its points, and the reason why they are None.

    Raises:
        UsageError: The preset lacks a key, or its [table] is about another model than its questions.
    """
    shape = experiment.table
    numbers = [shape.get(name) for name in ("tokens", "layers")]
    n, layers = (each if isinstance(each, int) else 1 for each in numbers)
    table = selector_table(experiment, answers, counter_of(n, layers))
    try:
        return table, spent_by(table.points, n, layers, shape.get("text_tokens", TEXT)), ""
    except Mismatch:
        raise
    except GradprobeError as error:
        return table, None, str(error)


def spent_by(points: Sequence[Point], tokens: int, layers: int, text_tokens: int) -> list[Spent]:
    """Return the FLOPs of points, in their order.

    Args:
        points: Points of one model.
        tokens: N, as the preset says it.
        layers: L, likewise.
        text_tokens: Length of the prompt, special tokens included.

    Raises:
        UsageError: The model is not known here.
        Mismatch: It has other numbers of tokens and layers than the preset says.
        GradprobeError: transformers is missing, or a selector fails to tell its FLOPs.
    """
    if not points:
        return []
    backbone = str(points[0].results[0].question["backbone"])
    names = [_name(p) for p in points]
    budgets = {name: tuple(p.k for p, other in zip(points, names, strict=True) if other == name) for name in names}
    trained = frozenset(name for name, p in zip(names, points, strict=True) if not p.op.startswith(RANKED))
    counts = _counted(backbone, tuple(budgets.items()), trained, text_tokens)
    if counts.shape != (tokens, layers):
        n, depth = counts.shape
        raise Mismatch(
            f"{backbone} has {n} visual tokens and {depth} layers, and the preset's [table] says tokens = {tokens}, "
            f"layers = {layers}; correct it"
        )
    return [counts.of[name, p.counts.layers] for name, p in zip(names, points, strict=True)]


@dataclass(frozen=True, eq=False)
class _Counted:
    """FLOPs by plan (or scorer) and tokens of each layer, and the N and L of the model."""

    shape: tuple[int, int]
    of: dict[tuple[str, tuple[int, ...]], Spent]


def _name(point: Point) -> str:
    """Return the plan of a point, or the scorer of one that was trained."""
    asked = point.results[0].question
    return point.op.removeprefix(RANKED) if point.op.startswith(RANKED) else str(asked["scorer"])


@lru_cache(maxsize=8)
def _counted(
    backbone: str, asked: tuple[tuple[str, tuple[int, ...]], ...], trained: frozenset[str], text_tokens: int
) -> _Counted:
    """Count the FLOPs of plans and scorers, each with its budgets; models are made of configurations, once a table."""
    from gradprobe.vlm.costs.flops import cost
    from gradprobe.vlm.costs.plans import plan_cost

    spent: dict[tuple[str, tuple[int, ...]], Spent] = {}
    whole = plan_cost(backbone, ["random"], k=[1], text_tokens=text_tokens)
    shape = whole.layout.tokens, len(whole.plans[0].counts.layers)
    for name, budgets in asked:
        possible = [k for k in dict.fromkeys(budgets) if k <= shape[0]]  # the others are another model's
        if name in trained:
            for flops in cost(backbone, k=possible, scorer=name, text_tokens=text_tokens).flops[1:]:
                spent[name, (flops.kept,) * shape[1]] = Spent(flops.prefill, flops.scorer)
        else:
            for each in plan_cost(backbone, [name], k=possible, text_tokens=text_tokens).plans[1:]:
                own = None if each.uncounted else each.flops.scorer
                spent[name, each.counts.layers] = Spent(each.flops.prefill, own)
    return _Counted(shape, spent)
