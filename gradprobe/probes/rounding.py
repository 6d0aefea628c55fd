"""Cost of bfloat16 in accuracy: relative errors against float32 of a micro-batch's losses and gradients."""

from dataclasses import replace

from torch import Tensor

from gradprobe.core import Batch, Noise, Task
from gradprobe.probes.contract import Subject
from gradprobe.probes.gradients import score_gradient
from gradprobe.tasks import Classification


def in_float32(task: Task) -> Task | None:
    """Return the task without autocast, its weights shared; None where there is none to leave out.

    A model whose weights themselves are bfloat16 has no such twin: a float32 copy of it would need twice its memory.
    """
    if not isinstance(task, Classification) or not task.backbone.autocast:
        return None
    return replace(task, backbone=replace(task.backbone, autocast=False))


def rounding_of(subject: Subject, batch: Batch, scores: Tensor, noise: Noise) -> dict[str, float | None]:
    """Return relative errors of autocast on the same tokens, scores and noise; nothing of a task without it.

    Args:
        subject: Task, operator and tokens kept.
        batch: A micro-batch.
        scores: Its scores, ``(B, N)``.
        noise: Its noise.

    Returns:
        ``images``, their number; ``loss`` and, for an operator with a gradient, ``gradient``: ``|x - y| / |y|`` over
        the batch, x of the task and y in float32; None where y is zero.
    """
    exact = in_float32(subject.task)
    if exact is None:
        return {}
    rough, fine = (
        score_gradient(task, subject.operator, subject.k, batch, scores, noise, subject.name)
        for task in (subject.task, exact)
    )
    errors = {"images": len(batch.ids), "loss": relative_error(rough.losses, fine.losses)}
    if rough.u is not None and fine.u is not None:
        errors["gradient"] = relative_error(rough.u, fine.u)
    return errors


def relative_error(value: Tensor, exact: Tensor) -> float | None:
    """Return ``|value - exact| / |exact|``; None where that is no number.

    Example:
        >>> import torch
        >>> relative_error(torch.tensor([3.0, 5.0]), torch.tensor([3.0, 4.0])), relative_error(*2 * [torch.zeros(2)])
        (0.2, None)
    """
    wide = exact.double()
    error = float((value.double() - wide).norm() / wide.norm())
    return error if error < float("inf") else None
