"""Plans and the numbers of visual tokens that they leave at each layer; no torch."""

from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Literal, TypeVar

from gradprobe.errors import UsageError, nearest
from gradprobe.selectors.stages import Stage, check_order, filled, scaled, text_of

Positions = Literal["keep", "compact"]
POSITIONS: tuple[Positions, ...] = ("keep", "compact")
Item = TypeVar("Item")
MARGIN = 0.5  # tokens a layer by which an average may miss the one that is asked for


@dataclass(frozen=True)
class Counts:
    """Numbers of visual tokens of an image on the way through a model.

    Attributes:
        outside: Tokens that enter the language model.
        inside: For each stage inside it, its layer and the tokens left from that layer on.
        layers: Tokens that each layer reads; () where there is no language model.
        average: Their mean over the layers; ``outside`` where there is no language model.
    """

    outside: int
    inside: tuple[tuple[int, int], ...]
    layers: tuple[int, ...]
    average: float

    @property
    def last(self) -> int:
        """K, the tokens left after the last stage."""
        return self.inside[-1][1] if self.inside else self.outside

    @property
    def text(self) -> str:
        """Tokens and the number of layers in a row that read so many.

        Example:
            >>> Counts(576, ((2, 166),), (576, 576, *[166] * 30), 191.625).text
            '576 x2, 166 x30'
        """
        runs = runs_of(self.layers, lambda count: count)
        return ", ".join(f"{run[0]} x{len(run)}" for run in runs) or str(self.outside)


@dataclass(frozen=True)
class MadeFor:
    """Model that a plan was made for; None where any will do.

    Attributes:
        model: Its name, for errors.
        layers: L, layers of its language model.
        tokens: N, its visual tokens of an image.
    """

    model: str | None = None
    layers: int | None = None
    tokens: int | None = None


@dataclass(frozen=True)
class Plan:
    """Stages in the order in which visual tokens pass them.

    Attributes:
        stages: At most one outside the language model, first; then layers in ascending order.
        positions: Position ids of kept tokens: their own (``keep``) or renumbered (``compact``).
        made_for: Model that the plan of a file was made for.
    """

    stages: tuple[Stage, ...]
    positions: Positions = "keep"
    made_for: MadeFor = MadeFor()

    def __post_init__(self) -> None:
        if not self.stages:
            raise UsageError("a plan without a stage drops nothing; give a selector, such as divprune or fastv@2")
        if self.positions not in POSITIONS:
            raise UsageError(f"--positions {self.positions} is not possible; {nearest(str(self.positions), POSITIONS)}")
        for i, stage in enumerate(self.stages):
            if i and stage.layer is None:
                raise UsageError(
                    f"{stage.text} is asked outside the language model and comes after {self.stages[i - 1].text}; one "
                    "selector stands outside, the first: divprune:k=128;fastv@8"
                )
        for run in runs_of(self.stages, lambda stage: stage.usual):
            check_order(run)

    @property
    def label(self) -> str:
        """Canonical text, which can be typed back."""
        runs = runs_of(self.stages, lambda stage: (stage.name, stage.usual, stage.layer is None))
        return ";".join(map(text_of, runs))

    @property
    def outside(self) -> Stage | None:
        """The stage outside the language model."""
        return self.stages[0] if self.stages[0].layer is None else None

    @property
    def inside(self) -> tuple[Stage, ...]:
        """The stages inside it, in the order of ``Counts.inside``, which has the layers of the model at hand."""
        return self.stages if self.outside is None else self.stages[1:]

    @property
    def budgeted(self) -> bool:
        """True if the last stage has a budget of its own, so that no other can be asked for."""
        return self.stages[-1].keep is not None

    def at(self, layers: int | None) -> "Plan":
        """Return the plan with the layers that its stages have in a model.

        Args:
            layers: L, layers of the language model; None: there is none.

        Raises:
            UsageError: A layer that is not there, too few of them, or stages out of order.
        """
        if self.inside and layers is None:
            raise UsageError(
                f"{self.label} drops tokens inside a language model, and there is no language model here; give a "
                "selector that is asked outside, such as divprune"
            )
        stages: list[Stage] = []
        for run in runs_of(self.stages, lambda stage: stage.usual):
            stages += scaled(run, layers or 0) if run[0].usual else run
        check_order(stages)
        for stage in stages:
            if stage.layer is not None and layers is not None and stage.layer >= layers:
                raise UsageError(f"{stage.text} is not possible: this language model has layers 0 to {layers - 1}")
        return replace(self, stages=tuple(stages))

    def counts(self, n: int, layers: int | None, k: int | None = None, average: float | None = None) -> Counts:
        """Return the numbers of visual tokens of an image on the way.

        Args:
            n: N, its visual tokens.
            layers: L, layers of the language model; None: there is none.
            k: Tokens left after the last stage, where that has no budget of its own.
            average: Mean over the layers that the last budget is chosen for, instead of ``k``.

        Raises:
            UsageError: No budget or two of them, counts that grow, a layer that is not there, an average that cannot be
                had, or a plan of another model.
        """
        self._check_model(n, layers)
        plan = self.at(layers)
        if k is not None and average is not None:
            raise UsageError(f"give either --k {k}, the tokens left at the end, or --average {average:g}")
        if k is not None and (type(k) is not int or not 1 <= k <= n):
            raise UsageError(f"--k {k} is not possible with {n} visual tokens; give --k 1 to --k {n}")
        if average is not None and not 0 < average <= n:
            raise UsageError(f"--average {average:g} is not possible with {n} visual tokens; give 1 to {n}")
        if self.budgeted:
            counts = _counts(plan, n, layers, None)
            if k is not None and k != counts.last:
                raise UsageError(f"{self.label} leaves {counts.last} tokens, not {k}; leave out its last budget or --k")
            if average is not None and abs(counts.average - average) > MARGIN:
                raise UsageError(
                    f"{self.label} has {counts.average:g} tokens a layer on average, not {average:g}; leave out its "
                    "last budget or --average"
                )
            return counts
        if k is None and average is None:
            end = "," if ":" in self.label.rpartition(";")[2] else ":"
            raise UsageError(
                f"{self.label} does not say how many tokens are left; give --k 64 or --average 64, or type "
                f"{self.label}{end}k=64"
            )
        return _counts(plan, n, layers, k if average is None else _last_for(plan, n, layers, average))

    def _check_model(self, n: int, layers: int | None) -> None:
        made = self.made_for
        for things, own, here in (("layers", made.layers, layers), ("visual tokens", made.tokens, n)):
            if own is not None and own != here:
                raise UsageError(
                    f"this plan was made for {made.model or 'a model'} with {own} {things}, and here are "
                    f"{here or 'no'} {things}; take a plan of this model, or type the stages: --select {self.label!r}"
                )


def _counts(plan: Plan, n: int, layers: int | None, last: int | None) -> Counts:
    """Count with the layers that the model has; ``last`` is the budget of a last stage that has none."""
    kept = filled(plan.stages, n, last)
    outside = n if plan.outside is None else kept[0]
    inside = [(stage.layer, count) for stage, count in zip(plan.stages, kept, strict=True) if stage.layer is not None]
    each = [[count for place, count in ((0, outside), *inside) if place <= layer][-1] for layer in range(layers or 0)]
    return Counts(outside, tuple(inside), tuple(each), sum(each) / len(each) if each else float(outside))


def _last_for(plan: Plan, n: int, layers: int | None, average: float) -> int:
    """Return the last budget whose average is nearest to the one asked for, and not more than the margin above it.

    Raises:
        UsageError: No budget has it.
    """
    start = 1 + max((i for i, stage in enumerate(plan.stages) if stage.keep is not None), default=-1)
    top = filled(plan.stages[:start], n, None)[-1] if start else n

    def mean(last: int) -> float:
        return _counts(plan, n, layers, last).average

    below = bisect_right(range(1, top + 1), average, key=mean)  # the largest budget with at most that average
    possible = [last for last in (below, below + 1) if 1 <= last <= top and mean(last) - average <= MARGIN]
    asked = f"--average {average:g} is not possible with {plan.label}"
    if not possible:
        way = _earlier(plan, start, lambda moved: _counts(moved, n, layers, 1).average - average <= MARGIN)
        raise UsageError(f"{asked} in {layers or 'no'} layers: the least is {mean(1):g}; {way}")
    if average - mean(top) > MARGIN:
        raise UsageError(f"{asked}: the most is {mean(top):g}, of {top} tokens; give the stage before a larger budget")
    return min(possible, key=lambda last: abs(mean(last) - average))


def _earlier(plan: Plan, start: int, possible: Callable[[Plan], bool]) -> str:
    """Name the latest layers at which the stages from ``start`` on would have an average that is possible.

    A plan whose first free stage is outside the language model needs a larger average.
    """
    before, free = plan.stages[:start], plan.stages[start:]
    if free[0].layer is None:
        return "give at least that"
    first, least = free[0].layer or 0, max([stage.layer or 0 for stage in before], default=0)
    for place in range(first - 1, least, -1):
        layers = [max(place + i, (stage.layer or 0) * place // first) for i, stage in enumerate(free)]
        moved = [replace(stage, layer=layer) for stage, layer in zip(free, layers, strict=True)]
        if possible(replace(plan, stages=(*before, *moved))):
            return f"drop no later than {Plan((*before, *moved)).label}"
    return "drop at earlier layers, or outside the language model, as divprune does"


def runs_of(items: Iterable[Item], key: Callable[[Item], Any]) -> list[list[Item]]:
    """Group neighbours with equal keys.

    Example:
        >>> runs_of([4, 4, 2, 4], key=lambda item: item)
        [[4, 4], [2], [4]]
    """
    return [list(run) for _, run in groupby(items, key)]
