"""Calls of anyone's selector, with the checks that every caller relies on."""

from typing import Any

import torch
from torch import Tensor

from gradprobe.deferred import refuse
from gradprobe.errors import GradprobeError
from gradprobe.operators.registry import label
from gradprobe.view import Kept, Selector, View

OF_THEIR_OWN = (GradprobeError, torch.OutOfMemoryError, MemoryError)  # errors that say enough


def keep(selector: Selector, view: View, k: int) -> Kept:
    """Return the K tokens that a selector keeps of each image, without a gradient.

    Raises:
        Unavailable: It reads something that is not there.
        GradprobeError: It raised, or returned something else than K ascending numbers of tokens for each image.

    Example:
        >>> from gradprobe.noise import Noise
        >>> view = View(Noise(0, (0,)), torch.zeros(1, 5, 2))
        >>> keep(lambda view, k: Kept(torch.arange(k).flip(0)[None]), view, 3)
        Traceback (most recent call last):
        gradprobe.errors.GradprobeError: selector ... kept [2, 1, 0] of 5 tokens; ...
    """
    name = label(selector)
    with torch.no_grad():
        try:
            kept: Any = selector(view, k)
        except OF_THEIR_OWN:
            raise
        except Exception as error:  # anyone's code
            raise _raised(name, error) from error
    if not isinstance(kept, Kept):
        raise GradprobeError(f"selector {name} returned {type(kept).__name__}; return a gradprobe.view.Kept")
    b, n = view.shape
    index, tokens = kept.index, kept.tokens
    if not isinstance(index, Tensor) or index.dtype != torch.int64 or index.shape != (b, k):
        seen = f"{index.dtype} {tuple(index.shape)}" if isinstance(index, Tensor) else type(index).__name__
        raise GradprobeError(f"selector {name} returned an index {seen}; it must be int64 {(b, k)}; {_check(name)}")
    wrong = ((index < 0) | (index >= n)).any(1) | (index.diff(dim=1) <= 0).any(1)
    refuse(wrong, lambda bad: _unordered(name, index[int(bad.int().argmax())].tolist(), n))
    if tokens is not None:
        wanted = (b, k, (view.projected if view.given is None else view.given).shape[2])
        if not isinstance(tokens, Tensor) or tuple(tokens.shape) != wanted:
            seen = str(tuple(tokens.shape)) if isinstance(tokens, Tensor) else type(tokens).__name__
            raise GradprobeError(f"selector {name} returned tokens {seen}; they must be {wanted}; {_check(name)}")
    return kept


def scores_of(selector: Selector, view: View) -> Tensor | None:
    """Return a selector's scores of all tokens ``(B, N)``, None of one that declares none.

    Raises:
        Unavailable: It reads something that is not there.
        GradprobeError: It raised, or returned something of another shape.
    """
    scoring: Any = getattr(selector, "scores", None)
    if scoring is None:
        return None
    name = label(selector)
    with torch.no_grad():
        try:
            scores = scoring(view)
        except OF_THEIR_OWN:
            raise
        except Exception as error:  # anyone's code
            raise _raised(name, error) from error
    if not isinstance(scores, Tensor) or tuple(scores.shape) != view.shape:
        seen = str(tuple(scores.shape)) if isinstance(scores, Tensor) else type(scores).__name__
        raise GradprobeError(f"selector {name} returned scores {seen}; they must be {view.shape}; {_check(name)}")
    return scores


def _raised(name: str, error: Exception) -> GradprobeError:
    text = " ".join(str(error).split())
    return GradprobeError(f"selector {name} raised {type(error).__name__}: {text}; --debug shows where")


def _unordered(name: str, index: list[int], n: int) -> GradprobeError:
    shown = str(index) if len(index) <= 8 else f"[{', '.join(map(str, index[:8]))}, ...]"
    return GradprobeError(
        f"selector {name} kept {shown} of {n} tokens; an index names different tokens of 0 .. N - 1 in ascending "
        f"order; {_check(name)}"
    )


def _check(name: str) -> str:
    return f"gradprobe check {name} examines it"
