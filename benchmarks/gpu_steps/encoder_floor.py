"""Floor of a probe: the seconds of the bare encoder passes that it ran, alone and in large batches."""

import copy
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from gpu_steps.noise_pictures import Call
from gpu_steps.timing import milliseconds
from gradprobe.core import Selection
from gradprobe.models.backbones import Backbone
from gradprobe.probes.cost.measure import counted

LARGE = {"cuda": 64, "cpu": 8}  # images of a batch that fills the device


@dataclass(frozen=True)
class Floor:
    """Work of the encoder in a probe.

    Attributes:
        seconds: Of its calls, in batches as the probe made them.
        large: Of the same passes in batches that fill the device.
        flops: Of all its calls.
        images: Images that it read.
    """

    seconds: float
    large: float
    flops: float
    images: int


class BarePasses:
    """Milliseconds and FLOPs of bare encoder passes; each kind is measured once.

    Args:
        backbone: The encoder.
        device: ``cuda`` or ``cpu``.
        second: Flag for passes whose backward is differentiated once more, as Hessian products do.
        repeats: Timed passes of each kind.
    """

    def __init__(self, backbone: Backbone, device: str, second: bool, repeats: int):
        self._backbone, self._device, self._second, self._repeats = backbone, device, second, repeats
        self._ms: dict[Call, float] = {}
        self._flops: dict[Call, float] = {}

    def floor(self, calls: Counter[Call]) -> Floor:
        """Return the floor of calls that a probe made."""
        alone = large = flops = 0.0
        for call, count in calls.items():
            alone += count * self._milliseconds(call)
            full = replace(call, images=LARGE[self._device])
            large += count * call.images / full.images * self._milliseconds(full)
            flops += count * call.images * self._per_image(call)
        return Floor(alone / 1000, large / 1000, flops, sum(count * call.images for call, count in calls.items()))

    def _milliseconds(self, call: Call) -> float:
        if call not in self._ms:
            self._ms[call] = milliseconds(self._pass(call), self._device, self._repeats, warm_up=2)
        return self._ms[call]

    def _per_image(self, call: Call) -> float:
        one = replace(call, images=1)
        if one not in self._flops:
            run = self._pass(one)
            with counted() as counter:
                run()
            self._flops[one] = counter.get_total_flops()
        return self._flops[one]

    def _pass(self, call: Call) -> Callable[[], Any]:
        """Return a function that runs one pass of a kind on random tokens."""
        model = self._backbone.model
        weight = next(model.parameters())
        double = call.dtype == torch.float64 and weight.dtype != torch.float64
        backbone = replace(self._backbone, model=copy.deepcopy(model).double()) if double else self._backbone
        x = torch.randn(call.images, call.tokens, backbone.dim, device=weight.device, dtype=call.dtype)
        prefix, tokens = x[:, : model.num_prefix_tokens], x[:, model.num_prefix_tokens :].clone()
        weights = x.new_ones(tokens.shape[:2])
        second = self._second and call.graph and not double

        def run(leaf: Tensor) -> Tensor:
            return Backbone.encode(backbone, prefix, Selection(leaf, weights)).square().mean(1).sum()

        def forward() -> None:
            with torch.no_grad(), self._attention():
                run(tokens)

        def backward() -> None:
            leaf = tokens.detach().requires_grad_()
            with torch.enable_grad(), self._attention():
                (slope,) = torch.autograd.grad(run(leaf), leaf, create_graph=second)
                if second:
                    torch.autograd.grad(slope.sum(), leaf)

        return backward if call.graph else forward

    def _attention(self) -> AbstractContextManager[None]:
        """Return the context of attention: fused attention has no second derivative."""
        return sdpa_kernel(SDPBackend.MATH) if self._second else nullcontext()
