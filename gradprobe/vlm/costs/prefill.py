"""FLOPs of reading one prompt, for a model at hand."""

from collections.abc import Sequence
from typing import Any, cast

from gradprobe.vlm.costs.flops import active_weights, mixing_flops
from gradprobe.vlm.model import VLM


def prefill_flops(vlm: VLM, lengths: Sequence[int]) -> int:
    """Count the FLOPs of the language model up to the first token: linear layers, causal attention and its head.

    Args:
        vlm: The model.
        lengths: Positions that each layer reads, text included.

    Example:
        >>> from gradprobe.vlm.model import open_vlm
        >>> vlm = open_vlm("scenes-vlm")
        >>> whole, pruned = prefill_flops(vlm, [110] * 4), prefill_flops(vlm, [110, 110, 21, 21])
        >>> round(pruned / whole, 2)
        0.59
    """
    layers = cast(Any, vlm.family.language(vlm.model)).layers
    linear = sum(2 * active_weights(layer) * n for layer, n in zip(layers, lengths, strict=True))
    attention = sum(mixing_flops(vlm.family, vlm.model.config, layer, n)[0] for layer, n in enumerate(lengths))
    return linear + attention + 2 * vlm.model.get_output_embeddings().weight.numel()
