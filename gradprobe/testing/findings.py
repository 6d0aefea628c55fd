"""What is examined, and what is found."""

import traceback
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from gradprobe.core import Noise, Selection, SelectionOperator, apply
from gradprobe.errors import GradprobeError
from gradprobe.operator_info import About
from gradprobe.testing.cases import DTYPES, Case

Status = Literal["passed", "failed", "skipped"]
LIBRARIES = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]))
DECLARE = "give it `about = gradprobe.About(formula, gradient)`: gradient is exact, unbiased, biased or none"
SHAPE = (
    "an operator is called with (patches (B, N, D), scores (B, N), k, noise) and returns a gradprobe.Selection; half "
    "of one is checked joined: my_op.py:MyRelaxation+gather, lapsum+my_op.py:MyThrottle"
)


class BrokenContract(GradprobeError):
    """An operator that breaks what every operator promises; the text names each property, its input and what to do."""


class Broken(Exception):
    """A property does not hold."""

    def __init__(self, case: str, told: str, remedy: str):
        super().__init__(case, told, remedy)
        self.case, self.told, self.remedy = case, told, remedy


class Skipped(Exception):
    """A property that cannot be examined."""

    def __init__(self, told: str, remedy: str = ""):
        super().__init__(told, remedy)
        self.told, self.remedy = told, remedy


@dataclass(frozen=True)
class Finding:
    """Whether one property holds.

    Attributes:
        property: its name.
        status: ``passed``, ``failed`` or ``skipped``.
        promise: what every operator promises.
        case: the first input it does not hold for; empty if it does.
        told: what was seen.
        remedy: what to do about it.
    """

    property: str
    status: Status
    promise: str
    case: str = ""
    told: str = ""
    remedy: str = ""

    def __str__(self) -> str:
        """All of it, as `BrokenContract` tells it."""
        where = f" ({self.case})" if self.case else ""
        return f"{self.property}{where}: {self.told}; promised: {self.promise}; to do: {self.remedy}"


@dataclass(frozen=True)
class Subject:
    """An operator under examination.

    Attributes:
        name: what it is called.
        operator: itself.
        about: what it declares.
        dtypes: in which it can be called.
    """

    name: str
    operator: SelectionOperator
    about: About | None
    dtypes: tuple[torch.dtype, ...] = DTYPES

    def __call__(self, case: Case) -> Selection:
        """Call it on copies, so that an operator that writes on its inputs is told so once, not everywhere.

        Raises:
            Broken: it raised, or did not return a Selection of the promised shapes; with the input that it was.
        """
        try:
            return apply(self.on_copies, case.patches, case.scores, case.k, case.noise, self.name)
        except Exception as error:
            for part in case.parts():
                self(part)
            raise Broken(case.told(), _told(error, self.name), SHAPE) from error

    def gradient(self, total: Tensor, case: Case) -> Tensor:
        """The gradient in the scores, zero where there is none.

        Raises:
            Broken: its backward raised.
        """
        if not total.requires_grad:
            return torch.zeros_like(case.scores)
        try:
            return torch.autograd.grad(total, case.scores, allow_unused=True, materialize_grads=True)[0]
        except Exception as error:
            told = f"its backward {_told(error, self.name)}"
            raise Broken(case.told(), told, "mend the backward; torch.autograd.gradcheck helps") from error

    def declared(self) -> About:
        """What it declares.

        Raises:
            Skipped: nothing.
        """
        if self.about is None:
            raise Skipped("nothing is declared", DECLARE)
        return self.about

    def on_copies(self, patches: Tensor, scores: Tensor, k: int, noise: Noise) -> Selection:
        """The operator, kept from its callers' tensors."""
        return self.operator(patches.clone(), scores.clone(), k, noise=noise)


def tensors(selection: Selection) -> Mapping[str, Tensor]:
    """The fields that a selection has, by name."""
    found = {f.name: getattr(selection, f.name) for f in fields(selection)}
    return {name: value for name, value in found.items() if value is not None}


def same(one: Selection, other: Selection) -> bool:
    """Whether two selections are equal bit for bit; NaN equals NaN, which is another property's fault."""
    here, there = tensors(one), tensors(other)
    return here.keys() == there.keys() and all(_equal(here[name], there[name]) for name in here)


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool(((one == other) | (one.isnan() & other.isnan())).all())


def all_in_order(selection: Selection, n: int) -> Selection:
    """Its tokens and biases at the places of the originals; what was not sent is zero."""
    if selection.index is None:
        return selection
    index, tokens = selection.index, selection.tokens
    b, _, d = tokens.shape
    placed = tokens.new_zeros(b, n, d).scatter(1, index[..., None].expand(-1, -1, d), tokens)
    bias, own = (
        None if each is None else each.new_zeros(b, n).scatter(1, index, each)
        for each in (selection.key_bias, selection.self_bias)
    )
    return replace(selection, tokens=placed, index=None, key_bias=bias, self_bias=own)


def first_row(wrong: Tensor) -> int | None:
    """The first image for which something is wrong, None if there is none; ``wrong (B, ...)``."""
    rows = wrong.flatten(1).any(1) if wrong.ndim > 1 else wrong
    return int(rows.int().argmax()) if bool(rows.any()) else None


def _told(error: Exception, name: str) -> str:
    """An error in words, with the line of the operator's own code."""
    cause = error.__cause__ or error
    if isinstance(cause, GradprobeError):
        return str(cause).removeprefix(f"operator {name} ")
    own = [f for f in traceback.extract_tb(cause.__traceback__) if not f.filename.startswith(LIBRARIES)]
    where = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
    return f"raised {type(cause).__name__}: {' '.join(str(cause).split())}{where}"
