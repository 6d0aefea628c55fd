"""DynamicViT's masked attention on real transformers, against the attention of the paper computed by hand."""

import pytest
import torch
from vits import DEPTH, images_for, vit

from gradprobe.core import Noise, apply
from gradprobe.models.backbones import Backbone
from gradprobe.operators import registry
from gradprobe.operators.throttles.attention import Attention
from gradprobe.operators.throttles.dynamicvit import DynamicViT

KINDS = ["deit", "deit distilled", "dinov2 with registers", "no positions", "registers, average"]
DROPPED = torch.tensor([[0, 3, 5], [1, 2, 15], [4, 9, 11]])
NOISE = Noise(0, range(3))


def backbone_of(kind, layer=1):
    model = vit(kind)
    backbone = Backbone.of(model, layer)
    return backbone, backbone.embed(images_for(model))


def some_weights(n=16, seed=2):
    """Weights between 0 and 1, some of them at the ends."""
    weights = torch.rand(3, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return weights.scatter(1, DROPPED, 0.0).scatter(1, DROPPED + (DROPPED == 15) * -1 + (DROPPED != 15), 1.0)


def hard_weights(n=16):
    return torch.ones(3, n, dtype=torch.float64).scatter(1, DROPPED, 0.0)


def selected(patches, weights, throttle=None):
    return (throttle or DynamicViT())(patches, weights, 8, NOISE)


def by_hand(backbone, tokens, visible):
    """Eq. 10 and 11: ``A_ij = e^{P_ij} G_ij / sum_k e^{P_ik} G_ik``; G_ij is the visibility of j, G_ii = 1."""
    model, prefix = backbone.model, tokens.prefix.shape[1]
    x = torch.cat([tokens.prefix, tokens.patches], 1)
    b, n, _ = x.shape
    g = torch.cat([torch.ones(b, prefix, dtype=x.dtype), visible], 1)[:, None, None, :].repeat(1, 1, n, 1)
    for i in range(n):
        g[:, :, i, i] = 1
    for block in model.blocks[backbone.layer :]:
        attn = block.attn
        q, k, v = attn.qkv(block.norm1(x)).reshape(b, n, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
        logits = attn.q_norm(q) @ attn.k_norm(k).mT * attn.scale
        weights = logits.exp() * g
        out = (weights / weights.sum(-1, keepdim=True)) @ v
        x = x + block.ls1(attn.proj(attn.norm(out.transpose(1, 2).reshape(b, n, -1))))
        x = x + block.ls2(block.mlp(block.norm2(x)))
    x = model.norm(x)
    if model.global_pool == "token":
        return model.forward_head(x)
    pooled = (x[:, prefix:] * visible[..., None]).sum(1) / visible.sum(1, keepdim=True)
    return model.head(model.fc_norm(pooled))


@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_masked_attention_of_the_paper(kind, layer):
    backbone, tokens = backbone_of(kind, layer)
    weights = some_weights(backbone.n_tokens)
    mine = backbone.encode(tokens.prefix, selected(tokens.patches, weights))
    scale = mine.abs().max()
    assert (mine - by_hand(backbone, tokens, weights)).abs().max() < 1e-5 * scale
    left = weights + 1e-6 * (1 - weights)
    assert (mine - by_hand(backbone, tokens, left)).abs().max() < 1e-12 * scale
    plain = by_hand(backbone, tokens, torch.ones_like(weights))
    assert (mine - plain).abs().max() > 1e-3 * scale  # the weights matter


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_dropped_token_holds_is_not_seen_by_the_class_token(kind):
    backbone, tokens = backbone_of(kind)
    weights = hard_weights(backbone.n_tokens)
    other = tokens.patches.flip(0).flip(1) * 3
    outputs = {}
    for name, changed in (("dropped", weights == 0), ("kept", weights == 1)):
        patches = torch.where(changed[..., None], other, tokens.patches)
        outputs[name] = backbone.encode(tokens.prefix, selected(patches, weights))
    before = backbone.encode(tokens.prefix, selected(tokens.patches, weights))
    assert (outputs["dropped"] - before).abs().max() < 1e-4 * before.abs().max()
    assert (outputs["kept"] - before).abs().max() > 1e-2 * before.abs().max()


@pytest.mark.parametrize("kind", KINDS)
def test_a_dropped_token_still_has_the_gradient_of_being_seen(kind):
    """With ``attention`` it has none: a token that is absent cannot come back."""
    backbone, tokens = backbone_of(kind)
    gradients = []
    for throttle in (DynamicViT(), Attention()):
        leaf = hard_weights(backbone.n_tokens).requires_grad_()
        logits = backbone.encode(tokens.prefix, selected(tokens.patches, leaf, throttle))
        (gradient,) = torch.autograd.grad(logits.square().sum(), leaf)
        gradients.append(gradient.gather(1, DROPPED))
    ours, none = gradients
    assert ours.isfinite().all()
    assert (ours != 0).all()
    assert (none == 0).all()


def test_the_gradient_of_a_dropped_token_is_that_of_the_published_mask():
    backbone, tokens = backbone_of("deit")
    gradients = []
    for encode in (
        lambda w: backbone.encode(tokens.prefix, selected(tokens.patches, w)),
        lambda w: by_hand(backbone, tokens, w),
    ):
        leaf = hard_weights().requires_grad_()
        gradients.append(torch.autograd.grad(encode(leaf).square().sum(), leaf)[0])
    assert (gradients[0] - gradients[1]).abs().max() < 1e-4 * gradients[1].abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_keeping_all_adds_nothing(kind, dtype):
    """The unpruned model bit for bit, but for the rounding of a weighted mean where it averages its tokens."""
    model = vit(kind).to(dtype)
    backbone = Backbone.of(model, 1)
    tokens = backbone.embed(images_for(model).to(dtype))
    n = backbone.n_tokens
    operator = registry.build("gumbel-softmax+dynamicvit")
    selection = apply(operator, tokens.patches, tokens.patches[..., 0], n, NOISE, "op")
    assert torch.equal(selection.tokens, tokens.patches)
    zeros = torch.zeros(3, n, dtype=dtype)
    assert torch.equal(selection.key_bias, zeros)
    assert torch.equal(selection.self_bias, zeros)
    mine = backbone.encode(tokens.prefix, selection)
    full = backbone.full(images_for(model).to(dtype))
    tolerance = 20 * torch.finfo(dtype).eps if model.global_pool == "avg" else 0.0
    assert (mine - full).abs().max() <= tolerance * full.abs().max()


def last_tokens(backbone, tokens, selection):
    """Return the output of the last block."""
    inputs = []
    handle = backbone.model.norm.register_forward_pre_hook(lambda module, given: inputs.append(given[0]))
    try:
        backbone.encode(tokens.prefix, selection)
    finally:
        handle.remove()
    return inputs[0][:, tokens.prefix.shape[1] :]


def test_only_the_dropped_tokens_themselves_are_other_than_with_attention():
    backbone, tokens = backbone_of("deit")
    weights = hard_weights()
    mine, other = (
        last_tokens(backbone, tokens, selected(tokens.patches, weights, throttle))
        for throttle in (DynamicViT(), Attention())
    )
    apart = (mine - other).abs().amax(-1) / other.abs().max()
    assert apart[weights == 1].max() < 1e-4
    assert apart[weights == 0].min() > 1e-3


def test_a_weight_between_the_ends_lets_a_token_see_itself_whole():
    backbone, tokens = backbone_of("deit", layer=DEPTH - 1)
    weights = torch.full((3, 16), 0.5, dtype=torch.float64)
    mine, other = (
        last_tokens(backbone, tokens, selected(tokens.patches, weights, throttle))
        for throttle in (DynamicViT(), Attention())
    )
    assert ((mine - other).abs().amax(-1) > 1e-3 * other.abs().max()).all()
