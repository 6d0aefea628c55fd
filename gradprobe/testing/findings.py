"""Subject of an examination, and its findings."""

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
    """Operator that breaks the contract; the text names each property, its input and a remedy."""


class Broken(Exception):
    """Property that does not hold."""

    def __init__(self, case: str, message: str, remedy: str):
        super().__init__(case, message, remedy)
        self.case, self.message, self.remedy = case, message, remedy


class Skipped(Exception):
    """Property that cannot be examined."""

    def __init__(self, message: str, remedy: str = ""):
        super().__init__(message, remedy)
        self.message, self.remedy = message, remedy


@dataclass(frozen=True)
class Finding:
    """Result for one property.

    Attributes:
        property: Name of the property.
        status: Status, ``passed``, ``failed`` or ``skipped``.
        promise: Promise of every operator.
        case: First input for which the property does not hold; empty if it holds.
        told: Observation.
        remedy: Advice to the author.
    """

    property: str
    status: Status
    promise: str
    case: str = ""
    told: str = ""
    remedy: str = ""

    def __str__(self) -> str:
        """Return the text of a line of `BrokenContract`."""
        where = f" ({self.case})" if self.case else ""
        return f"{self.property}{where}: {self.told}; promised: {self.promise}; to do: {self.remedy}"


@dataclass(frozen=True)
class Subject:
    """Operator under examination.

    Attributes:
        name: Name in messages.
        operator: The operator.
        about: Its declaration, if any.
        dtypes: Precisions in which it can be called.
    """

    name: str
    operator: SelectionOperator
    about: About | None
    dtypes: tuple[torch.dtype, ...] = DTYPES

    def __call__(self, case: Case) -> Selection:
        """Call the operator on copies, so that only ``inputs`` reports one that writes on its inputs.

        Raises:
            Broken: It raised, or did not return a Selection of the promised shapes.
        """
        try:
            return apply(self.on_copies, case.patches, case.scores, case.k, case.noise, self.name)
        except Exception as error:
            for part in case.parts():
                self(part)
            raise Broken(case.describe(), error_text(error, self.name), SHAPE) from error

    def gradient(self, total: Tensor, case: Case) -> Tensor:
        """Return the gradient with respect to the scores, zero without a graph.

        Raises:
            Broken: The operator's backward raised.
        """
        if not total.requires_grad:
            return torch.zeros_like(case.scores)
        try:
            return torch.autograd.grad(total, case.scores, allow_unused=True, materialize_grads=True)[0]
        except Exception as error:
            message = f"its backward {error_text(error, self.name)}"
            raise Broken(case.describe(), message, "mend the backward; torch.autograd.gradcheck helps") from error

    def declared(self) -> About:
        """Return the declaration.

        Raises:
            Skipped: There is none.
        """
        if self.about is None:
            raise Skipped("nothing is declared", DECLARE)
        return self.about

    def on_copies(self, patches: Tensor, scores: Tensor, k: int, noise: Noise) -> Selection:
        """Call the operator on copies of the tensors."""
        return self.operator(patches.clone(), scores.clone(), k, noise=noise)


def tensors(selection: Selection) -> Mapping[str, Tensor]:
    """Return the fields of a selection that are not None, by name."""
    values = {f.name: getattr(selection, f.name) for f in fields(selection)}
    return {name: value for name, value in values.items() if value is not None}


def same(one: Selection, other: Selection) -> bool:
    """Return True if two selections are equal bit for bit; NaN equals NaN, which is for ``finite`` to report."""
    here, there = tensors(one), tensors(other)
    return here.keys() == there.keys() and all(_equal(here[name], there[name]) for name in here)


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool(((one == other) | (one.isnan() & other.isnan())).all())


def all_in_order(selection: Selection, n: int) -> Selection:
    """Return the selection with tokens and biases at their original positions, zero where there is none."""
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
    """Return the first image with a True in ``wrong (B, ...)``, None if there is none."""
    rows = wrong.flatten(1).any(1) if wrong.ndim > 1 else wrong
    return int(rows.int().argmax()) if bool(rows.any()) else None


def error_text(error: Exception, name: str) -> str:
    """Describe an error, with the line of the operator's own code."""
    cause = error.__cause__ or error
    if isinstance(cause, GradprobeError):
        return str(cause).removeprefix(f"operator {name} ")
    own = [f for f in traceback.extract_tb(cause.__traceback__) if not f.filename.startswith(LIBRARIES)]
    where = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
    return f"raised {type(cause).__name__}: {' '.join(str(cause).split())}{where}"
