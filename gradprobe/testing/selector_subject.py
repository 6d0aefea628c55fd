"""Selector under examination, and its answers to every view."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gradprobe.testing.findings import Broken, Skipped, error_text
from gradprobe.testing.selector_cases import TOKENS, ViewCase, budgets
from gradprobe.testing.surroundings import surroundings_kept
from gradprobe.view import Kept, SelectorAbout, Unavailable, View

SHAPE = (
    "a selector is called with (view, k) and returns gradprobe.view.Kept(index), index int64 (B, K); where a model "
    "lacks what it reads, raise gradprobe.view.Unavailable(reason)"
)


@dataclass(frozen=True, eq=False)
class Answer:
    """Result of a call.

    Attributes:
        case: Arguments.
        kept: Tokens kept, in ascending order; None where there is no result.
        unavailable: Reason that the selector gave for having none.
        broken: Fault of the call.
        fault: Fault of the numbers of tokens, by the name of its property.
    """

    case: ViewCase
    kept: Kept | None = None
    unavailable: str = ""
    broken: Broken | None = None
    fault: tuple[str, Broken] | None = None


@dataclass(frozen=True, eq=False)
class SelectorSubject:
    """Selector under examination.

    Attributes:
        name: Name in messages.
        selector: The selector.
        about: Its declaration, if any.
        answers: Its answers to the catalogue of views.
    """

    name: str
    selector: Any
    about: SelectorAbout | None
    answers: tuple[Answer, ...] = ()

    def ask(self, case: ViewCase, view: View | None = None) -> Kept:
        """Call the selector without a gradient.

        Args:
            case: Arguments.
            view: View to use; None for a new one.

        Raises:
            Unavailable: The selector refuses the view.
            Broken: It raised, or did not return numbers of tokens.
        """
        try:
            with torch.no_grad():
                kept = self.selector(case.view() if view is None else view, case.k)
        except Unavailable:
            raise
        except Exception as error:  # anyone's code
            raise Broken(case.describe(), error_text(error, self.name), SHAPE) from error
        if not isinstance(kept, Kept):
            raise Broken(case.describe(), f"returned {type(kept).__name__}", SHAPE)
        index, b = kept.index, len(case.original)
        if not isinstance(index, Tensor) or index.dtype != torch.int64:
            seen = index.dtype if isinstance(index, Tensor) else type(index).__name__
            raise Broken(case.describe(), f"index is {seen}", SHAPE)
        if index.ndim != 2 or len(index) != b:
            raise Broken(case.describe(), f"index has the shape {tuple(index.shape)} for {b} images", SHAPE)
        if index.device != case.original.device:
            message = f"index is on {index.device}, the tokens are on {case.original.device}"
            raise Broken(case.describe(), message, "make it from the view's tensors, or with device=features.device")
        return kept

    def answer(self, case: ViewCase) -> Answer:
        """Call the selector, whatever it does to global state, and judge the numbers of the tokens that it keeps."""
        with surroundings_kept():
            try:
                kept = self.ask(case)
                return Answer(case, in_order(kept), fault=fault_of(case, kept))
            except Unavailable as reason:
                return Answer(case, unavailable=" ".join(str(reason).split()))
            except Broken as broken:
                return Answer(case, broken=broken)

    def right(self, case: ViewCase, view: View | None = None) -> Kept:
        """Return the tokens kept, in ascending order.

        Raises:
            Unavailable: The selector refuses the view.
            Broken: The call failed, or the result has a fault.
        """
        kept = self.ask(case, view)
        fault = fault_of(case, kept)
        if fault is not None and fault[0] != "order":
            raise fault[1]
        return in_order(kept)

    def kept(self) -> list[Answer]:
        """Return the answers with tokens.

        Raises:
            Skipped: There are none.
        """
        if answers := [answer for answer in self.answers if answer.kept is not None]:
            return answers
        raise Skipped("; ".join(dict.fromkeys(a.unavailable for a in self.answers if a.unavailable)) or CANNOT)

    def faultless(self) -> list[Answer]:
        """Return the answers with tokens, but for those with a fault that another property reports.

        Raises:
            Skipped: There are none.
        """
        answers = [answer for answer in self.kept() if answer.fault is None or answer.fault[0] == "order"]
        if not answers:
            raise Skipped("the number of tokens or their shape is wrong")
        return answers

    def plain(self) -> list[ViewCase]:
        """Return one plain case for each place where the selector can be asked: random tokens, float64, a third kept.

        Raises:
            Skipped: There is none.
        """
        third = budgets(TOKENS)[2]
        cases = [
            a.case
            for a in self.faultless()
            if (a.case.kind, a.case.n, a.case.k) == ("random", TOKENS, third) and a.case.original.dtype == torch.float64
        ]
        if not cases:
            raise Skipped("there is no plain view that it takes")
        return cases

    def scores(self, case: ViewCase) -> Tensor | None:
        """Return the scores of a case, None where the selector refuses it.

        Raises:
            Skipped: The selector has no scores.
            Broken: They cannot be had, or have another shape.
        """
        if not callable(getattr(self.selector, "scores", None)):
            raise Skipped("it declares no scores")
        try:
            with torch.no_grad():
                scores = self.selector.scores(case.view())
        except Unavailable:
            return None
        except Exception as error:  # anyone's code
            raise Broken(case.describe(), f"scores {error_text(error, self.name)}", SCORES) from error
        seen = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        if seen != tuple(case.original.shape[:2]):
            raise Broken(case.describe(), f"scores are {seen} of {tuple(case.original.shape[:2])}", SCORES)
        return scores


CANNOT = "it cannot be called"
SCORES = "scores(view) returns (B, N), and the call keeps the K largest: Kept(gradprobe.core.top_k(scores, k))"


def fault_of(case: ViewCase, kept: Kept) -> tuple[str, Broken] | None:
    """Return the fault of the tokens that are kept, and the property to which it belongs."""
    index, tokens, where = kept.index, kept.tokens, case.describe()
    if index.shape[1] != case.k:
        remedy = "keep exactly K of every image, also where your formula would round to another number"
        return "budget", Broken(where, f"{index.shape[1]} tokens are kept", remedy)
    if not bool(((index >= 0) & (index < case.n)).all()):
        message = f"index reaches from {int(index.min())} to {int(index.max())}"
        return "budget", Broken(where, message, "index names tokens, 0 .. N - 1")
    ordered = index.sort(1).values
    if bool((ordered.diff(dim=1) == 0).any()):
        return "budget", Broken(where, "a token is kept twice", "keep K different tokens")
    if tokens is not None:
        wanted = (*index.shape, case.original.shape[-1])
        shape = tuple(tokens.shape) if isinstance(tokens, Tensor) else type(tokens).__name__
        width = "return (B, K, width), the width of view.features outside a language model, of inside.hidden in it"
        if shape != wanted:
            return "merged", Broken(where, f"tokens are {shape}; they must be {wanted}", width)
        if (tokens.dtype, tokens.device) != (case.original.dtype, case.original.device):
            message = f"tokens are {tokens.dtype} on {tokens.device}"
            return "merged", Broken(where, message, "return tokens.to(view.features)")
    if not torch.equal(index, ordered):
        return "order", Broken(where, f"index is {index[0].tolist()[:6]} ...", "sort it: index.sort(-1).values")
    return None


def in_order(kept: Kept) -> Kept:
    """Return the same tokens in ascending order."""
    index, order = kept.index.sort(1)
    tokens = kept.tokens
    if not isinstance(tokens, Tensor) or tokens.shape[:2] != index.shape:
        return replace(kept, index=index)
    return Kept(index, tokens.gather(1, order[..., None].expand_as(tokens)))
