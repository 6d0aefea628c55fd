"""Predictor of a schedule for each image and budget: pooled visual tokens, modulated by the budget, to a kernel.

Shapes: B images, N visual tokens, D their width before the projector, L layers, n numbers of the kernel.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradprobe.errors import GradprobeError, UsageError
from gradprobe.selectors.plan import MadeFor, Plan
from gradprobe.view import Selector
from gradprobe.vlm.model import VLM
from gradprobe.vlm.search.deployed import plan_of_counts
from gradprobe.vlm.search.kernels import Kernel
from gradprobe.vlm.search.repair import repaired
from gradprobe.vlm.search.spending import Spending

Counts = tuple[int, ...]
WIDTH = 32  # of the hidden layer
BELOW = 0.999  # share of a layer that must read fewer tokens than N, where no schedule of the kernel fits
SAME = ("family", "tower", "tower_width", "text_width", "dim")  # of a model's metadata


class Network(nn.Module):
    """Hidden layer of an image, FiLM on the budget, and a linear layer to the kernel's numbers; in double precision.

    ``a = W_2 ((1 + gamma(b)) gelu(W_1 z + c_1) + beta(b)) + c_2`` with z the standardised mean and standard deviation
    of an image's normalised tokens, and gamma and beta from a small network of the budget b, scaled to [-1, 1]. W_2
    begins at 0, so that all images and budgets begin with the numbers c_2.

    Source: FiLM, arXiv 1709.07871; VisPCO's predictor is an MLP with it.

    Attributes:
        centre: Mean of ``pooled`` over images, ``(2 D,)``.
        spread: Its standard deviation.
    """

    centre: Tensor
    spread: Tensor

    def __init__(self, dim: int, numbers: int, width: int = WIDTH) -> None:
        super().__init__()
        self.image = nn.Linear(2 * dim, width)
        self.film = nn.Sequential(nn.Linear(1, width), nn.GELU(), nn.Linear(width, 2 * width))
        self.out = nn.Linear(width, numbers)
        self.register_buffer("centre", torch.zeros(2 * dim))
        self.register_buffer("spread", torch.ones(2 * dim))
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.double()

    def forward(self, tokens: Tensor, budget: Tensor) -> Tensor:
        """Return the kernel's numbers, ``(B, n)``.

        Args:
            tokens: Visual tokens before the projector, ``(B, N, D)``.
            budget: Scaled to [-1, 1], ``(B,)``.
        """
        scaled = (pooled(tokens) - self.centre) / self.spread
        scale, shift = self.film(budget[:, None]).chunk(2, -1)
        return self.out((1 + scale) * F.gelu(self.image(scaled)) + shift)


def pooled(tokens: Tensor) -> Tensor:
    """Return mean and standard deviation of an image's tokens, each normalised, ``(B, 2 D)``."""
    normalised = F.layer_norm(tokens.double(), tokens.shape[-1:])
    return torch.cat([normalised.mean(1), normalised.std(1, correction=0)], -1)


@dataclass(frozen=True, eq=False)
class Predictor:
    """Trained network and everything that makes a schedule of its numbers.

    Attributes:
        network: Tokens and a budget -> numbers of the kernel.
        selector: It chooses the tokens at each layer that drops.
        kernel: Family of schedules.
        spending: FLOPs of the language model.
        budgets: Least and greatest budget that it was trained at. Others are read as the nearer of them; repair spends
            the one that is asked for.
        metadata: Description of the model, see `VLM.metadata`.
    """

    network: Network
    selector: Selector
    kernel: Kernel
    spending: Spending
    budgets: tuple[float, float]
    metadata: Mapping[str, Any]

    def numbers(self, tokens: Tensor, budget: Tensor) -> Tensor:
        """Return the kernel's numbers, ``(B, n)``, of tokens ``(B, N, D)`` and budgets ``(B,)``."""
        least, most = self.budgets
        where = self.network.centre.device
        half = max((most - least) / 2, 1e-9)
        scaled = (budget.double().clamp(least, most) - (least + most) / 2) / half
        return self.network(tokens.to(where), scaled.to(where))

    def counts(self, tokens: Tensor, budget: float) -> list[Counts]:
        """Return the visual tokens that each layer reads of each image, within the budget.

        Of a kernel with places the nearest schedule that fits is taken. Where none does, layers that should read all
        tokens read fewer.

        Args:
            tokens: Visual tokens before the projector, ``(B, N, D)``.
            budget: Share of the FLOPs that visual tokens take.

        Raises:
            UsageError: The budget is not possible.
            GradprobeError: The numbers are not finite.
        """
        self.spending.check(budget)
        with torch.no_grad():
            numbers = self.numbers(tokens, torch.full((len(tokens),), budget, dtype=torch.float64)).cpu()
        if not bool(numbers.isfinite().all()):
            raise GradprobeError(
                "the predictor gives numbers that are not finite for these images; open the model with --dtype float32"
            )
        return [self._whole(each, budget) for each in numbers]

    def plan(self, vlm: VLM, image_features: Tensor, budget: float) -> Plan:
        """Return the plan of an image.

        Args:
            vlm: The model that it was trained for.
            image_features: Visual tokens before the projector, ``(N, D)``, one of ``vlm.vision_features(...).tokens``.
            budget: Share of the FLOPs that visual tokens take.

        Raises:
            UsageError: Another model, features of another shape, or a budget that is not possible.
        """
        self.check(vlm)
        shape = self.spending.tokens, self.metadata["dim"]
        if tuple(image_features.shape) != shape:
            raise UsageError(
                f"the predictor reads one image of {shape[0]} visual tokens of width {shape[1]}, and the features have "
                f"the shape {tuple(image_features.shape)}; give vlm.vision_features(inputs).tokens[0]"
            )
        (counts,) = self.counts(image_features[None], budget)
        made = MadeFor(vlm.name, self.spending.layers, self.spending.tokens)
        return replace(plan_of_counts(self.selector, counts), made_for=made)

    def check(self, vlm: VLM) -> None:
        """Refuse a model of another shape than the one that it was trained for.

        Raises:
            UsageError: Names what differs.
        """
        here = vlm.metadata
        own = Spending.of(vlm, self.spending.tokens, self.spending.text)
        other = [name for name in SAME if self.metadata[name] != here[name]]
        names = [f"{name} {self.metadata[name]} there, {here[name]} here" for name in other]
        if own.layers != self.spending.layers:
            names.append(f"layers {self.spending.layers} there, {own.layers} here")
        elif own != self.spending:
            names.append("weights of the layers")
        if names:
            raise UsageError(
                f"the predictor was trained for {self.metadata['model']}, and {vlm.name} is another model "
                f"({'; '.join(names)}); train one: gradprobe vlm search --predictor --model {vlm.name}"
            )

    def _whole(self, numbers: Tensor, budget: float) -> Counts:
        """Return whole counts within the budget for the numbers of an image."""
        schedules = self.kernel.schedules(numbers, self.spending.layers)
        nearest: Sequence[float] = schedules[0]
        fitting = (repaired(shares, self.spending, budget) for shares in schedules)
        counts = next((each for each in fitting if each is not None), None)
        if counts is None:
            counts = repaired([1.0, *(min(share, BELOW) for share in nearest[1:])], self.spending, budget)
        assert counts is not None  # a budget that is possible has room for one token a layer
        return counts
