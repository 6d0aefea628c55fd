"""The vocabulary: tokens, selections, operators and tasks; keyed noise is in `gradprobe.noise`.

Shapes: B images in a batch, N tokens in an image, D channels in a token, K tokens kept, M tokens in a selection.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from gradprobe.errors import GradprobeError, UsageError
from gradprobe.nans import refuse_nan
from gradprobe.noise import Noise as Noise
from gradprobe.noise import Stream as Stream
from gradprobe.operator_info import About
from gradprobe.operator_info import joined as joined_about
from gradprobe.view import Drop, Grid, Positions, View


@dataclass(frozen=True)
class Tokens:
    """Output of the frozen model up to the insertion point.

    Attributes:
        prefix: Class and register tokens, ``(B, P0, D)``; P0 may be 0.
        patches: Tokens that can be pruned, ``(B, N, D)``.
    """

    prefix: Tensor
    patches: Tensor


@dataclass(frozen=True)
class Selection:
    """Input of the rest of the frozen model.

    Attributes:
        tokens: Tokens to read, ``(B, M, D)``.
        weights: Retention weights of all tokens, ``(B, N)`` in [0, 1].
        index: Position of each token among the original N, ``(B, M)``; None for all N in order.
        key_bias: Bias on the attention logits of each token as a key, ``(B, M)``; None for no bias.
        log_prob: Log-probability of a sampled subset, ``(B,)``; None unless the relaxation is a score-function one.
        self_bias: Replacement of ``key_bias`` where a token attends to itself, ``(B, M)``; None for no replacement.
        penalty: Term added to the training loss of each image, such as a budget loss, ``(B,)``; None for no term.
    """

    tokens: Tensor
    weights: Tensor
    index: Tensor | None = None
    key_bias: Tensor | None = None
    log_prob: Tensor | None = None
    self_bias: Tensor | None = None
    penalty: Tensor | None = None


@runtime_checkable
class Relaxation(Protocol):
    """Map from scores to retention weights, with the gradient that comes back.

    Optional attributes: ``about``, an `About`; ``suited``, the name of the throttle that it is listed with;
    ``log_prob(scores, k, noise) -> (B,)``, the log-probability of the subset drawn with the same noise;
    ``penalty(scores, weights, k) -> (B,)``, a term of the training loss.
    """

    def __call__(self, scores: Tensor, k: int, noise: Noise) -> Tensor:
        """Return weights ``(B, N)`` in [0, 1] for scores ``(B, N)``."""
        ...


@runtime_checkable
class Throttle(Protocol):
    """Action of retention weights on tokens."""

    def __call__(self, patches: Tensor, weights: Tensor, k: int, noise: Noise) -> Selection:
        """Return the selection for patches ``(B, N, D)`` and weights ``(B, N)``."""
        ...


@runtime_checkable
class SelectionOperator(Protocol):
    """Anything that is called as an operator."""

    def __call__(self, patches: Tensor, scores: Tensor, k: int, noise: Noise) -> Selection:
        """Return the selection for patches ``(B, N, D)`` and scores ``(B, N)``."""
        ...


@dataclass(frozen=True)
class Operator:
    """Relaxation and throttle, ``throttle(patches, relaxation(scores, k), k)``, on separate streams of the noise.

    Example:
        >>> import gradprobe as gp
        >>> op = gp.build("vpnoise:tau=0.3")
        >>> patches, scores = torch.randn(2, 9, 4), torch.randn(2, 9)
        >>> op(patches, scores, 3, noise=gp.Noise(0, (0, 1))).tokens.shape
        torch.Size([2, 9, 4])
    """

    relaxation: Relaxation
    throttle: Throttle

    def __call__(self, patches: Tensor, scores: Tensor, k: int, noise: Noise) -> Selection:
        """Return the selection for patches ``(B, N, D)`` and scores ``(B, N)``.

        Raises:
            UsageError: Patches, scores, K and noise do not fit together.
        """
        _check_call(patches, scores, k, noise)
        relaxation: Any = self.relaxation
        weights = relaxation(scores, k, noise.stream(Stream.RELAXATION))
        selection = self.throttle(patches, weights, k, noise.stream(Stream.THROTTLE))
        if hasattr(relaxation, "log_prob"):
            selection = replace(selection, log_prob=relaxation.log_prob(scores, k, noise.stream(Stream.RELAXATION)))
        if hasattr(relaxation, "penalty"):
            selection = replace(selection, penalty=relaxation.penalty(scores, weights, k))
        return selection

    @property
    def about(self) -> About | None:
        """Promise that follows from the parts; None if one of them declares nothing."""
        return joined_about(self.relaxation, self.throttle)


def _check_call(patches: Tensor, scores: Tensor, k: int, noise: Noise) -> None:
    """Refuse arguments that broadcasting or slicing would accept with another meaning."""
    (b, n), shape = patches.shape[:2], tuple(scores.shape)
    if shape != (b, n):
        raise UsageError(f"scores of shape {shape} for {b} images of {n} tokens; give one a token, {(b, n)}")
    if not 1 <= k <= n:
        raise UsageError(f"k={k} is no number of tokens to keep of {n}; give 1 to {n}")
    if len(noise.ids) != b:
        raise UsageError(
            f"noise for {len(noise.ids)} images and patches of {b}; give one id an image: Noise(seed, ids)"
        )


AnyOperator = SelectionOperator | str | type  # itself, its name, or its class


@dataclass(frozen=True)
class Batch:
    """Images that a task gives to a probe.

    Attributes:
        ids: One integer per image, stable across batches, runs and machines: the key of its noise.
        tokens: Output of the frozen model up to the insertion point.
        target: Reference of the task's loss (labels, unpruned log-probabilities, or the text for a language model): a
            tensor, or anything whose rows are taken by indexing.
        relevant: Mask of the tokens that are known to matter, ``(B, N)``; None where that is unknown.
        kinds: Kind of question about each image, a small integer; empty where there is only one kind.
    """

    ids: tuple[int, ...]
    tokens: Tokens
    target: Any
    relevant: Tensor | None = None
    kinds: tuple[int, ...] = ()

    def subset(self, which: "slice | Tensor") -> "Batch":
        """Return the batch of some of the images."""
        if isinstance(which, Tensor):
            if len(which) == len(self.ids) and torch.equal(which, torch.arange(len(which))):
                return self
            ids, kinds = (tuple(x[i] for i in which.tolist()) if x else () for x in (self.ids, self.kinds))
            which = which.to(self.tokens.patches.device, non_blocking=True)
        else:
            ids, kinds = self.ids[which], self.kinds[which]
        tokens = Tokens(self.tokens.prefix[which], self.tokens.patches[which])
        known = None if self.relevant is None else self.relevant[which]
        return Batch(ids, tokens, self.target[which], known, kinds)


def joined(batches: Sequence[Batch]) -> Batch:
    """Return one batch of the images of several, which have the same number of tokens.

    Raises:
        GradprobeError: Their targets are no tensors and have no method ``joined``.
    """
    first = batches[0]
    tokens = (torch.cat([getattr(batch.tokens, name) for batch in batches]) for name in ("prefix", "patches"))
    targets = [batch.target for batch in batches]
    if not isinstance(first.target, Tensor) and not hasattr(first.target, "joined"):
        raise GradprobeError(f"targets of type {type(first.target).__name__} cannot be joined; give it a method joined")
    known = [batch.relevant for batch in batches if batch.relevant is not None]
    return Batch(
        tuple(i for batch in batches for i in batch.ids),
        Tokens(*tokens),
        torch.cat(targets) if isinstance(first.target, Tensor) else first.target.joined(targets[1:]),
        torch.cat(known) if len(known) == len(batches) else None,
        tuple(kind for batch in batches for kind in batch.kinds) if all(batch.kinds for batch in batches) else (),
    )


@dataclass(frozen=True)
class RaggedBatch:
    """Training images with different numbers of tokens, one batch for each number."""

    parts: tuple[Batch, ...]

    @property
    def ids(self) -> tuple[int, ...]:
        """Ids of all images."""
        return tuple(i for part in self.parts for i in part.ids)


class Task(Protocol):
    """A frozen model, a scorer and data; all that a probe sees of them."""

    @property
    def scorer(self) -> nn.Module:
        """Patches ``(B, N, D)`` -> scores ``(B, N)``: whose gradients a probe looks at."""
        ...

    @property
    def denoiser(self) -> nn.Module | None:
        """Throttled tokens ``(B, M, D)`` -> tokens: trained with the scorer and left out at deployment; None: none."""
        ...

    @property
    def n_tokens(self) -> int:
        """N."""
        ...

    @property
    def question(self) -> dict[str, Any]:
        """Description of the task in JSON types: the part of a stored answer's key that a task decides."""
        ...

    @property
    def generator(self) -> str:
        """Generator of its noise, one of `gradprobe.noise.GENERATORS`; part of the question unless it is ``host``."""
        ...

    @property
    def skipped(self) -> tuple[str, ...]:
        """Inputs that could not be read so far and were passed over."""
        ...

    def running(self) -> AbstractContextManager[None]:
        """Put the frozen model in evaluation mode meanwhile; mode and flags come back, also after an exception."""
        ...

    def batches(self, count: int, size: int, seed: int) -> Iterator[Batch]:
        """Yield the first ``count`` batches of ``size`` images in the seed's order."""
        ...

    def training_batches(self, size: int, seed: int, start: int = 0) -> Iterator[Batch | RaggedBatch]:
        """Yield training batches without end; from ``start`` on the same as when run from 0."""
        ...

    def losses(self, selection: Selection, batch: Batch) -> Tensor:
        """Return the per-image loss ``(B,)`` of the frozen model on the selected tokens."""
        ...

    def ranks(self, selection: Selection, batch: Batch) -> Tensor:
        """Return the number of answers above the right one, ``(B,)``: 0 is top-1, below 5 is top-5."""
        ...

    def judged(self, selection: Selection, batch: Batch) -> tuple[Tensor, Tensor]:
        """`losses` and `ranks` from one pass of the frozen model."""
        ...

    @property
    def layers(self) -> int | None:
        """Number of layers of the language model that reads the tokens; None without one."""
        ...

    def view(self, batch: Batch, noise: Noise) -> View:
        """Return the images as selectors see them, on a stream of noise."""
        ...

    def reading(self, drops: Sequence[Drop], positions: Positions, seed: int) -> "Task":
        """Return the task whose language model reads fewer tokens from some layers on.

        Args:
            drops: ascending layers, each with a selector and the number of tokens that it leaves.
            positions: position ids of the tokens that are kept: ``keep``, the original ones, or ``compact``.
            seed: of the selectors' noise.

        Raises:
            UsageError: there is no language model, or it cannot.
        """
        ...

    def picture(self, seed: int) -> tuple[tuple[np.ndarray, Grid], ...]:
        """Return the pictures that the tokens of a seed's first probe image cover; () where they cover none.

        Returns:
            Pixels as people see them, ``(H, W, 3)`` in [0, 1], with rows and columns of tokens, in the tokens' order.
        """
        ...

    def available(self, count: int) -> int:
        """Return ``count``, or the number of probe images if there are fewer."""
        ...

    def with_new_scorer(self, seed: int, scorer: str | None = None, denoiser: str | None = None) -> "Task":
        """Return the task with a freshly initialised scorer and denoiser; the frozen model is shared.

        Args:
            seed: of both, and of random weights.
            scorer: name and fields; None: those that the task has.
            denoiser: likewise; ``none`` for none.
        """
        ...


def apply(operator: SelectionOperator, patches: Tensor, scores: Tensor, k: int, noise: Noise, name: str) -> Selection:
    """Call an operator and check what every caller relies on.

    Raises:
        GradprobeError: The operator raised, changed its inputs, or returned something of the wrong shape.
    """
    before = patches._version, scores._version
    try:
        selection = operator(patches, scores, k, noise=noise)
    except (GradprobeError, torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # anyone's code
        raise GradprobeError(f"operator {name} raised {type(error).__name__}: {error}; --debug shows where") from error
    if (patches._version, scores._version) != before:
        raise GradprobeError(f"operator {name} changed its inputs in place; work on a copy (x.clone()) inside it")
    if not isinstance(selection, Selection):
        raise GradprobeError(f"operator {name} returned {type(selection).__name__}; return a gradprobe.Selection")
    b, n, d = patches.shape
    m = selection.tokens.shape[1] if selection.tokens.ndim == 3 else n
    wanted = {"tokens": (b, m, d), "weights": (b, n), "index": (b, m), "key_bias": (b, m), "self_bias": (b, m)}
    wanted |= {"log_prob": (b,), "penalty": (b,)}
    for field, shape in wanted.items():
        value = getattr(selection, field)
        if value is not None and tuple(value.shape) != shape:
            raise GradprobeError(f"operator {name} returned {field} of shape {tuple(value.shape)}; it must be {shape}")
    if selection.index is None and m != n:
        raise GradprobeError(
            f"operator {name} sent {m} of {n} tokens on without their index; give Selection(index=...)"
        )
    return selection


def top_k(values: Tensor, k: int) -> Tensor:
    """Return the indices of the K largest values of each row, in ascending order; of equal values the first win.

    Args:
        values: Scores or weights, ``(B, N)``.
        k: Number of indices, 1..N.

    Returns:
        Indices ``(B, K)``, without a graph.

    Raises:
        GradprobeError: Some values are NaN.

    Example:
        >>> top_k(torch.tensor([[3.0, 1.0, 3.0, 2.0]]), 2).tolist()
        [[0, 2]]
    """
    ranked = refuse_nan(values.detach()).argsort(dim=-1, descending=True, stable=True)
    return ranked[..., :k].sort(dim=-1).values


def hard_topk(patches: Tensor, scores: Tensor, k: int) -> Selection:
    """Select the K patches with the highest scores, in their original order, as a deployed pruner does.

    Args:
        patches: Patches, ``(B, N, D)``.
        scores: Scores, ``(B, N)``; of equal scores the first win.
        k: Number of tokens kept, 1..N.

    Example:
        >>> hard_topk(torch.tensor([[[5.0], [6.0], [7.0]]]), torch.tensor([[0.1, 0.3, 0.2]]), 2).tokens.tolist()
        [[[6.0], [7.0]]]

    Source: DiffPrune, Eq. 3.
    """
    index = top_k(scores, k)
    tokens = patches.gather(1, index[..., None].expand(-1, -1, patches.shape[-1]))
    return Selection(tokens, torch.zeros_like(scores).scatter(-1, index, 1.0), index=index)


def top_k_mask(values: Tensor, k: int) -> Tensor:
    """Return one at each of the K largest values of a row and zero elsewhere, in the dtype of ``values``."""
    return torch.zeros_like(values).scatter(-1, top_k(values, k), 1.0)
