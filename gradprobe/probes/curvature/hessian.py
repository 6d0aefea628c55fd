"""A scorer's mean loss as a function of its parameters, its Hessian times a vector, and whether there is a Hessian."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from gradprobe.core import Batch, Noise, SelectionOperator, Task, Tokens
from gradprobe.deferred import deferring
from gradprobe.errors import GradprobeError
from gradprobe.landscapes.functional import copied, functional_call
from gradprobe.probes.gradients import real_parameters, refuse_nonfinite
from gradprobe.probes.rounding import in_float32, relative_error
from gradprobe.tasks import Classification
from gradprobe.training.surrogate_loss import surrogate_loss

RUNGS = 10.0 ** -np.arange(1, 6.5, 0.5)  # steps of the differences, as a share of the loss that they would change
AGREE = {torch.float64: 1e-3, torch.float32: 5e-2}  # relative error that counts as rounding and curvature


@dataclass(frozen=True, eq=False)
class Surface:
    """The mean loss as a function of the scorer's parameters, flat ``(P,)``; nothing is written to."""

    task: Task
    operator: SelectionOperator
    k: int
    name: str
    batches: tuple[Batch, ...]
    seed: int

    @property
    def theta(self) -> Tensor:
        """Return the scorer's parameters as one vector ``(P,)``."""
        return torch.cat([p.detach().reshape(-1) for _, p in self._parameters()])

    @property
    def images(self) -> int:
        """I."""
        return sum(len(batch.ids) for batch in self.batches)

    def loss(self, theta: Tensor, check: bool = False) -> float:
        """Return the mean loss; with ``check`` refuse one that is not finite."""
        total = torch.zeros((), dtype=torch.float64, device=theta.device)
        with deferring(), torch.no_grad():
            for batch in self.batches:
                terms = self._terms(theta, batch)
                if check:
                    refuse_nonfinite(terms, "loss", self.name, batch)
                total += terms.double().sum()
        return float(total) / self.images

    def gradient(self, theta: Tensor) -> Tensor:
        """Return the gradient of the operator's backward, float64 ``(P,)``; zero where none arrives."""
        return self._summed(lambda batch: self._slope(theta.clone().requires_grad_(), batch, create_graph=False))

    def product(self, v: Tensor) -> Tensor:
        """Return the Hessian at the scorer's own parameters times v, float64 ``(P,)``."""

        def of_batch(batch: Batch) -> Tensor | None:
            theta = self.theta.requires_grad_()
            slope = self._slope(theta, batch, create_graph=True)
            if slope is None or not slope.requires_grad:
                return None
            return torch.autograd.grad(slope, theta, v, allow_unused=True)[0]

        return self._summed(of_batch)

    def _slope(self, theta: Tensor, batch: Batch, create_graph: bool) -> Tensor | None:
        total = self._terms(theta, batch).sum()
        if not total.requires_grad:
            return None
        return torch.autograd.grad(total, theta, create_graph=create_graph, allow_unused=True)[0]

    def _terms(self, theta: Tensor, batch: Batch) -> Tensor:
        named = self._parameters()
        pieces = theta.split([p.numel() for _, p in named])
        point = {name: piece.view_as(p) for (name, p), piece in zip(named, pieces, strict=True)}
        patches = batch.tokens.patches
        scores = functional_call(self.task.scorer, point, (patches,))
        noise = Noise(self.seed, batch.ids, generator=self.task.generator)
        return surrogate_loss(self.task, self.operator, self.k, batch, scores, noise, self.name)[1]

    def _parameters(self) -> list[tuple[str, Tensor]]:
        return list(real_parameters(self.task.scorer).items())

    def _summed(self, of_batch: Callable[[Batch], Tensor | None]) -> Tensor:
        total = torch.zeros_like(self.theta, dtype=torch.float64)
        with deferring():
            for batch in self.batches:
                part = of_batch(batch)
                if part is not None:
                    total += part
        return total / self.images


def in_float64(surface: Surface) -> Surface:
    """Return the loss of the first batch in float64 where the task can be copied; else as it is."""
    task, first = surface.task, surface.batches[0]
    if isinstance(task, Classification):
        backbone = replace(task.backbone, model=copied(task.backbone.model).double())
        task = replace(task, backbone=backbone, scorer=copied(task.scorer).double())
        target = first.target.double() if first.target.is_floating_point() else first.target
        first = Batch(first.ids, Tokens(first.tokens.prefix.double(), first.tokens.patches.double()), target)
    return replace(surface, task=task, batches=(first,))


def examine(surface: Surface) -> tuple[str, dict[str, float | None]]:
    """Return the reason for no Hessian (empty if there is one), and the errors of the derivatives."""
    theta = surface.theta
    checks: dict[str, float | None] = {"gradient_error": None, "hessian_error": None}
    loss, g = surface.loss(theta), surface.gradient(theta)
    norm = float(g.norm())
    if not math.isfinite(norm):
        raise GradprobeError(
            f"operator {surface.name} gave a gradient that is not finite; nothing was stored. Try a larger tau"
        )
    if norm == 0:
        return "no gradient reaches the scorer", checks
    d = g / norm
    reach = min(abs(loss) / norm, float(theta.norm())) or 1.0
    agree = AGREE[theta.dtype]

    def ends(step: float) -> tuple[Tensor, Tensor, float]:
        """Two points along d, and how far apart they are along it after rounding."""
        above, below = ((theta + sign * step * reach * d).to(theta.dtype) for sign in (1, -1))
        return above, below, float((above.double() - below.double()) @ d)

    def gradient_error(step: float) -> float:
        above, below, apart = ends(step)
        return abs((surface.loss(above) - surface.loss(below)) / apart - norm) / norm

    checks["gradient_error"] = off = _first_agreement(gradient_error, agree)
    if off > agree:
        said = f"gradient and difference quotient disagree by {_share(off)}"
        return f"its backward is a surrogate (straight-through or score-function): {said}", checks
    try:
        hd = surface.product(d.to(theta))
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error):
            raise
        return f"its gradient cannot be differentiated: {str(error).splitlines()[0]}", checks
    size = float(hd.norm())
    if not math.isfinite(size):
        return f"its second derivative overflows in {str(theta.dtype).removeprefix('torch.')}", checks

    def hessian_error(step: float) -> float:
        above, below, apart = ends(step)
        quotient = (surface.gradient(above) - surface.gradient(below)) / apart
        return float((quotient - hd).norm()) / (size or norm)

    checks["hessian_error"] = off = _first_agreement(hessian_error, agree)
    if off > agree:
        said = f"it and the difference quotient disagree by {_share(off)}"
        return f"its second derivative is not that of its gradient: {said}", checks
    return "", checks


def examine_rounding(surface: Surface) -> tuple[str, float | None]:
    """Return the reason why products with the Hessian are too coarse under autocast (empty if not), and their error.

    The error is that of `H d` against float32, d along the gradient of the first batch.
    """
    exact = in_float32(surface.task)
    assert exact is not None
    rough = replace(surface, batches=surface.batches[:1])
    fine = replace(rough, task=exact)
    g = fine.gradient(fine.theta)
    d = (g / g.norm()).to(fine.theta)
    error, agree = relative_error(rough.product(d), fine.product(d)), AGREE[torch.float32]
    if error is not None and error <= agree:
        return "", error
    off = "no numbers" if error is None else f"off by {_share(error)}"
    return f"bfloat16 is too coarse for it: products with it are {off}, above {_share(agree)}; give float32", error


def _first_agreement(error: Callable[[float], float], agree: float) -> float:
    """Return the larger error of two neighbouring steps: of the first two that agree, else of the best two.

    Two, because a piecewise constant loss can agree with anything at one step; many, because the step at which
    neither curvature nor rounding matters is not known.
    """
    errors: list[float] = []
    for step in RUNGS:
        value = error(float(step))
        errors.append(value if math.isfinite(value) else math.inf)
        if max(errors[-2:]) <= agree and len(errors) > 1:
            return max(errors[-2:])
    return min(max(pair) for pair in itertools.pairwise(errors))


def _share(error: float) -> str:
    return f"{100 * error:.0f} %" if error < 10 else f"a factor of {error:.2g}"
