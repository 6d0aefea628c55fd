"""Gradients in two stages: one backward through the frozen encoder to the scores, then products with the small scorer.

The encoder's backward gives ``u = d loss / d s``, N numbers an image. A gradient of the scorer is the vector-Jacobian
product of the scorer with u, so the expensive part runs once per image and draw whatever is asked of it afterwards.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gradprobe.core import Batch, Noise, SelectionOperator, Task
from gradprobe.errors import GradprobeError, UsageError
from gradprobe.training.surrogate_loss import surrogate_loss


@dataclass(frozen=True)
class ScoreGradient:
    """Losses ``(B,)`` of a batch and their gradients in the scores, ``u (B, N)``; None where there is no gradient."""

    losses: Tensor
    u: Tensor | None


def score_gradient(
    task: Task, operator: SelectionOperator, k: int, batch: Batch, scores: Tensor, noise: Noise, name: str
) -> ScoreGradient:
    """First stage: the loss of each image and its gradient in the scores.

    Raises:
        GradprobeError: a loss or gradient that is not finite, or an operator that breaks its contract.
    """
    leaf = scores.detach().requires_grad_()
    losses, terms = surrogate_loss(task, operator, k, batch, leaf, noise, name)
    total = terms.sum()
    refuse_nonfinite(losses, "loss", name, batch)
    if not total.requires_grad:
        return ScoreGradient(losses.detach(), None)
    (u,) = torch.autograd.grad(total, leaf, allow_unused=True)
    if u is not None:
        refuse_nonfinite(u, "gradient", name, batch)
    return ScoreGradient(losses.detach(), u)


def real_parameters(scorer: nn.Module) -> dict[str, nn.Parameter]:
    """Return the scorer's parameters that have a gradient, by name.

    Raises:
        UsageError: one is complex: a row of real numbers would hold its real part alone.
    """
    parameters = {name: p for name, p in scorer.named_parameters() if p.requires_grad}
    for name, p in parameters.items():
        if p.is_complex():
            raise UsageError(
                f"the scorer's parameter {name!r} is {p.dtype}, and gradients are compared as real vectors; keep it as "
                "torch.view_as_real(x) in the scorer, or give it requires_grad=False"
            )
    return parameters


def centred(u: Tensor) -> Tensor:
    """U without its mean per image: moving all scores of an image together does not change a ranking.

    Example:
        >>> centred(torch.tensor([[1.0, 2.0, 3.0]])).tolist()
        [[-1.0, 0.0, 1.0]]
    """
    return u - u.mean(-1, keepdim=True)


def write_scorer_gradient(out: Tensor, scores: Tensor, parameters: list[nn.Parameter], u: Tensor) -> None:
    """Second stage: the gradient of the batch's mean loss in the scorer's parameters, ``J^T u / B``, into ``out (P,)``.

    Args:
        out: where it goes, a row of preallocated memory.
        scores: the scorer's output with its graph, ``(B, N)``; the graph is kept.
        parameters: the scorer's parameters, in the order of ``out``.
        u: gradient in the scores of each image's own loss, ``(B, N)``.
    """
    grads = torch.autograd.grad(scores, parameters, u / len(u), retain_graph=True, allow_unused=True)
    start = 0
    for parameter, grad in zip(parameters, grads, strict=True):
        piece = out[start : start + parameter.numel()]
        piece.zero_() if grad is None else piece.copy_(grad.reshape(-1))
        start += parameter.numel()


def gram_by_group(rows: Tensor, sizes: list[int], chunk: int = 1 << 16) -> Tensor:
    """Inner products of rows within each parameter group, summed in float64: ``(G, rows, rows)``.

    Args:
        rows: ``(rows, P)``, groups side by side.
        sizes: how many columns each group has; they add up to P.
        chunk: columns turned to float64 at a time, so that memory does not double.
    """
    grams = torch.zeros(len(sizes), len(rows), len(rows), dtype=torch.float64)
    start = 0
    for gram, size in zip(grams, sizes, strict=True):
        for piece in rows[:, start : start + size].split(chunk, dim=1):
            wide = piece.double()
            gram += (wide @ wide.T).cpu()
        start += size
    return grams


def refuse_nonfinite(values: Tensor, what: str, name: str, batch: Batch) -> None:
    """Refuse values ``(B, ...)`` that are not finite, naming the images.

    Raises:
        GradprobeError: there are some.
    """
    bad = ~torch.isfinite(values.reshape(len(values), -1)).all(1)
    if bad.any():
        ids = ", ".join(str(i) for i, b in zip(batch.ids, bad.tolist(), strict=True) if b)
        raise GradprobeError(
            f"operator {name} gave a {what} that is not finite for {int(bad.sum())} of {len(bad)} images of a batch "
            f"(image ids {ids[:120]}); nothing was stored. Try --dtype float64 or a larger tau"
        )
