"""A timm VisionTransformer split at a layer: embed, then encode what an operator selected.

Its blocks take any number of tokens, and positions are added once, before the first; so tokens can leave at any layer.
Models whose layers look at the whole grid of patches cannot lose single tokens and are refused.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from difflib import get_close_matches
from inspect import signature
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import ResPostBlock, VisionTransformer
from torch import Tensor, nn

from gradprobe.core import Selection, Tokens
from gradprobe.data.images import ImageFolder, transform_for
from gradprobe.errors import GradprobeError, UsageError, brief, nearest
from gradprobe.models.vit_weights import check_size, fill, settings_of, size_of
from gradprobe.models.weights import read_weights
from gradprobe.models.wrappers import unwrapped

DTYPES = ("float32", "float64", "bfloat16")
OTHER_THROTTLES = "gather, zero, scale, vpnoise and mean work"


@dataclass(frozen=True)
class Backbone:
    """A frozen vision transformer split at a layer; keeping all tokens gives the model's own output bit for bit.

    The model is the user's: around each call it is in evaluation mode and its parameters ask for no gradient, and
    afterwards it is as it was, also after an exception. Enter `frozen` to do so once for many calls.

    Attributes:
        name: what errors call it.
        model: the transformer.
        layer: how many blocks come before the insertion point, 0..depth.
        n_tokens: N, the patches of an image.
        dim: D, the width of a token.
        autocast: run in bfloat16 where torch's autocast says so; parameters and results keep their type.

    Example:
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
        """Split a model of one's own.

        Args:
            model: a timm ``VisionTransformer``; not copied, not changed. Wrappers that compute the same
                (``torch.compile``, data parallelism, LoRA) are taken off.
            layer: how many blocks come before the insertion point, 0..depth.
            name: what errors call it; its class by default.
            autocast: run in bfloat16 under autocast.

        Raises:
            UsageError: the model cannot be split, or has no such layer.
        """
        name = name or type(model).__name__
        vit = _splittable(unwrapped(model, name), name)
        depth = len(vit.blocks)
        if not isinstance(layer, int) or not 0 <= layer <= depth:
            raise UsageError(
                f"--layer {layer} is not possible: {name} has {depth} blocks; give --layer 0 to --layer {depth}"
            )
        return cls(name, vit, layer, vit.patch_embed.num_patches, vit.embed_dim, autocast)

    def embed(self, images: Tensor) -> Tokens:
        """Images ``(B, 3, H, W)`` -> tokens at the insertion point; no gradient is kept.

        Raises:
            UsageError: the images do not have the size that the model takes.
        """
        weight = next(self.model.parameters())
        wanted = (self.model.in_chans, *_pair(self.model.patch_embed.img_size))
        if tuple(images.shape[1:]) != wanted:
            takes = ", ".join(map(str, wanted))
            raise UsageError(f"images of shape {tuple(images.shape)} do not fit: {self.name} takes (B, {takes})")
        with torch.no_grad(), self.running():
            x = self.model.patch_embed(images.to(weight.device, weight.dtype))
            x = self.model.norm_pre(self.model.patch_drop(self.model._pos_embed(x)))
            x = self.model.blocks[: self.layer](x).to(weight.dtype)
        p = self.model.num_prefix_tokens
        return Tokens(x[:, :p], x[:, p:])

    def encode(self, prefix: Tensor, selection: Selection) -> Tensor:
        """What was selected -> logits ``(B, classes)``; gradients reach its tokens and its ``key_bias``.

        ``key_bias`` is added to the attention logits of each selected token as a key, in every later layer and in the
        pooling (an average becomes ``sum_i softmax(key_bias)_i x_i``); the prefix has bias 0. A token of bias ``-inf``
        is exactly absent. With a ``self_bias`` that one holds where a token looks at itself. A model without classifier
        gives its pooled features ``(B, D)``.

        Args:
            prefix: class and register tokens, ``(B, P0, D)``.
            selection: what an operator made of the patches.

        Raises:
            UsageError: there is a ``key_bias`` and this model's blocks or pooling cannot use one.
        """
        model, bias = self.model, selection.key_bias
        x = torch.cat([prefix, selection.tokens], 1) if prefix.shape[1] else selection.tokens
        if not prefix.shape[1] and isinstance(model.blocks[0], ResPostBlock):
            # Its tokens are a transposed view of the convolution's output, and products with a copy round otherwise.
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
        """Images -> logits of the unpruned model, without gradient."""
        weight = next(self.model.parameters())
        with torch.no_grad(), self.running():
            return self.model(images.to(weight.device, weight.dtype)).to(weight.dtype)

    def open_images(self, path: str | Path, class_order: str | None = None) -> ImageFolder:
        """A folder of images, preprocessed as timm says for this model, labelled with its classes where they are known.

        Args:
            path: the folder.
            class_order: order of the class folders, ``text`` or ``natural``, where the two differ; None: not said.

        Raises:
            UsageError: there is no such folder, or no image in it.
        """
        return ImageFolder.open(path, transform_for(self.model), self.model.num_classes, class_order)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Evaluation mode, no gradients for parameters, and bfloat16 if asked for; as found afterwards."""
        device = next(self.model.parameters()).device.type
        with frozen(self.model), torch.autocast(device, torch.bfloat16) if self.autocast else nullcontext():
            yield

    def _check_bias(self) -> None:
        """Refuse a key bias that could not make a token exactly absent."""
        for block in self.model.blocks[self.layer :]:
            if "attn_mask" not in signature(block.forward).parameters:
                what = f"the {type(block).__name__} of {self.name} takes no attention mask"
                raise UsageError(f"{what}, so attention cannot be used as a throttle; {OTHER_THROTTLES}")
        if self.model.global_pool not in ("token", "avg", "map"):
            what = f"{self.name} pools by {self.model.global_pool!r}, which has no weighted form"
            raise UsageError(f"{what}, so attention cannot be used as a throttle; {OTHER_THROTTLES}")

    def _head(self, x: Tensor, mask: Tensor) -> Tensor:
        """Pool and classify with the mask ``(B, 1, 1, tokens)`` acting in the pooling too."""
        model = self.model
        if model.global_pool == "token":
            return model.forward_head(x)
        if not model.pool_include_prefix:
            x, mask = x[:, model.num_prefix_tokens :], mask[..., model.num_prefix_tokens :]
        mapped = model.global_pool == "map"
        x = model.attn_pool(x, attn_mask=mask) if mapped else (mask[:, 0].softmax(-1) @ x)[:, 0]
        return model.head(model.head_drop(model.fc_norm(x)))


def _with_diagonal(mask: Tensor, own: Tensor) -> Tensor:
    """The mask ``(B, 1, 1, T)`` for each query; where one of the last M tokens sees itself, its own ``(B, M)``."""
    total = mask.shape[-1]
    padded = torch.cat([own.new_zeros(len(own), total - own.shape[1]), own], 1).to(mask.dtype)
    diagonal = torch.eye(total, dtype=torch.bool, device=mask.device)
    return torch.where(diagonal, padded[:, None, None, :], mask)


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients for parameters inside; each module's mode and parameter's flag as found after.

    Example:
        >>> model = nn.Sequential(nn.Dropout(0.5)).train()
        >>> with frozen(model):
        ...     model[0].training
        False
        >>> model[0].training
        True
    """
    training = [module for module in model.modules() if module.training]
    asking = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for module in training:
            module.training = False
        for parameter in asking:
            parameter.requires_grad_(False)
        yield
    finally:
        for module in training:
            module.training = True
        for parameter in asking:
            parameter.requires_grad_(True)


def load_backbone(
    name: str,
    weights: str | Path | None = None,
    layer: int = 0,
    seed: int = 0,
    device: str = "cpu",
    dtype: str = "float32",
    weights_key: str | None = None,
    image_size: int | str | tuple[int, int] | None = None,
) -> Backbone:
    """A frozen backbone from names: ``scenes``, or any timm ``VisionTransformer``. Torch's random state stays as found.

    A file's head decides the number of classes (0 without one), its position embedding the size of the images. Its
    wrappings are those of `gradprobe.models.weights.read_weights`; what was chosen or resampled is said by a `Notice`.

    Args:
        name: ``scenes`` or a timm name, with or without a tag: ``deit_base_patch16_224.fb_in1k``.
        weights: a .safetensors or .pth file, ``"none"`` for random ones from the seed, None for the hub's (or the
            shipped ones of ``scenes``).
        layer: how many blocks come before the insertion point, 0..depth.
        seed: of random weights.
        device: a torch device.
        dtype: ``float32``, ``float64``, or ``bfloat16`` (float32 parameters, run under autocast).
        weights_key: which of the models in the file; None: by timm's order of preference.
        image_size: pixels, or ``"HxW"``; position embeddings of another size are resampled as timm does. None: that of
            the weights.

    Raises:
        UsageError: no such name, layer, device, dtype, size or file, the file's weights are of another model, or the
            model cannot be split.
        GradprobeError: the file is corrupt, or the hub did not give the weights.

    Example:
        >>> load_backbone("deit_tiny_patch16_224", weights="none").n_tokens
        196
        >>> load_backbone("deit_tiny_patch16_224", weights="none", image_size="64x32").n_tokens
        8
    """
    if dtype not in DTYPES:
        raise UsageError(f"--dtype {dtype} is not possible; {nearest(dtype, DTYPES)}")
    if weights_key is not None and weights in (None, "none"):
        raise UsageError(f"--weights-key {weights_key} needs a file; give --weights FILE")
    size = size_of(image_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name == "scenes":
            model: nn.Module = _scenes(weights, weights_key, size)
        else:
            model = _timm(name, weights, weights_key, size)
    backbone = Backbone.of(model.eval().requires_grad_(False), layer, name, autocast=dtype == "bfloat16")
    try:
        model.to(device=device, dtype=torch.float64 if dtype == "float64" else torch.float32)
    except (RuntimeError, AssertionError, TypeError) as error:
        possible = "cpu, cuda" if torch.cuda.is_available() else "cpu"
        raise UsageError(f"--device {device} is not possible here ({brief(error)}); possible: {possible}") from None
    return backbone


def _splittable(model: nn.Module, name: str) -> VisionTransformer:
    """The model itself, if tokens can leave it at any layer."""
    if not isinstance(model, VisionTransformer):
        what = f"{name} is a {type(model).__name__} and cannot be split"
        inside = [path for path, part in model.named_modules() if isinstance(part, VisionTransformer)]
        if inside:
            raise UsageError(f"{what}; there is a VisionTransformer in it: pass {' or '.join(map(_attribute, inside))}")
        what = f"{what}: {_obstacle(model)}"
        raise UsageError(f"{what}; possible: scenes, and timm's VisionTransformer (deit, deit3, vit, dinov2, siglip)")
    kind = type(model)
    own = [
        part
        for part in ("forward", "forward_features", "pool")
        if getattr(kind, part) is not getattr(VisionTransformer, part)
    ]
    if kind.forward_head not in (VisionTransformer.forward_head, VisionTransformerDistilled.forward_head):
        own.append("forward_head")
    if own:
        raise UsageError(
            f"{name} cannot be split: {kind.__name__} has its own {', '.join(own)}; give a plain VisionTransformer"
        )
    if not model.global_pool:
        raise UsageError(
            f"{name} cannot be split: it does not pool, so it has no logits; give global_pool='token' or 'avg'"
        )
    return model


def _obstacle(model: nn.Module) -> str:
    """Why a model of another class cannot lose single tokens."""
    parts = {name for name, _ in model.named_children()}
    if parts & {"stages", "layers", "layer1", "features", "network"}:
        return "its stages of windows or convolutions need the whole grid of patches"
    if getattr(model, "rope", None) is not None:
        return "its rotary positions belong to the whole grid of patches"
    if any("rel_pos" in name or "relative_position" in name for name in model.state_dict()):
        return "its relative-position bias belongs to the whole grid of patches"
    return "its layers are not known to take any set of tokens"


def _attribute(path: str) -> str:
    """A submodule as it is written in Python: ``layers.0.vit`` -> ``model.layers[0].vit``."""
    return "model" + "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in path.split("."))


def _scenes(weights: str | Path | None, key: str | None, size: tuple[int, int] | None) -> VisionTransformer:
    from gradprobe.data.scenes import MEAN, SIZE, STD
    from gradprobe.embedded.scenes_model import load_scenes_model, scenes_model

    if size not in (None, (SIZE, SIZE)):
        raise UsageError(f"--image-size is not possible with --backbone scenes, whose images have {SIZE} x {SIZE}")
    model: Any = load_scenes_model() if weights is None else scenes_model()
    # Where timm looks for the preprocessing of a folder of images.
    model.pretrained_cfg = {
        "input_size": (3, SIZE, SIZE), "mean": (MEAN,) * 3, "std": (STD,) * 3, "crop_pct": 1.0,
        "interpolation": "bicubic",
    }  # fmt: skip
    if weights not in (None, "none"):
        fill(model, read_weights(str(weights), model.state_dict(), key), "scenes")
    return model


def _timm(name: str, weights: str | Path | None, key: str | None, size: tuple[int, int] | None) -> nn.Module:
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        close = get_close_matches(architecture, timm.list_models(), n=3)
        guess = f"did you mean {', '.join(close)}? " if close else ""
        raise UsageError(
            f"no backbone is called {name!r}; {guess}possible: scenes, or a name of timm.list_models('*vit*')"
        )
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        raise UsageError(f"{architecture} has no weights {tag!r}; {nearest(tag, tags)}")
    with torch.device("meta"):  # a look without memory: refuse before anything is downloaded
        plan = _splittable(timm.create_model(architecture), name)
    settings: dict[str, Any] = {}
    if size is not None:
        check_size(size, plan)
        settings["img_size"] = size
    if weights == "none":
        return timm.create_model(name, **settings)
    if weights is not None:
        read = read_weights(str(weights), plan.state_dict(), key)
        model: Any = timm.create_model(name, **settings_of(read.tensors, plan, size is not None), **settings)
        fill(model, read, name)
        return model
    if not tags:
        raise UsageError(f"timm has no weights for {name}; give --weights FILE, or --weights none for random ones")
    with _hub() as reached:
        try:
            return timm.create_model(name, pretrained=True, **settings)
        except Exception as error:  # the hub, its client and timm raise what they like
            what = f"the hub did not give the weights of {name} ({brief(error)})"
            if not reached:
                what = f"the hub could not be reached and its cache has no weights of {name}"
            raise GradprobeError(f"{what}; give --weights FILE, or --weights none for random ones") from None


@contextmanager
def _hub() -> Iterator[bool]:
    """Whether the hub answers; if not, its client uses its cache at once instead of retrying for a minute."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    before = constants.HF_HUB_OFFLINE
    try:
        if not before:
            try:
                get_session().head(constants.ENDPOINT, timeout=5)
            except Exception:  # whatever the client's transport raises
                constants.HF_HUB_OFFLINE = True
        yield not constants.HF_HUB_OFFLINE
    finally:
        constants.HF_HUB_OFFLINE = before


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])
