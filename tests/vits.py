"""Tiny vision transformers of every kind that can be split, with random parameters."""

import hashlib

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from gradprobe.core import Selection, Tokens
from gradprobe.embedded.conv_stem import ConvStem

TINY = {"embed_dim": 24, "depth": 3, "num_heads": 2, "num_classes": 7}
DEPTH = 3
NAMED = {
    "deit": "deit_tiny_patch16_224",
    "deit distilled": "deit_tiny_distilled_patch16_224",
    "deit3": "deit3_small_patch16_224",  # class token without position
    "dinov2": "vit_small_patch14_dinov2",
    "dinov2 with registers": "vit_small_patch14_reg4_dinov2",
    "registers, average": "vit_medium_patch16_reg4_gap_256",
    "no class token": "vit_base_patch16_gap_224",
    "class token, average": "beit3_base_patch16_224",
    "map": "vit_base_patch16_siglip_224",
    "registers, map": "vit_so150m_patch16_reg4_map_256",
    "norm before": "vit_base_patch16_clip_224",
    "dynamic size": "test_vit",
    "parallel things": "vit_small_patch16_18x2_224",
    "parallel scaling": "vit_base_patch16_xp_224",
    "norm after": "vit_base_patch16_rpn_224",
    "differential": "vit_dwee_patch16_reg1_gap_256",
}
BUILT = {
    "average with prefix": {"global_pool": "avg", "pool_include_prefix": True},
    "map with prefix": {"global_pool": "map", "pool_include_prefix": True},
    "convolutional stem": {"embed_layer": ConvStem, "img_size": 32, "patch_size": 8},
    "no positions": {"pos_embed": "none"},
    "headless": {"num_classes": 0},
}
UNWEIGHTED = {
    "max": {"global_pool": "max"},
    "avgmax": {"global_pool": "avgmax"},
    "prr": {"global_pool": "prr"},
}
MASKED = [*NAMED, *BUILT]
KINDS = [*MASKED, *UNWEIGHTED]


def vit(kind: str, **settings) -> VisionTransformer:
    """A tiny model of a kind whose every parameter is random, in evaluation mode, float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if kind in NAMED:
            size = 56 if "patch14" in NAMED[kind] else 64
            model = timm.create_model(NAMED[kind], **{**TINY, "img_size": size, **settings})
        else:
            sizes = {"img_size": 64, "patch_size": 16}
            model = VisionTransformer(**{**sizes, **TINY, **(BUILT | UNWEIGHTED).get(kind, {}), **settings})
        for parameter in model.parameters():
            parameter.data.add_(0.2 * torch.randn_like(parameter))
    return model.double().eval()


def images_for(model: VisionTransformer, count: int = 3) -> torch.Tensor:
    rng = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, *model.patch_embed.img_size, generator=rng, dtype=torch.float64)


def everything(tokens: Tokens) -> Selection:
    return Selection(tokens.patches, torch.ones(tokens.patches.shape[:2]))


def kept(tokens: Tokens, index: torch.Tensor) -> Selection:
    rows = tokens.patches.gather(1, index[..., None].expand(-1, -1, tokens.patches.shape[-1]))
    return Selection(rows, torch.ones(tokens.patches.shape[:2]), index=index)


def digest(model: nn.Module) -> str:
    blob = hashlib.sha256()
    for name, value in model.state_dict().items():
        blob.update(name.encode() + value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return blob.hexdigest()
