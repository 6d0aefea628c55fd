"""Gradients in two stages: one backward through the frozen encoder to the scores, then products with the small scorer.

The encoder's backward gives ``u = d loss / d s``, N numbers an image. A gradient of the scorer is the vector-Jacobian
product of the scorer with u, so the expensive part runs once per image and draw whatever is asked of it afterwards.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gradprobe.core import Batch, Noise, SelectionOperator, Task
from gradprobe.deferred import refuse
from gradprobe.devices import free_memory
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


def write_scorer_gradient(
    out: Tensor,
    scores: Tensor,
    parameters: list[nn.Parameter],
    u: Tensor,
    *,
    images: int | None = None,
    add: bool = False,
) -> None:
    """Second stage: the gradient of the batch's mean loss in the scorer's parameters, ``J^T u / B``, into ``out (P,)``.

    Args:
        out: where it goes, a row of preallocated memory.
        scores: the scorer's output with its graph, ``(B, N)``; the graph is kept.
        parameters: the scorer's parameters, in the order of ``out``.
        u: gradient in the scores of each image's own loss, ``(B, N)``.
        images: B of a batch of which this is a part; None: it is the whole batch.
        add: whether to add to what the parts before have written.
    """
    grads = torch.autograd.grad(scores, parameters, u / (images or len(u)), retain_graph=True, allow_unused=True)
    if out.device != scores.device:  # one copy for all, since it waits
        whole = [torch.zeros_like(p) if grad is None else grad for p, grad in zip(parameters, grads, strict=True)]
        flat = torch.cat([each.reshape(-1) for each in whole]).to(out.device)
        out.add_(flat) if add else out.copy_(flat)
        return
    start = 0
    for parameter, grad in zip(parameters, grads, strict=True):
        piece = out[start : start + parameter.numel()]
        if not add:
            piece.zero_() if grad is None else piece.copy_(grad.reshape(-1))
        elif grad is not None:
            piece.add_(grad.reshape(-1))
        start += parameter.numel()


def gram_by_group(rows: Tensor, sizes: list[int], chunk: int = 1 << 16) -> Tensor:
    """Inner products of rows within each parameter group, summed in float64: ``(G, rows, rows)``.

    Args:
        rows: ``(rows, P)``, groups side by side.
        sizes: how many columns each group has; they add up to P.
        chunk: columns turned to float64 at a time, so that memory does not double.
    """
    grams = torch.zeros(len(sizes), len(rows), len(rows), dtype=torch.float64, device=rows.device)
    width = max((min(size, chunk) for size in sizes), default=0)
    wide = torch.empty(len(rows) * width, dtype=torch.float64, device=rows.device)  # once: fresh memory is slow
    start = 0
    for gram, size in zip(grams, sizes, strict=True):
        for piece in rows[:, start : start + size].split(chunk, dim=1):
            copy = wide[: piece.numel()].view(piece.shape).copy_(piece)
            gram += copy @ copy.T
        start += size
    return grams.cpu()


def home_of_rows(count: int, like: Tensor) -> torch.device:
    """Return the device for ``count`` numbers: where ``like`` is if they fit in half of its free memory, else the CPU.

    Args:
        count: numbers in all rows, of the dtype of ``like``.
        like: a parameter of the scorer.
    """
    roomy = like.device.type != "cuda" or 2 * count * like.element_size() <= free_memory(like.device)
    return like.device if roomy else torch.device("cpu")


def refuse_nonfinite(values: Tensor, what: str, name: str, batch: Batch) -> None:
    """Refuse values ``(B, ...)`` that are not finite, naming the images; on a GPU see `gradprobe.deferred.refuse`.

    Raises:
        GradprobeError: there are some.
    """
    ids = batch.ids  # the error may be made later, and should not keep the batch till then

    def error(bad: Tensor) -> GradprobeError:
        wrong = ", ".join(str(i) for i, b in zip(ids, bad.tolist(), strict=True) if b)
        return GradprobeError(
            f"operator {name} gave a {what} that is not finite for {int(bad.sum())} of {len(bad)} images of a batch "
            f"(image ids {wrong[:120]}); nothing was stored. Try --dtype float64 or a larger tau"
        )

    refuse(~torch.isfinite(values.reshape(len(values), -1)).all(1), error)
