"""Relaxed schedule: all positions are read, and visual tokens that would be dropped at a layer fade from there on.

Shapes: B rows, S positions, N visual tokens, L layers.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gradprobe.core import Batch, Noise, Stream
from gradprobe.errors import UsageError
from gradprobe.operators.registry import label
from gradprobe.operators.softtopk import soft_topk
from gradprobe.selectors.asking import scores_of
from gradprobe.view import Selector, Unavailable, View
from gradprobe.vlm.inside_checks import check_model, layers_of
from gradprobe.vlm.inside_hooks import STREAM
from gradprobe.vlm.inside_places import Prompt
from gradprobe.vlm.inside_states import InsideStates, LayerInput
from gradprobe.vlm.model import VLM
from gradprobe.vlm.prompts import Sequence
from gradprobe.vlm.sequence import assemble
from gradprobe.vlm.task import Captioning
from gradprobe.vlm.text import IGNORED

TINY = 1e-30  # the weight of a token that is gone: its logarithm is finite, and no attention sees it
LOWEST = math.log(TINY)
GONE = 1e-3  # a token of less weight is behind all others at the layers that follow


@dataclass(frozen=True, eq=False)
class Relaxation:
    """Schedule of counts that a gradient moves.

    The token of rank i (from 0, by the selector's score among those left at layer l) has the weight

        ``w_l,i = w_{l-1,i} a(K_l)_i / a(K_{l-1})_i``,  ``a(K) = soft_topk(-rank, K, tau)``,

    a product down the layers in which a layer that drops nothing changes nothing, and its logarithm is added to the
    attention logits of the token as a key. Scores are detached, so that only their order counts: the temperature is a
    number of tokens, the same for every selector. For tau -> 0 and whole counts the tokens of rank K or more are gone.

    Attributes:
        selector: It has ``scores`` inside a language model, or ``relevance``, of one that also merges tokens: merging
            is left out.
        counts: K of each layer, ``(L,)``, or of each row, ``(B, L)``; the first is N.
        tau: Temperature, in tokens: one, or one for each count.
    """

    selector: Selector
    counts: Tensor
    tau: float | Tensor


def whole(counts: Tensor) -> Tensor:
    """Round counts to whole ones of at least 1; their gradient passes as it is.

    Without it a tenth of a token would act as one of weight 0.1, which attention still sees.
    """
    return counts + (counts.round().clamp(min=1) - counts).detach()


def relaxed_losses(task: Captioning, batch: Batch, relaxed: Relaxation, seed: int = 0) -> Tensor:
    """Return the caption loss of each image at a relaxed schedule, ``(B,)``; gradients reach the counts.

    Args:
        task: Frozen model and data.
        batch: Images with the same number of tokens.
        relaxed: The schedule.
        seed: Of a random selector.

    Raises:
        UsageError: The selector has no scores, or cannot be asked inside this language model.
    """
    text = batch.target.caption
    sequence = assemble(task.vlm, text.prompt, list(batch.tokens.patches.to(next(task.vlm.model.parameters()).dtype)))
    labels = text.labels.gather(1, sequence.origin.clamp(min=0)).masked_fill(sequence.origin < 0, IGNORED)
    last = (labels != IGNORED).long().argmax(1) - 1
    noise = Noise(seed, batch.ids, generator=task.generator).stream(Stream.RANKING)
    logits = relaxed_logits(task.vlm, sequence, last, relaxed, noise)[:, :-1]
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    each = F.cross_entropy(logits.transpose(1, 2), labels[:, 1:], ignore_index=IGNORED, reduction="none")
    return each.sum(1) / (labels[:, 1:] != IGNORED).sum(1)


def relaxed_logits(vlm: VLM, sequence: Sequence, last: Tensor, relaxed: Relaxation, noise: Noise) -> Tensor:
    """Return next-token logits at all positions ``(B, S, V)`` at a relaxed schedule.

    Args:
        vlm: The model.
        sequence: Prompts with all their visual tokens, answers included.
        last: Place of each prompt's last token, ``(B,)``.
        relaxed: The schedule.
        noise: Random numbers of the selector, keyed by row.

    Raises:
        UsageError: The selector has no scores, or cannot be asked inside this language model.
    """
    check_scored(relaxed.selector)
    attended = sequence.attention_mask > 0
    check_model(vlm, attended, "keep")
    prompt = Prompt.of(sequence.slot, attended, last, int((sequence.slot[0] >= 0).sum()))
    hooks = _Fading(prompt, relaxed, noise)
    handles = [
        layer.register_forward_pre_hook(hooks.hook(number, layer), with_kwargs=True)
        for number, layer in enumerate(layers_of(vlm))
    ]
    try:
        return vlm.logits(sequence, key_bias=torch.zeros_like(attended, dtype=vlm.model.dtype))
    finally:
        for handle in handles:
            handle.remove()


def check_scored(selector: Selector) -> None:
    """Refuse a selector without scores.

    Raises:
        UsageError: It has none.
    """
    if not hasattr(selector, "scores") and not hasattr(selector, "relevance"):
        raise UsageError(
            f"{label(selector)} keeps a set of tokens and scores none, so that no number of them can be made soft; "
            "give a selector inside the language model that scores tokens: fastv, pyramiddrop or sparsevlm"
        )


class _Fading:
    """Hooks on the layers that add the logarithms of the weights to the mask, in one pass."""

    def __init__(self, prompt: Prompt, relaxed: Relaxation, noise: Noise) -> None:
        self._prompt, self._relaxed, self._noise = prompt, relaxed, noise
        self._log_weight: Any = 0.0
        self._entered: Tensor | None = None
        self._before: LayerInput | None = None
        total = prompt.places.visual.shape[1]
        counts = relaxed.counts.double()
        ranks = -torch.arange(total, dtype=torch.float64, device=counts.device)
        taus = torch.as_tensor(relaxed.tau, dtype=torch.float64, device=counts.device).expand(counts.shape)
        ranks = ranks.expand(*counts.shape[:-1], total)
        each = zip(counts.unbind(-1), taus.unbind(-1), strict=True)
        self._by_rank = [soft_topk(ranks, k, tau).clamp(min=TINY).log() for k, tau in each]  # (N,) or (B, N)

    def hook(self, number: int, layer: Any) -> Any:
        """Return the hook of a layer."""

        def before(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            hidden = args[0] if args else kwargs["hidden_states"]
            mask = kwargs["attention_mask"]
            if number == 0:
                self._entered = hidden
            else:
                order = self._order(number, _input(layer, hidden, kwargs, self._faded(mask)))
                fall = (self._by_rank[number] - self._by_rank[number - 1]).to(order.device)
                fall = fall[order] if fall.ndim == 1 else fall.gather(1, order)
                self._log_weight = (self._log_weight + fall).clamp(LOWEST, 0)
            faded = self._faded(mask)
            self._before = _input(layer, hidden, kwargs, faded)
            return args, kwargs | {"attention_mask": faded}

        return before

    def _faded(self, mask: Tensor) -> Tensor:
        """Return a float mask ``(B, 1, S, S)`` with the weights of visual keys."""
        if not isinstance(self._log_weight, Tensor):
            return mask
        visual = self._prompt.places.visual.to(mask.device)
        weight = self._log_weight.to(mask)
        bias = torch.zeros(len(visual), mask.shape[-1], dtype=mask.dtype, device=mask.device).scatter(1, visual, weight)
        return mask + bias[:, None, None]

    def _order(self, number: int, arrived: LayerInput) -> Tensor:
        """Return the rank of each visual token among those left at a layer, ``(B, N)``."""
        prompt, device = self._prompt, arrived.hidden.device
        assert self._entered is not None and self._before is not None
        places = prompt.places.to(device)
        real, behind = prompt.real.to(device), prompt.behind.to(device)
        states = InsideStates(number, arrived, self._before, self._entered, places, places, real, behind)
        view = View(self._noise.stream(self._noise.source + STREAM * (1 + number)), None, place=states)
        selector: Any = self._relaxed.selector
        try:
            if (scores := scores_of(selector, view)) is None:
                with torch.no_grad():
                    scores = selector.relevance(view)
        except Unavailable as error:
            raise UsageError(f"{label(selector)} cannot be asked inside this language model: {error}") from None
        if isinstance(self._log_weight, Tensor):
            scores = scores.masked_fill(self._log_weight.detach() < math.log(GONE), -torch.inf)
        best = scores.argsort(dim=1, descending=True, stable=True)
        ranks = torch.arange(best.shape[1], device=best.device).expand_as(best)
        return torch.empty_like(best).scatter(1, best, ranks)


def _input(layer: Any, hidden: Tensor, kwargs: dict[str, Any], mask: Tensor) -> LayerInput:
    cos, sin = kwargs["position_embeddings"]
    return LayerInput(layer, hidden.detach(), (cos, sin), mask.detach())
