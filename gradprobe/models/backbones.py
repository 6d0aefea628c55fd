"""A timm VisionTransformer split at a layer: embed images, then encode the selected tokens.

Its blocks take any number of tokens, and positions are added once, before the first block, so tokens can be dropped at
any layer. Models whose layers need the whole grid of patches are refused.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from inspect import signature
from math import prod
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import ResPostBlock, VisionTransformer
from torch import Tensor, nn

from gradprobe.core import Selection, Tokens
from gradprobe.data.images import ImageFolder, transform_for
from gradprobe.errors import UsageError, in_words
from gradprobe.models.exact import exact_convolutions
from gradprobe.models.wrappers import unwrapped
from gradprobe.ranges import plain

METHODS = ("forward", "forward_features", "pool")  # a model that overrides one cannot be split
_frozen, _lock = Counter[int](), Lock()  # models inside `frozen`, by id
OTHER_THROTTLES = "gather, zero, scale, vpnoise and mean work"


@dataclass(frozen=True)
class Backbone:
    """Frozen vision transformer split at a layer; keeping all tokens gives the model's own output bit for bit.

    The model is the user's: during each call it is in evaluation mode and its parameters require no gradient, and
    afterwards both are restored, also after an exception. Enter `frozen` to do so once for many calls.

    Attributes:
        name: Name in error messages.
        model: Transformer.
        layer: Number of blocks before the insertion point, 0..depth.
        n_tokens: Number of patches of an image, N.
        dim: Width of a token, D.
        autocast: Flag for torch's bfloat16 autocast; parameters and results keep their type.

    Example:
        >>> import timm
        >>> model = timm.create_model("deit_tiny_patch16_224", img_size=32, depth=2)
        >>> backbone = Backbone.of(model, layer=1)
        >>> images = torch.randn(2, 3, 32, 32)
        >>> tokens = backbone.embed(images)
        >>> everything = Selection(tokens.patches, torch.ones(2, 4))
        >>> torch.equal(backbone.encode(tokens.prefix, everything), model.eval()(images))
        True
    """

    name: str
    model: VisionTransformer
    layer: int
    n_tokens: int
    dim: int
    autocast: bool = False

    @classmethod
    def of(cls, model: nn.Module, layer: int = 0, name: str | None = None, autocast: bool = False) -> "Backbone":
        """Split a model at a layer.

        Args:
            model: A timm ``VisionTransformer``, neither copied nor changed. Wrappers that compute the same
                (``torch.compile``, data parallelism, LoRA) are removed.
            layer: Number of blocks before the insertion point, 0..depth.
            name: Name in error messages, the model's class by default.
            autocast: Flag for torch's bfloat16 autocast.

        Raises:
            UsageError: The model cannot be split, or has no such layer.
        """
        name = name or type(model).__name__
        vit = check_splittable(unwrapped(model, name), name)
        depth, layer = len(vit.blocks), plain(layer)
        if not isinstance(layer, int) or isinstance(layer, bool) or not 0 <= layer <= depth:
            raise UsageError(
                f"--layer {in_words(layer)} is not possible: {name} has {depth} blocks; give --layer 0 to "
                f"--layer {depth}"
            )
        return cls(name, vit, layer, vit.patch_embed.num_patches, vit.embed_dim, autocast)

    @property
    def grids(self) -> tuple[tuple[int, int], ...]:
        """Rows and columns of the patches; () where they are not laid out in a grid."""
        rows, columns = getattr(self.model.patch_embed, "grid_size", (0, 0))
        return ((rows, columns),) if rows * columns == self.n_tokens else ()

    @property
    def classes(self) -> int:
        """Number of logits: the head's own, since a head may be replaced without the model's ``num_classes``."""
        weight = next(self.model.parameters())
        with torch.no_grad(), self.running():
            return self.model.forward_head(weight.new_zeros(1, self.model.num_prefix_tokens + 1, self.dim)).shape[-1]

    def embed(self, images: Tensor) -> Tokens:
        """Return the tokens of images ``(B, 3, H, W)`` at the insertion point, without gradient.

        Raises:
            UsageError: The images do not have the model's image size.
        """
        weight = next(self.model.parameters())
        expected = (self.model.in_chans, *_pair(self.model.patch_embed.img_size))
        if tuple(images.shape[1:]) != expected:
            shape = ", ".join(map(str, expected))
            raise UsageError(f"images of shape {tuple(images.shape)} do not fit: {self.name} takes (B, {shape})")
        with torch.no_grad(), self.running():
            x = self.model.patch_embed(images.to(weight.device, weight.dtype))
            x = self.model.norm_pre(self.model.patch_drop(self.model._pos_embed(x)))
            x = self.model.blocks[: self.layer](x).to(weight.dtype)
        p = self.model.num_prefix_tokens
        return Tokens(x[:, :p], x[:, p:])

    def encode(self, prefix: Tensor, selection: Selection) -> Tensor:
        """Return the logits ``(B, classes)`` of a selection, differentiable in its tokens and its ``key_bias``.

        ``key_bias`` is added to the attention logits of each selected token as a key, in every later layer and in the
        pooling (an average becomes ``sum_i softmax(key_bias)_i x_i``); the prefix has bias 0. A token with bias
        ``-inf`` is exactly absent. ``self_bias`` replaces it where a token attends to itself. A model without
        classifier returns its pooled features ``(B, D)``.

        Args:
            prefix: Class and register tokens, ``(B, P0, D)``.
            selection: Output of an operator.

        Raises:
            UsageError: The selection has a ``key_bias`` that the model's blocks or pooling cannot use.
        """
        model, bias = self.model, selection.key_bias
        x = torch.cat([prefix, selection.tokens], 1) if prefix.shape[1] else selection.tokens
        if not prefix.shape[1] and isinstance(model.blocks[0], ResPostBlock):
            # Its tokens are a transposed view of the convolution's output; products with a copy would round otherwise.
            x = x.mT.contiguous().mT
        with self.running():
            if bias is None:
                x = model.forward_head(model.norm(model.blocks[self.layer :](x)))
            else:
                self._check_bias()
                bias = torch.cat([bias.new_zeros(prefix.shape[:2]), bias], 1)
                mask = bias[:, None, None, :].to(x.dtype)
                logits = mask if selection.self_bias is None else _with_diagonal(mask, selection.self_bias)
                for block in model.blocks[self.layer :]:
                    x = block(x, attn_mask=logits)
                x = self._head(model.norm(x), mask)
        return x.to(selection.tokens.dtype)

    def full(self, images: Tensor) -> Tensor:
        """Return the logits of the unpruned model, without gradient."""
        weight = next(self.model.parameters())
        with torch.no_grad(), self.running():
            return self.model(images.to(weight.device, weight.dtype)).to(weight.dtype)

    def open_images(self, path: str | Path, class_order: str | None = None) -> ImageFolder:
        """Open a folder of images with timm's preprocessing for this model, and with labels if they can be determined.

        Args:
            path: Folder.
            class_order: Order of the class folders, ``text`` or ``natural``, needed only if the two differ.

        Raises:
            UsageError: The folder does not exist or has no image.
        """
        return ImageFolder.open(path, transform_for(self.model), self.classes, class_order)

    def check_whole(self) -> None:
        """Refuse a model with another output when it is called than on all its tokens, by hooks or methods put on it.

        The model is called, on one image, only if there are some: others, such as accelerate's, leave the output alone.

        Raises:
            UsageError: The outputs differ.
        """
        model: Any = self.model
        if not (model._forward_hooks or model._forward_pre_hooks or vars(model).keys() & {*METHODS, "forward_head"}):
            return
        shape = (1, self.model.in_chans, *_pair(self.model.patch_embed.img_size))
        image = torch.linspace(-1, 1, prod(shape)).reshape(shape)
        tokens = self.embed(image)
        split = self.encode(tokens.prefix, Selection(tokens.patches, tokens.patches.new_ones(1, self.n_tokens)))
        whole = self.full(image)
        near = 1e-3 * float(whole.abs().max())
        if whole.shape != split.shape or not torch.allclose(split, whole, rtol=1e-3, atol=near, equal_nan=True):
            raise UsageError(
                f"{self.name} cannot be split: called as a whole it gives another output than its patches, blocks and "
                "head in turn; remove the hooks and methods that were put on it, or move them into these parts"
            )

    @contextmanager
    def running(self) -> Iterator[None]:
        """Freeze the model as `frozen` does, and run it under bfloat16 autocast if the backbone says so."""
        device = next(self.model.parameters()).device.type
        with frozen(self.model), torch.autocast(device, torch.bfloat16) if self.autocast else nullcontext():
            yield

    def _check_bias(self) -> None:
        """Refuse a key bias if the model cannot make a token exactly absent."""
        for block in self.model.blocks[self.layer :]:
            if "attn_mask" not in signature(block.forward).parameters:
                reason = f"the {type(block).__name__} of {self.name} takes no attention mask"
                raise UsageError(f"{reason}, so attention cannot be used as a throttle; {OTHER_THROTTLES}")
        if self.model.global_pool not in ("token", "avg", "map"):
            reason = f"{self.name} pools by {self.model.global_pool!r}, which has no weighted form"
            raise UsageError(f"{reason}, so attention cannot be used as a throttle; {OTHER_THROTTLES}")

    def _head(self, x: Tensor, mask: Tensor) -> Tensor:
        """Pool and classify, with the mask ``(B, 1, 1, tokens)`` in the pooling too."""
        model = self.model
        if model.global_pool == "token":
            return model.forward_head(x)
        if not model.pool_include_prefix:
            x, mask = x[:, model.num_prefix_tokens :], mask[..., model.num_prefix_tokens :]
        mapped = model.global_pool == "map"
        x = model.attn_pool(x, attn_mask=mask) if mapped else (mask[:, 0].softmax(-1) @ x)[:, 0]
        return model.head(model.head_drop(model.fc_norm(x)))


def _with_diagonal(mask: Tensor, self_bias: Tensor) -> Tensor:
    """Expand the mask ``(B, 1, 1, T)`` to all queries, with ``self_bias (B, M)`` on the diagonal of the last M."""
    total = mask.shape[-1]
    padded = torch.cat([self_bias.new_zeros(len(self_bias), total - self_bias.shape[1]), self_bias], 1).to(mask.dtype)
    diagonal = torch.eye(total, dtype=torch.bool, device=mask.device)
    return torch.where(diagonal, padded[:, None, None, :], mask)


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode without gradients for its parameters; restore modes and flags on exit.

    Meanwhile a GPU computes convolutions of float32 in float32.

    Example:
        >>> model = nn.Sequential(nn.Dropout(0.5)).train()
        >>> with frozen(model):
        ...     model[0].training
        False
        >>> model[0].training
        True
    """
    with _lock:
        inside = id(model) in _frozen and not model.training  # nothing to look for, module by module, in every call
    modules = [] if inside else [module for module in model.modules() if module.training]
    parameters = [] if inside else [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for module in modules:
            module.training = False
        for parameter in parameters:
            parameter.requires_grad_(False)
        with _counted(model), exact_convolutions():
            yield
    finally:
        for module in modules:
            module.training = True
        for parameter in parameters:
            parameter.requires_grad_(True)


@contextmanager
def _counted(model: nn.Module) -> Iterator[None]:
    """Note that a model is frozen by now."""
    with _lock:
        _frozen[id(model)] += 1
    try:
        yield
    finally:
        with _lock:
            _frozen[id(model)] -= 1
            if not _frozen[id(model)]:
                del _frozen[id(model)]


def check_splittable(model: nn.Module, name: str) -> VisionTransformer:
    """Return the model, or refuse one from which tokens cannot be dropped at any layer.

    Args:
        model: Model without wrappers.
        name: Name in error messages.

    Raises:
        UsageError: The model cannot be split.
    """
    if not isinstance(model, VisionTransformer):
        problem = f"{name} is a {type(model).__name__} and cannot be split"
        paths = [path for path, part in model.named_modules() if isinstance(part, VisionTransformer)]
        if paths:
            raise UsageError(f"{problem}; it contains a VisionTransformer: pass {' or '.join(map(_attribute, paths))}")
        problem = f"{problem}: {_obstacle(model)}"
        raise UsageError(
            f"{problem}; possible: scenes, and timm's VisionTransformer (deit, deit3, vit, dinov2, siglip)"
        )
    kind, plain = type(model), VisionTransformer
    methods = [method for method in METHODS if getattr(kind, method) is not getattr(plain, method)]
    if kind.forward_head not in (plain.forward_head, VisionTransformerDistilled.forward_head):
        methods.append("forward_head")
    if methods:
        raise UsageError(
            f"{name} cannot be split: {kind.__name__} has its own {', '.join(methods)}; give a plain VisionTransformer"
        )
    if not model.global_pool:
        raise UsageError(
            f"{name} cannot be split: it does not pool, so it has no logits; give global_pool='token' or 'avg'"
        )
    return model


def _obstacle(model: nn.Module) -> str:
    """Return the reason why single tokens cannot be dropped from a model of another class."""
    parts = {name for name, _ in model.named_children()}
    if parts & {"stages", "layers", "layer1", "features", "network"}:
        return "its stages of windows or convolutions need the whole grid of patches"
    if getattr(model, "rope", None) is not None:
        return "its rotary positions belong to the whole grid of patches"
    if any("rel_pos" in name or "relative_position" in name for name in model.state_dict()):
        return "its relative-position bias belongs to the whole grid of patches"
    return "its layers are not known to take any set of tokens"


def _attribute(path: str) -> str:
    """Return the Python expression of a submodule: ``layers.0.vit`` -> ``model.layers[0].vit``."""
    return "model" + "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in path.split("."))


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])
