"""Plackett-Luce: a sampled subset with its log-probability, an unbiased reference."""

from dataclasses import dataclass

from torch import Tensor

from gradprobe.core import Noise, top_k_mask
from gradprobe.operator_info import About
from gradprobe.operators.widened import widened


@dataclass(frozen=True)
class PlackettLuce:
    """K tokens drawn one by one without replacement, ``p ~ e^{s}``, with the gradient of the score function.

    The sample is the top-K of ``s + g``. The weights have no gradient; instead there is the log-probability of the
    tokens in their order, ``log p = sum_{j <= K} (s_(j) - log sum_{l >= j} e^{s_(l)})``, which probes and training
    multiply by the difference of the losses of two samples (see `gradprobe.training.surrogate_loss.surrogate_loss`).

    Gradient: unbiased, for any loss, at the price of variance. Source: the score function with a leave-one-out baseline
    of two samples, Kool, van Hoof and Welling 2019, "Buy 4 REINFORCE samples, get a baseline for free!"; the draw by
    Gumbel noise, Kool, van Hoof and Welling 2019, arXiv 1903.06059.
    """

    suited = "gather"
    about = About(
        "alpha = topK(s + g), d log p",
        "unbiased",
        "REINFORCE, leave-one-out baseline of 2 samples",
        ("leave-one-out", "gumbel-topk"),
        stochastic=True,
        budget=1e-9,
    )

    def __call__(self, scores: Tensor, k: int, noise: Noise) -> Tensor:
        return top_k_mask(_perturbed(scores, noise), k).to(scores.dtype)

    def log_prob(self, scores: Tensor, k: int, noise: Noise) -> Tensor:
        """Return the log-probability ``(B,)`` of the K tokens drawn with the same noise, in their order."""
        order = _perturbed(scores, noise).argsort(dim=-1, descending=True, stable=True)
        drawn = scores.double().gather(-1, order)
        rest = drawn.flip(-1).logcumsumexp(-1).flip(-1)
        return (drawn - rest)[..., :k].sum(-1).to(scores.dtype)


def _perturbed(scores: Tensor, noise: Noise) -> Tensor:
    """Return ``s + g`` without a graph, in float32 at least: rounded to half precision, many sums would be equal."""
    wide = widened(scores.detach())
    return wide + noise.gumbel(scores.shape[1:], like=wide)
