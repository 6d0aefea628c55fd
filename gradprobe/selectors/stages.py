"""Stages of a plan: which selector drops visual tokens where, and how many each leaves; no torch."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from gradprobe.errors import UsageError, in_words
from gradprobe.operators.fields import text
from gradprobe.operators.registry import label

if TYPE_CHECKING:
    from gradprobe.view import Selector

Keep = int | float | None
USUAL = 32  # layers of the language models for which methods name theirs
_NAME = re.compile(r"[^:]+\.py:\w+|[^:]+")  # of a selector, before its fields


@dataclass(frozen=True)
class Stage:
    """A selector at its place.

    Attributes:
        selector: Chooses the tokens that are kept.
        layer: Layer of the language model at whose input the others are dropped, from 0; None: outside.
        keep: Tokens kept: a count (int) or a share of the image's N (float in (0, 1]). None: the budget that is asked
            for; of several layers of one selector, geometric steps down to the next budget.
        usual: True for a layer that is named for 32 layers and scaled to the model's.
    """

    selector: "Selector"
    layer: int | None = None
    keep: Keep = None
    usual: bool = False

    def __post_init__(self) -> None:
        if not callable(self.selector):
            raise UsageError(f"{in_words(self.selector)} is no selector; give an object, or a text such as 'divprune'")
        if self.layer is not None and (type(self.layer) is not int or self.layer < 0):
            raise UsageError(f"{self.name} at layer {self.layer} is not possible; layers count from 0, as in fastv@2")
        share = isinstance(self.keep, float) and 0 < self.keep <= 1
        if self.keep is not None and not share and (type(self.keep) is not int or self.keep < 1):
            raise UsageError(
                f"{self.name} cannot keep {self.keep}; give a number of tokens, keep=64, or a share of all of them in "
                "(0, 1], keep=0.5"
            )
        if self.layer is None and (layers := default_layers(self.selector)):
            raise UsageError(
                f"{self.name} is asked inside the language model; name a layer: {typed(self.selector, layers[:1])}"
            )

    @property
    def name(self) -> str:
        """Canonical name of the selector, with its fields."""
        return label(self.selector)

    @property
    def text(self) -> str:
        """Canonical text of the stage alone."""
        return text_of([self])

    def target(self, n: int) -> int | None:
        """Return its own budget as a number of tokens, of N visual tokens; None without."""
        return max(1, round(self.keep * n)) if isinstance(self.keep, float) else self.keep


def default_layers(selector: "Selector") -> tuple[int, ...]:
    """Return the layers of a 32-layer model at which a selector is asked by default; () outside the language model."""
    return getattr(getattr(selector, "about", None), "layers", ())


def typed(selector: "Selector", layers: Sequence[int] = (), budget: str = "") -> str:
    """Return the text of a selector at layers, with a budget such as ``keep=0.5``.

    Example:
        >>> from gradprobe.selectors.random import Random
        >>> typed(Random(), (8, 16), "keep=0.5,0.25")
        'random@8,16:keep=0.5,0.25'
    """
    whole = label(selector)
    match = _NAME.match(whole)
    name = match[0] if match else whole
    fields = ",".join(filter(None, (whole[len(name) + 1 :], budget)))
    return name + ("@" + ",".join(map(str, layers)) if layers else "") + (":" + fields if fields else "")


def text_of(run: Sequence[Stage]) -> str:
    """Return the canonical text of stages of one selector, in one where that can be said, else one by one."""
    keeps = [stage.keep for stage in run]
    if all(keep is None for keep in keeps):
        budget = ""
    elif type(keeps[-1]) is int and all(keep is None for keep in keeps[:-1]):
        budget = f"k={keeps[-1]}"
    elif all(keep is not None for keep in keeps):
        budget = "keep=" + ",".join(text(keep) if keep != 1 or type(keep) is int else "1.0" for keep in keeps)
    else:
        return ";".join(stage.text for stage in run)
    return typed(run[0].selector, [stage.layer for stage in run if stage.layer is not None and not stage.usual], budget)


def check_order(stages: Sequence[Stage]) -> None:
    """Refuse stages whose layers do not rise.

    Raises:
        UsageError: Names two of them.
    """
    for before, after in pairwise(stages):
        if before.layer is not None and after.layer is not None and after.layer <= before.layer:
            raise UsageError(
                f"{after.name} at layer {after.layer} comes after {before.name} at layer {before.layer}; layers rise "
                "from stage to stage, as in fastv@2;dart@8"
            )


def scaled(run: Sequence[Stage], layers: int) -> list[Stage]:
    """Return stages whose layers are named for 32 at the layers that they have in a model.

    Raises:
        UsageError: The model has too few layers for the stages.

    Example:
        >>> from gradprobe.selectors.random import Random
        >>> stages = [Stage(Random(), layer, usual=True) for layer in (8, 16, 24)]
        >>> [stage.layer for stage in scaled(stages, 28)], [stage.layer for stage in scaled(stages, 4)]
        ([7, 14, 21], [1, 2, 3])
    """
    places: list[int] = []
    for stage in run:
        layer = stage.layer or 0
        own = max(round(layer * layers / USUAL), min(layer, 1))
        places.append(max(own, places[-1] + 1) if places else own)
    places = [min(place, layers - len(run) + i) for i, place in enumerate(places)]
    if places[0] < min(run[0].layer or 0, 1):
        names = " and ".join(dict.fromkeys(stage.name for stage in run))
        fewer = f"fewer, as in {typed(run[0].selector, range(1, layers))}, or " if layers > 1 else ""
        raise UsageError(
            f"{names}: tokens are dropped at {len(run)} layers after the first, and this language model has {layers} "
            f"in all; name {fewer}a selector outside it, such as divprune"
        )
    return [replace(stage, layer=place, usual=False) for stage, place in zip(run, places, strict=True)]


def filled(stages: Sequence[Stage], n: int, last: int | None) -> list[int]:
    """Return the number of tokens that each stage keeps.

    Args:
        stages: At the layers that they have in the model.
        n: N, visual tokens of the image.
        last: Budget of the last stage, where it has none of its own.

    Raises:
        UsageError: A stage without a budget, or counts that grow.
    """
    targets = [stage.target(n) for stage in stages]
    if targets and targets[-1] is None:
        targets[-1] = last
    kept: list[int] = []
    for i, stage in enumerate(stages):
        before, goal = kept[-1] if kept else n, _goal(stages, targets, i)
        if goal is None:
            example = f"{replace(stage, keep=max(1, n // 2)).text};{stages[i + 1].text}"
            raise UsageError(f"{stage.text} is not the last stage and needs a budget of its own, as in {example}")
        steps, target = goal
        if target > before:
            whose = f"that {stages[i - 1].text} leaves" if i else "of the image"
            raise UsageError(f"{stage.text} would keep {target} of the {before} tokens {whose}; give at most {before}")
        kept.append(max(target, min(before, round(before * (target / before) ** (1 / steps)))))
    return kept


def _goal(stages: Sequence[Stage], targets: Sequence[int | None], i: int) -> tuple[int, int] | None:
    """Return the next budget from stage i on and the number of steps to it, within layers of the same selector."""
    for steps, (stage, target) in enumerate(zip(stages[i:], targets[i:], strict=True), start=1):
        if stage.selector != stages[i].selector or (stage.layer is None) != (stages[i].layer is None):
            return None
        if target is not None:
            return steps, target
    return None
