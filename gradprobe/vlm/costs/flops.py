"""FLOPs and parameters of each part of a pruned VLM up to its first token, from the configuration alone.

A multiply-add counts 2. A linear layer or convolution of w weights on T tokens takes ``2 w T``; an attention layer of
H heads of width d takes ``4 H d`` for each pair of a query and a key. Norms, activations, softmax and embeddings are
not counted, as in torch's FlopCounterMode, to which these forms are equal.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import torch
from torch import nn

from gradprobe.errors import UsageError
from gradprobe.operators.registry import part
from gradprobe.probes.cost.measure import counted
from gradprobe.ranges import check_number
from gradprobe.vlm.costs.dimensions import TABLE_4, config_of, layout_of, one_line_errors, skeleton
from gradprobe.vlm.costs.timing import Timing, TimingSettings, timed
from gradprobe.vlm.families import family_of
from gradprobe.vlm.families.base import Family, Layout

SCORER = "transformer:depth=2,width=1024,heads=16"  # DiffPrune, appendix A
DENOISER = "token"
TEXT = 97  # the text tokens with which linear layers alone give both FLOPs of Table 4
RATIO = 1 / 9  # K = 64 of 576, 320 of 2880


@dataclass(frozen=True)
class Flops:
    """FLOPs up to the first token with some of the visual tokens kept.

    Attributes:
        kept: Visual tokens that the language model reads; of a plan, those that its last layer reads.
        pruned: False where all are kept and no scorer runs.
        sequence: Positions that its first layer reads: visual, newline and text tokens.
        vision: The vision tower.
        scorer: On all N tokens; 0 without pruning. Of a plan, what its selectors take.
        projector: On the whole output of the tower or, pruned, on the K kept.
        linear: The language model's linear layers but for its head.
        attention: Its two attention products where a query has a key (causal half); of layers of linear attention,
            what their recurrence takes.
        attention_full: On whole squares, as FlopCounterMode counts and as an eager implementation computes.
        head: ``lm_head`` on the last position.
        head_all: On all positions.
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
        """The language model's linear layers and ``lm_head``, on all positions: reproduces Table 4."""
        return self.linear + self.head_all

    @property
    def prefill(self) -> int:
        """The language model's part of the first token."""
        return self.linear + self.attention + self.head

    @property
    def total(self) -> int:
        """Sum of all parts up to the first token."""
        return self.vision + self.scorer + self.projector + self.prefill

    def row(self) -> dict[str, Any]:
        """Return plain numbers, ready for JSON."""
        return asdict(self) | {
            "paper": self.paper,
            "prefill": self.prefill,
            "total": self.total,
            "scorer_share": self.scorer / self.total,
        }


@dataclass(frozen=True)
class VLMCost:
    """FLOPs and parameters of a VLM and its pruner, and milliseconds where they were measured.

    Attributes:
        model: Its name, as given.
        family: ``config.model_type``.
        layout: Of an image.
        text_tokens: Positions beside those of the image.
        scorer: Its name.
        denoiser: Its name.
        parameters: Of each part; ``language model`` with its embeddings and head.
        flops: Unpruned first, then for each number kept.
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

    def measured(self, device: str = "cpu", passes: int = 30, dtype: str | None = None) -> "VLMCost":
        """Time each part too, with random weights of the model's shape.

        Args:
            device: ``cpu``, ``cuda`` or ``cuda:1``.
            passes: Timed passes, after warm-up; at least 6.
            dtype: ``float32``, ``bfloat16`` or ``float16``; None: float16 on a GPU, float32 on a CPU.

        Raises:
            UsageError: A model too large for a CPU, too few passes, or no such device or dtype.
            GradprobeError: The memory of the device is too small.
        """
        config, kept = config_of(self.model), [each.kept for each in self.flops if each.pruned]
        parameters = sum(self.parameters[name] for name in ("vision tower", "projector", "language model"))
        timing = timed(
            config,
            self.layout,
            kept,
            self.scorer,
            self.text_tokens,
            parameters=parameters,
            settings=TimingSettings(device, passes, dtype),
        )
        return replace(self, timing=timing)

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each number kept, with the paper's numbers where Table 4 has some, ready for JSON."""
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
) -> VLMCost:
    """Count FLOPs and parameters of each part of a VLM, unpruned and with K visual tokens.

    Args:
        model: A hub id of the paper's models, an embedded model, or a folder with ``config.json``.
        k: Numbers of tokens kept.
        ratio: Shares of N kept; without either, 1/9, the paper's strongest pruning.
        text_tokens: Length of the prompt, special tokens included.
        image_size: Height and width, where the number of tokens depends on it.
        scorer: Its name, as for training.
        denoiser: Its name; only its parameters count, as it is not deployed.

    Raises:
        UsageError: An unknown model, or K above N.

    Source: DiffPrune, section 5.3 and Table 4.

    Example:
        >>> report = cost("llava-hf/llava-1.5-7b-hf", k=[64])
        >>> [f"{each.paper / 1e12:.2f} T" for each in report.flops]
        ['8.89 T', '2.13 T']
    """
    check_number("text-tokens", text_tokens)
    config = config_of(model)
    with one_line_errors(model):
        layout = layout_of(config, image_size)
        budgets = budgets_of(k, ratio or (() if k else (RATIO,)), layout.tokens)
        frozen, family = skeleton(config), family_of(config.model_type, model)
        dim = family.dim(frozen)
    with torch.device("meta"):
        networks = {kind: part(kind, name).make(dim, 0) for kind, name in (("scorer", scorer), ("denoiser", denoiser))}
    with torch.no_grad(), counted() as counter:
        networks["scorer"](torch.empty(1, layout.tokens, dim, device="meta"))
    parameters = parameters_of(family, frozen)
    parameters |= {kind: 0 if network is None else _size(network) for kind, network in networks.items()}
    scoring = counter.get_total_flops()
    flops = [flops_of(family, frozen, layout, text_tokens)]
    flops += [flops_of(family, frozen, layout, text_tokens, n, scoring) for n in budgets]
    return VLMCost(model, config.model_type, layout, text_tokens, scorer, denoiser, parameters, tuple(flops))


def budgets_of(k: Sequence[int], ratio: Sequence[float], tokens: int) -> list[int]:
    """Return numbers of tokens and shares of N as numbers of tokens, each once, the largest first.

    Raises:
        UsageError: One is not possible.
    """
    if wrong := [r for r in ratio if not 0 < r <= 1]:
        raise UsageError(f"--ratio {wrong[0]:g} is not possible; give a share in (0, 1], e.g. --ratio 0.111")
    budgets = sorted({*k, *(max(1, round(share * tokens)) for share in ratio)}, reverse=True)
    if wrong := [n for n in budgets if not 1 <= n <= tokens]:
        raise UsageError(f"--k {wrong[0]} is not possible with {tokens} visual tokens; give --k 1 to --k {tokens}")
    return budgets


def parameters_of(family: Family, model: Any) -> dict[str, int]:
    """Count the parameters of each part of a model; those of its embeddings and head are the language model's."""
    tower, parts = family.tower(model), [family.projector(model), *family.streams(model)]
    sizes = {"vision tower": _size(tower) - sum(_size(part) for part in parts if _inside(part, tower))}
    sizes["projector"] = sum(map(_size, parts))
    return sizes | {"language model": _size(model) - sum(sizes.values())}


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def weights_of(module: nn.Module, *kinds: type[nn.Module]) -> int:
    """Count the weights of the layers of some kinds, without biases."""
    layers: list[Any] = [each for each in module.modules() if isinstance(each, kinds)]
    return sum(layer.weight.numel() for layer in layers)


def active_weights(layer: nn.Module) -> int:
    """Count the weights of a decoder layer that each position passes: of a mixture of experts, those of its share."""
    total, blocks = weights_of(layer, nn.Linear), [each for each in layer.modules() if hasattr(each, "experts")]
    for block in cast(list[Any], blocks):
        router, experts = block.gate, block.experts
        stacked = sum(weight.numel() for weight in (experts.gate_up_proj, experts.down_proj))
        total += router.weight.numel() + stacked // experts.num_experts * router.top_k
    return total


def mixing_flops(family: Family, config: Any, layer: int, length: int) -> tuple[int, int]:
    """Count the FLOPs with which a decoder layer mixes positions: those that are needed, and on whole squares."""
    recurrent = family.recurrence(config, layer, length)
    if recurrent is not None:
        return recurrent, recurrent
    reader = config.get_text_config()
    pair = 4 * reader.num_attention_heads * head_dim_of(reader)
    return pair * (length * (length + 1) // 2), pair * length**2


def _inside(projector: nn.Module, tower: nn.Module) -> bool:
    """Tell whether the projector is a part of the tower (Qwen's merger)."""
    return any(module is projector for module in tower.modules())


def flops_of(
    family: Family,
    model: Any,
    layout: Layout,
    text: int,
    kept: int | None = None,
    scorer: int = 0,
    layers: Sequence[int] = (),
) -> Flops:
    """Count FLOPs of a model and a pruner.

    Args:
        family: Of the model.
        model: The model; its weights are not read.
        layout: Of the image.
        text: Text tokens.
        kept: Visual tokens kept before the projector; None: all.
        scorer: FLOPs of the scorer, or of a plan's selectors.
        layers: Visual tokens that each layer of the language model reads; (): ``kept`` in each.
    """
    tower, decoder, config = family.tower(model), cast(Any, family.language(model)).layers, model.config
    head, parts = 2 * model.get_output_embeddings().weight.numel(), [family.projector(model), *family.streams(model)]
    projector = sum(weights_of(part, nn.Linear) for part in parts)
    linear = weights_of(tower, nn.Linear) - sum(weights_of(part, nn.Linear) for part in parts if _inside(part, tower))
    vision = 2 * layout.tiles * family.convolutions(model, layout)
    vision += 2 * layout.tiles * (layout.patches + layout.class_tokens) * linear
    vision += 4 * layout.tiles * family.tower_width(config) * family.vision_pairs(config, layout)
    rows, columns = layout.grids[0]
    projected = layout.tiles * rows * columns  # padding of tiles too, which is cut away later
    reader = config.get_text_config()
    each = layers or [layout.tokens if kept is None else kept] * reader.num_hidden_layers
    lengths = [n + layout.newlines + text for n in each]
    mixing = [mixing_flops(family, config, number, length) for number, length in enumerate(lengths)]
    weights = [active_weights(layer) for layer in decoder]
    return Flops(
        kept=each[-1], pruned=bool(layers) or kept is not None, sequence=lengths[0], vision=vision, scorer=scorer,
        projector=2 * projector * (projected if kept is None else kept),
        linear=2 * sum(weight * length for weight, length in zip(weights, lengths, strict=True)),
        attention=sum(needed for needed, _ in mixing),
        attention_full=sum(whole for _, whole in mixing), head=head, head_all=head * lengths[-1],
    )  # fmt: skip


def head_dim_of(reader: Any) -> int:
    """Return the width of an attention head of a language model, given its configuration."""
    return getattr(reader, "head_dim", None) or reader.hidden_size // reader.num_attention_heads
