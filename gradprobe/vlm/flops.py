"""What a pruned VLM costs up to its first token: FLOPs and parameters of each part, from the configuration alone.

A multiply-add counts 2. A linear layer or convolution of w weights on T tokens takes ``2 w T``; an attention layer of
H heads of width d takes ``4 H d`` for each pair of a query and a key. Norms, activations, softmax and embeddings are
not counted, as in torch's FlopCounterMode, to which these forms are equal.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from gradprobe.errors import UsageError
from gradprobe.operators.registry import part
from gradprobe.probes.cost.measure import counted
from gradprobe.ranges import check_numbers
from gradprobe.vlm.dimensions import TABLE_4, Layout, config_of, layout_of, skeleton, told_of
from gradprobe.vlm.families import family_of
from gradprobe.vlm.timing import Timing, timed

SCORER = "transformer:depth=2,width=1024,heads=16"  # DiffPrune, appendix A
DENOISER = "token"
TEXT = 97  # the text tokens with which linear layers alone give both FLOPs of Table 4
RATIO = 1 / 9  # K = 64 of 576, 320 of 2880


@dataclass(frozen=True)
class Flops:
    """FLOPs up to the first token with some of the visual tokens kept.

    Attributes:
        kept: visual tokens that the language model reads.
        pruned: False where all are kept and no scorer runs.
        sequence: positions that it reads: visual, newline and text tokens.
        vision: the vision tower.
        scorer: on all N tokens; 0 without pruning.
        projector: on all that the tower gives, or, pruned, on the K kept.
        linear: the language model's linear layers but for its head.
        attention: its two attention products where a query has a key (causal half).
        attention_full: on whole squares, as FlopCounterMode counts and as an eager implementation computes.
        head: ``lm_head`` on the last position.
        head_all: on all positions.
    """

    kept: int
    pruned: bool
    sequence: int
    vision: int
    scorer: int
    projector: int
    linear: int
    attention: int
    attention_full: int
    head: int
    head_all: int

    @property
    def paper(self) -> int:
        """The language model's linear layers and ``lm_head``, on all positions: what reproduces Table 4."""
        return self.linear + self.head_all

    @property
    def prefill(self) -> int:
        """The language model's part of the first token."""
        return self.linear + self.attention + self.head

    @property
    def total(self) -> int:
        """Everything up to the first token."""
        return self.vision + self.scorer + self.projector + self.prefill

    def row(self) -> dict[str, Any]:
        """Plain numbers, ready for JSON."""
        return asdict(self) | {
            "paper": self.paper, "prefill": self.prefill, "total": self.total, "scorer_share": self.scorer / self.total,
        }  # fmt: skip


@dataclass(frozen=True)
class VLMCost:
    """FLOPs and parameters of a VLM and its pruner, and milliseconds where they were measured.

    Attributes:
        model: as it was asked for.
        family: ``llava``, ``llava_next`` or ``qwen2_5_vl``.
        layout: what the image becomes.
        text_tokens: positions beside those of the image.
        scorer: its name.
        denoiser: its name.
        parameters: of each part; ``language model`` with its embeddings and head.
        flops: unpruned first, then for each number kept.
        timing: None where nothing was measured.
    """

    model: str
    family: str
    layout: Layout
    text_tokens: int
    scorer: str
    denoiser: str
    parameters: dict[str, int]
    flops: tuple[Flops, ...]
    timing: Timing | None = None

    def rows(self) -> list[dict[str, Any]]:
        """A row for each number kept, with the paper's numbers where Table 4 has some, ready for JSON."""
        rows = [each.row() for each in self.flops]
        for row in rows:
            kept = row["kept"] if row["pruned"] else 0
            row["paper_table_4"] = TABLE_4.get((self.model, kept))
            row["measured"] = None if self.timing is None else self.timing.row(kept)
        return rows


def cost(
    model: str,
    *,
    k: Sequence[int] = (),
    ratio: Sequence[float] = (),
    text_tokens: int = TEXT,
    image_size: tuple[int, int] | None = None,
    scorer: str = SCORER,
    denoiser: str = DENOISER,
    measure: bool = False,
    device: str = "cpu",
    passes: int = 30,
) -> VLMCost:
    """FLOPs and parameters of each part of a VLM, unpruned and with K visual tokens; with a device, milliseconds.

    Args:
        model: a hub id of the paper's models, ``scenes-vlm``, or a folder with ``config.json``.
        k: numbers of tokens kept.
        ratio: shares of N kept; without either, 1/9, the paper's strongest pruning.
        text_tokens: of the prompt, special tokens included.
        image_size: (height, width); where the number of tokens depends on it.
        scorer: its name, as for training.
        denoiser: its name; only its parameters count, as it is not deployed.
        measure: also time each part, with random weights of the model's shape.
        device: to measure on; FP16 on a GPU, float32 on a CPU.
        passes: timed, after warm-up.

    Raises:
        UsageError: what cannot be asked: an unknown model, K above N, a model too large for a CPU.

    Source: DiffPrune, section 5.3 and Table 4.

    Example:
        >>> found = cost("llava-hf/llava-1.5-7b-hf", k=[64])
        >>> [f"{each.paper / 1e12:.2f} T" for each in found.flops]
        ['8.89 T', '2.13 T']
    """
    check_numbers({"text_tokens": text_tokens, "passes": passes})
    config = config_of(model)
    with told_of(model):
        layout = layout_of(config, image_size)
        kept = _budgets(k, ratio, layout.tokens)
        frozen = skeleton(config)
        family = family_of(config.model_type, model)
        tower, projector, dim = family.tower(frozen), family.projector(frozen), family.dim(frozen)
    with torch.device("meta"):
        network = part("scorer", scorer).make(dim, 0)
    with torch.no_grad(), counted() as counter:
        network(torch.empty(1, layout.tokens, dim, device="meta"))
    shape = _Shape(config, layout, frozen, tower, projector, counter.get_total_flops())
    parameters = {"vision tower": _size(tower) - shape.inside * _size(projector), "projector": _size(projector)}
    parameters["language model"] = _size(frozen) - sum(parameters.values())
    parameters["scorer"] = _size(network)
    with torch.device("meta"):
        network = part("denoiser", denoiser).make(dim, 0)
    parameters["denoiser"] = 0 if network is None else _size(network)
    flops = [_flops(shape, n, text_tokens) for n in (None, *kept)]
    timing = None
    if measure:
        timing = timed(
            config, layout, kept, scorer, text_tokens, parameters=_size(frozen), device=device, passes=passes
        )
    return VLMCost(model, config.model_type, layout, text_tokens, scorer, denoiser, parameters, tuple(flops), timing)


def ffn_for(total: int, width: int = 1024, blocks: int = 3) -> int:
    """The FFN width with which blocks of a width have so many weights: ``total = blocks (4 d^2 + 2 d f)``.

    Example:
        >>> ffn_for(84_000_000)  # what the paper's "approximately 84M" would need; 4096 is usual
        11624
    """
    return round((total / blocks - 4 * width**2) / (2 * width))


def _budgets(k: Sequence[int], ratio: Sequence[float], tokens: int) -> list[int]:
    if wrong := [r for r in ratio if not 0 < r <= 1]:
        raise UsageError(f"--ratio {wrong[0]:g} is not possible; give a share in (0, 1], e.g. --ratio 0.111")
    shares = ratio or (() if k else (RATIO,))
    kept = sorted({*k, *(max(1, round(share * tokens)) for share in shares)}, reverse=True)
    if wrong := [n for n in kept if not 1 <= n <= tokens]:
        raise UsageError(f"--k {wrong[0]} is not possible with {tokens} visual tokens; give --k 1 to --k {tokens}")
    return kept


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _weights(module: nn.Module, *kinds: type[nn.Module]) -> int:
    """Weights of the layers of some kinds, without biases."""
    layers: list[Any] = [each for each in module.modules() if isinstance(each, kinds)]
    return sum(layer.weight.numel() for layer in layers)


@dataclass(frozen=True)
class _Shape:
    """What decides FLOPs: a configuration, its model without weights, and what an image becomes in it."""

    config: Any
    layout: Layout
    model: Any
    tower: nn.Module
    projector: nn.Module
    scorer: int

    @property
    def inside(self) -> bool:
        """The projector is a part of the tower (Qwen's merger)."""
        return any(module is self.projector for module in self.tower.modules())


def _flops(shape: _Shape, kept: int | None, text: int) -> Flops:
    """FLOPs with ``kept`` visual tokens; None: all, without a scorer."""
    config, layout, inside, head = shape.config, shape.layout, shape.inside, 2 * shape.model.lm_head.weight.numel()
    projector, language = _weights(shape.projector, nn.Linear), shape.model.model.language_model
    patches, positions = layout.tiles * layout.patches, layout.tiles * (layout.patches + layout.class_tokens)
    vision = 2 * patches * _weights(shape.tower, nn.Conv2d, nn.Conv3d)
    vision += 2 * positions * (_weights(shape.tower, nn.Linear) - inside * projector)
    vision += 4 * layout.tiles * config.vision_config.hidden_size * _vision_pairs(config.vision_config, layout)
    n = layout.tokens if kept is None else kept
    all_tokens = layout.tokens if inside else patches  # the padding of tiles is projected too, then cut away
    length = n + layout.newlines + text
    read = config.text_config
    head_dim = getattr(read, "head_dim", None) or read.hidden_size // read.num_attention_heads
    pair = 4 * read.num_hidden_layers * read.num_attention_heads * head_dim
    return Flops(
        kept=n, pruned=kept is not None, sequence=length, vision=vision, scorer=0 if kept is None else shape.scorer,
        projector=2 * projector * (all_tokens if kept is None else kept),
        linear=2 * length * _weights(language, nn.Linear), attention=pair * (length * (length + 1) // 2),
        attention_full=pair * length**2, head=head, head_all=head * length,
    )  # fmt: skip


def _vision_pairs(vision: Any, layout: Layout) -> int:
    """Pairs of a query and a key, over the layers of a vision tower, in one tile."""
    everything = (layout.patches + layout.class_tokens) ** 2
    layers = getattr(vision, "depth", None) or vision.num_hidden_layers  # Qwen's configurations call it depth
    if not layout.windows:
        return layers * everything
    whole = len([layer for layer in vision.fullatt_block_indexes if layer < layers])
    return whole * everything + (layers - whole) * sum(window**2 for window in layout.windows)
