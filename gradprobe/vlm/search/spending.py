"""FLOPs of a language model as a polynomial of the visual tokens that each layer reads, and their share of a budget."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor

from gradprobe.errors import UsageError
from gradprobe.ranges import SHARE
from gradprobe.vlm.costs.flops import active_weights, head_dim_of
from gradprobe.vlm.model import VLM


@dataclass(frozen=True)
class Spending:
    """FLOPs of reading a prompt, each layer at its own number of visual tokens.

    A layer with ``w`` weights in its linear layers and H heads of width d takes ``2 w n + 4 H d n^2`` for n positions:
    a multiply-add counts 2, and attention whole squares, as torch's FlopCounterMode counts. The head is left out, since
    it does not depend on the schedule, and so is what a selector takes, a row or a few of attention.

    Attributes:
        weights: ``w`` of each layer.
        pair: ``4 H d``.
        tokens: N, the visual tokens of an image.
        text: Other positions: words and newlines.
    """

    weights: tuple[int, ...]
    pair: int
    tokens: int
    text: int

    @classmethod
    def of(cls, vlm: VLM, tokens: int, text: int) -> "Spending":
        """Return the polynomial of a model for prompts of a length."""
        reader: Any = vlm.model.config.get_text_config()
        layers = cast(Any, vlm.family.language(vlm.model)).layers
        pair = 4 * reader.num_attention_heads * head_dim_of(reader)
        return cls(tuple(active_weights(layer) for layer in layers), pair, tokens, text)

    @property
    def layers(self) -> int:
        """L."""
        return len(self.weights)

    def flops(self, counts: Sequence[Any] | Tensor) -> Any:
        """Return the FLOPs of all layers; of numbers or of a tensor ``(L,)``, then differentiable."""
        return sum(self._layer(w, k) for w, k in zip(self.weights, counts, strict=True))

    def share(self, counts: Sequence[Any] | Tensor) -> Any:
        """Return the FLOPs that visual tokens add, as a share of those that all N add in all layers.

        Example:
            >>> spending = Spending((3, 3), 0, 4, 1)
            >>> spending.share([4, 2]), spending.share([4, 4])
            (0.75, 1.0)
        """
        none = self.flops([0] * self.layers)
        return (self.flops(counts) - none) / (self.flops([self.tokens] * self.layers) - none)

    @property
    def least(self) -> float:
        """The smallest share that is possible: layer 0 reads all tokens, the others one."""
        return float(self.share([self.tokens, *[1] * (self.layers - 1)]))

    @property
    def token(self) -> float:
        """Share of the last of the N tokens, in all layers but the first: no whole counts come nearer than that."""
        return 1 - float(self.share([self.tokens, *[self.tokens - 1] * (self.layers - 1)]))

    def check(self, budget: float) -> None:
        """Refuse a budget that no schedule has.

        Raises:
            UsageError: It is outside (0, 1], or below the least.
        """
        check_share(budget)
        if budget < self.least:
            raise UsageError(
                f"--budget {budget:g} is not possible: layer 0 reads all {self.tokens} visual tokens and each of the "
                f"{self.layers - 1} others at least one, a share of {self.least:.4f} of the FLOPs; give at least that"
            )

    def _layer(self, weights: int, visual: Any) -> Any:
        length = visual + self.text
        return 2 * weights * length + self.pair * length * length


def check_share(budget: float) -> None:
    """Refuse a budget that is no share.

    Raises:
        UsageError: It is outside (0, 1].
    """
    if not SHARE.holds(budget):
        raise UsageError(
            f"--budget {budget} is not possible; give a share in (0, 1] of the FLOPs that visual tokens take in the "
            "language model, e.g. 0.4"
        )
