"""Queries and keys of the vision tower, recorded while it makes the visual tokens."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import get_ident
from typing import Any

from torch import Tensor, nn

from gradprobe.view import Tower, TowerLayer, Unavailable
from gradprobe.vlm.families.base import Family


@dataclass(frozen=True, eq=False)
class Recorded:
    """Outputs of ``q_proj`` and ``k_proj`` of the tower's first layer, and of the layer that the tokens come from.

    Attributes:
        name: Name of the model, for errors.
        layers: The two attention modules; () where the tower has no such layers.
        outputs: By module and name, ``(pictures, P + R, width)``.
    """

    name: str
    layers: tuple[Any, ...]
    outputs: dict[tuple[int, str], Tensor] = field(default_factory=dict)

    def tower(self, patches: int, rows: Tensor) -> Tower:
        """Return the two layers.

        Args:
            patches: R, the rows of one picture that become visual tokens.
            rows: Row of each token among those of all pictures, ``(B, N)``.

        Raises:
            Unavailable: The tokens are not the patches of its pictures, one by one.
        """
        refusal = f"the attention of the vision tower of {self.name} to single visual tokens cannot be told"
        if not self.outputs:
            raise Unavailable(f"{refusal}: its layers have no separate q_proj and k_proj")
        made = []
        for number, attention in enumerate(self.layers):
            queries, keys = (self.outputs[number, name] for name in ("q", "k"))
            prefix = queries.shape[1] - patches
            if queries.ndim != 3 or prefix not in (0, 1):
                raise Unavailable(f"{refusal}: they are not its patches one by one")
            made.append(TowerLayer(queries, keys, attention.num_heads, prefix, prefix == 1, rows.to(queries.device)))
        return Tower(first=made[0], last=made[1])


@contextmanager
def recording(family: Family, model: Any, name: str) -> Iterator[Recorded]:
    """Record queries and keys of the vision tower in this thread meanwhile."""
    recorded = Recorded(name, _layers(family, model))
    here, hooks = get_ident(), []

    def record(key: tuple[int, str]) -> Any:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            if get_ident() == here:
                recorded.outputs[key] = output.detach()

        return hook

    for number, attention in enumerate(recorded.layers):
        hooks.append(attention.q_proj.register_forward_hook(record((number, "q"))))
        hooks.append(attention.k_proj.register_forward_hook(record((number, "k"))))
    try:
        yield recorded
    finally:
        for each in hooks:
            each.remove()


def _layers(family: Family, model: Any) -> tuple[Any, ...]:
    """Return the attention modules of the first layer, and of the layer that the features are taken from."""
    tower: Any = family.tower(model)
    layers = getattr(getattr(getattr(tower, "vision_model", tower), "encoder", None), "layers", None)
    which = getattr(model.config, "vision_feature_layer", None)
    which = which[-1] if isinstance(which, list | tuple) else which
    if not isinstance(layers, nn.ModuleList) or not isinstance(which, int):
        return ()
    pair = tuple(getattr(layer, "self_attn", None) for layer in (layers[0], layers[which if which < 0 else which - 1]))
    return pair if all(hasattr(each, "q_proj") and hasattr(each, "k_proj") for each in pair) else ()
