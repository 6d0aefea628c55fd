"""The vocabulary: tokens, selections, keyed noise, operators and tasks.

Shapes use B images in a batch, N tokens an image, D channels a token, K tokens kept, M tokens sent on.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from gradprobe.errors import GradprobeError, UsageError, in_words
from gradprobe.nans import refuse_nan
from gradprobe.operator_info import About, joined


@dataclass(frozen=True)
class Tokens:
    """What the frozen model produced up to the insertion point.

    Attributes:
        prefix: class and register tokens, ``(B, P0, D)``; P0 may be 0.
        patches: the tokens that can be pruned, ``(B, N, D)``.
    """

    prefix: Tensor
    patches: Tensor


@dataclass(frozen=True)
class Selection:
    """What the frozen model reads next.

    Attributes:
        tokens: ``(B, M, D)``.
        weights: retention weights of all tokens, ``(B, N)`` in [0, 1].
        index: which original each token is, ``(B, M)``; None: all N, in order.
        key_bias: added to the attention logits of each token as a key, ``(B, M)``; None: nothing is added.
        log_prob: log-probability of a sampled subset, ``(B,)``; None unless the relaxation is a score-function one.
        self_bias: stands for ``key_bias`` where a token looks at itself, ``(B, M)``; None: nothing special there.
        penalty: what the operator adds to the loss of each image in training, such as a budget loss, ``(B,)``; None:
            nothing.
    """

    tokens: Tensor
    weights: Tensor
    index: Tensor | None = None
    key_bias: Tensor | None = None
    log_prob: Tensor | None = None
    self_bias: Tensor | None = None
    penalty: Tensor | None = None


@dataclass(frozen=True)
class Noise:
    """Random numbers keyed by (seed, image id, draw): the same for an image in any batch, order, worker or device.

    ``noise.draw(r)`` is the r-th independent copy, ``noise.stream(i)`` an independent source for the i-th consumer of
    the same draw (a relaxation and a throttle never share numbers). Numbers are made on the CPU from a hash of the key,
    so a GPU run sees the very same ones.

    Attributes:
        seed: a non-negative integer.
        ids: one non-negative integer an image (B of them).

    Example:
        >>> one = Noise(0, (7, 8, 9)).normal((4,))
        >>> other = Noise(0, (9, 7)).normal((4,))
        >>> bool((one[2] == other[0]).all() and (one[0] == other[1]).all())
        True
    """

    seed: int
    ids: Sequence[int]
    index: int = 0
    source: int = 0

    def draw(self, r: int) -> "Noise":
        """The r-th independent copy of this noise."""
        return replace(self, index=r)

    def stream(self, source: int) -> "Noise":
        """An independent source of numbers within the same draw."""
        return replace(self, source=source)

    def normal(self, shape: Sequence[int], like: Tensor | None = None) -> Tensor:
        """Standard Gaussian numbers, ``(B, *shape)``, with the dtype and device of ``like``."""
        return self._fill(shape, like, lambda rng, n: rng.standard_normal(n, dtype=np.float32))

    def uniform(self, shape: Sequence[int], like: Tensor | None = None) -> Tensor:
        """Uniform numbers in (0, 1), both ends excluded, ``(B, *shape)``."""
        return self._fill(shape, like, lambda rng, n: (rng.integers(0, 1 << 23, n) + 0.5) / (1 << 23))

    def gumbel(self, shape: Sequence[int], like: Tensor | None = None) -> Tensor:
        """Standard Gumbel numbers ``-log(-log u)``, ``(B, *shape)``."""
        return self._fill(shape, like, lambda rng, n: rng.gumbel(size=n))

    def gamma(self, concentration: float, shape: Sequence[int], like: Tensor | None = None) -> Tensor:
        """Gamma numbers of this concentration and scale 1, ``(B, *shape)``."""
        return self._fill(shape, like, lambda rng, n: rng.standard_gamma(concentration, n))

    def _fill(self, shape, like, sample) -> Tensor:
        size = int(np.prod(shape))
        rows = [
            sample(np.random.Generator(np.random.SFC64([self.seed, int(i), self.index, self.source])), size)
            for i in self.ids
        ]
        values = torch.from_numpy(np.stack(rows)).reshape(len(rows), *shape)
        return values.to(dtype=torch.float32) if like is None else values.to(dtype=like.dtype, device=like.device)


@runtime_checkable
class Relaxation(Protocol):
    """How a score becomes a retention weight, and what gradient comes back.

    It may say more of itself: ``about`` (an `About`); ``log_prob(scores, k, noise) -> (B,)`` of the subset that the
    same noise gave; ``penalty(scores, weights, k) -> (B,)``, what it adds to the loss in training.
    """

    def __call__(self, scores: Tensor, k: int, noise: Noise) -> Tensor:
        """Scores ``(B, N)`` -> weights ``(B, N)`` in [0, 1]."""
        ...


@runtime_checkable
class Throttle(Protocol):
    """How a retention weight acts on a token."""

    def __call__(self, patches: Tensor, weights: Tensor, k: int, noise: Noise) -> Selection:
        """Patches ``(B, N, D)`` and weights ``(B, N)`` -> what the frozen model reads."""
        ...


@runtime_checkable
class SelectionOperator(Protocol):
    """Anything with the call of an operator is one."""

    def __call__(self, patches: Tensor, scores: Tensor, k: int, noise: Noise) -> Selection:
        """Patches ``(B, N, D)`` and scores ``(B, N)`` -> what the frozen model reads."""
        ...


@dataclass(frozen=True)
class Operator:
    """A relaxation and a throttle: ``throttle(patches, relaxation(scores, k), k)``.

    The two draw from separate streams of the same noise.

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
        """Patches ``(B, N, D)`` and scores ``(B, N)`` -> what the frozen model reads."""
        relaxation: Any = self.relaxation
        weights = relaxation(scores, k, noise.stream(0))
        selection = self.throttle(patches, weights, k, noise.stream(1))
        if hasattr(relaxation, "log_prob"):
            selection = replace(selection, log_prob=relaxation.log_prob(scores, k, noise.stream(0)))
        if hasattr(relaxation, "penalty"):
            selection = replace(selection, penalty=relaxation.penalty(scores, weights, k))
        return selection

    @property
    def about(self) -> About | None:
        """What it promises, from its parts; None if one of them says nothing."""
        return joined(self.relaxation, self.throttle)


AnyOperator = SelectionOperator | str | type  # an operator as a caller gives it: itself, its name, or its class


@dataclass(frozen=True)
class Batch:
    """Images as a task hands them to a probe.

    Attributes:
        ids: one integer an image, stable across batches, runs and machines: the key of its noise.
        tokens: what the frozen model made of them up to the insertion point.
        target: what the task's loss compares with (labels, unpruned log-probabilities, or the text that a language
            model reads): a tensor, or anything whose rows are taken by indexing.
        relevant: the tokens that are known to matter, ``(B, N)`` bool; None where nobody knows.
        kinds: which kind of question is asked about each image, a small integer; empty where there is one kind.
    """

    ids: tuple[int, ...]
    tokens: Tokens
    target: Any
    relevant: Tensor | None = None
    kinds: tuple[int, ...] = ()

    def rows(self, which: "slice | Tensor") -> "Batch":
        """Some of its images."""
        if isinstance(which, Tensor):
            if len(which) == len(self.ids) and torch.equal(which, torch.arange(len(which))):
                return self
            ids, kinds = (tuple(x[i] for i in which.tolist()) if x else () for x in (self.ids, self.kinds))
            which = which.to(self.tokens.patches.device)
        else:
            ids, kinds = self.ids[which], self.kinds[which]
        tokens = Tokens(self.tokens.prefix[which], self.tokens.patches[which])
        known = None if self.relevant is None else self.relevant[which]
        return Batch(ids, tokens, self.target[which], known, kinds)


@dataclass(frozen=True)
class Mixed:
    """Training images of several sizes: those with the same number of tokens make a batch."""

    parts: tuple[Batch, ...]

    @property
    def ids(self) -> tuple[int, ...]:
        """Of all its images."""
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
        """What the task is, in JSON types: the part of a stored answer's key that a task decides."""
        ...

    @property
    def skipped(self) -> tuple[str, ...]:
        """Inputs that could not be read so far and were passed over."""
        ...

    def running(self) -> AbstractContextManager[None]:
        """The frozen model in evaluation mode; mode and flags are as found afterwards, also after an exception."""
        ...

    def batches(self, count: int, size: int, seed: int) -> Iterator[Batch]:
        """The first ``count`` batches of ``size`` images in the order that ``seed`` gives, each made when asked for."""
        ...

    def training_batches(self, size: int, seed: int, start: int = 0) -> Iterator[Batch | Mixed]:
        """An endless stream of training batches; the same from ``start`` on as when run from 0."""
        ...

    def losses(self, selection: Selection, batch: Batch) -> Tensor:
        """The loss of each image, ``(B,)``, when the frozen model goes on with the selection."""
        ...

    def ranks(self, selection: Selection, batch: Batch) -> Tensor:
        """How many answers the frozen model then puts above the right one, ``(B,)``: 0 is top-1, below 5 is top-5."""
        ...

    def judged(self, selection: Selection, batch: Batch) -> tuple[Tensor, Tensor]:
        """`losses` and `ranks` from one pass of the frozen model."""
        ...

    def attention(self, batch: Batch) -> Tensor | None:
        """How much the unpruned model's own class token looks at each patch, ``(B, N)``; None if it has none."""
        ...


def check_k(k: int, n: int) -> None:
    """Refuse a budget outside 1..N.

    Raises:
        UsageError: K is not a whole number between 1 and N.
    """
    if not isinstance(k, int):
        raise UsageError(f"k={in_words(k)} is not possible; give a whole number, 1 to {n}, or a share with keep=0.3")
    if not 1 <= k <= n:
        raise UsageError(
            f"k={k} asks for {k} of {n} tokens; possible: --k 1 to --k {n}, or --keep with a share in (0, 1]"
        )


def apply(operator: SelectionOperator, patches: Tensor, scores: Tensor, k: int, noise: Noise, name: str) -> Selection:
    """Call an operator and check what every caller relies on.

    Raises:
        GradprobeError: it raised, changed its inputs, or what it returned does not have the promised shapes.
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
    """Indices of the K largest values of each row, in their original order; among equals the first come first.

    Args:
        values: ``(B, N)``.
        k: how many, 1..N.

    Returns:
        ``(B, K)`` indices, ascending; no graph.

    Raises:
        GradprobeError: some values are NaN.

    Example:
        >>> top_k(torch.tensor([[3.0, 1.0, 3.0, 2.0]]), 2).tolist()
        [[0, 2]]
    """
    ranked = refuse_nan(values.detach()).argsort(dim=-1, descending=True, stable=True)
    return ranked[..., :k].sort(dim=-1).values


def deployed(patches: Tensor, scores: Tensor, k: int) -> Selection:
    """What is deployed: the K patches of the highest scores, in their original order, and nothing else.

    Args:
        patches: ``(B, N, D)``.
        scores: ``(B, N)``; among equals the first come first.
        k: tokens kept, 1..N.

    Example:
        >>> deployed(torch.tensor([[[5.0], [6.0], [7.0]]]), torch.tensor([[0.1, 0.3, 0.2]]), 2).tokens.tolist()
        [[[6.0], [7.0]]]

    Source: DiffPrune, Eq. 3.
    """
    index = top_k(scores, k)
    kept = patches.gather(1, index[..., None].expand(-1, -1, patches.shape[-1]))
    return Selection(kept, torch.zeros_like(scores).scatter(-1, index, 1.0), index=index)


def top_k_mask(values: Tensor, k: int) -> Tensor:
    """One at each of the K largest values of a row, zero elsewhere, ``(B, N)`` in the dtype of ``values``."""
    return torch.zeros_like(values).scatter(-1, top_k(values, k), 1.0)
