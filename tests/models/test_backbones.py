"""The frozen backbone: split bit for bit, masked exactly, left as found; what cannot be is refused in one line."""

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from vits import DEPTH, KINDS, MASKED, TINY, UNWEIGHTED, digest, everything, images_for, kept, vit

from gradprobe.core import Noise, Selection
from gradprobe.errors import UsageError
from gradprobe.models.backbones import Backbone, frozen
from gradprobe.models.loading import load_backbone
from gradprobe.operators.throttles.attention import Attention
from gradprobe.operators.throttles.gather import Gather


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kind", KINDS)
def test_keeping_all_is_the_model_bit_for_bit(kind, dtype):
    model = vit(kind).to(dtype)
    images = images_for(model).to(dtype)
    with torch.no_grad(), frozen(model):  # torch 2.6 pools by another kernel where parameters ask for a gradient
        wanted = model(images)
    for layer in range(DEPTH + 1):
        backbone = Backbone.of(model, layer)
        tokens = backbone.embed(images)
        assert tokens.patches.shape == (3, backbone.n_tokens, backbone.dim)
        assert tokens.prefix.shape == (3, model.num_prefix_tokens, backbone.dim)
        assert torch.equal(backbone.encode(tokens.prefix, everything(tokens)), wanted)
        every = torch.arange(backbone.n_tokens).expand(3, -1)
        assert torch.equal(backbone.encode(tokens.prefix, kept(tokens, every)), wanted)
        assert torch.equal(backbone.full(images), wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_dropping_a_token_changes_the_output(kind):
    model = vit(kind)
    backbone = Backbone.of(model, 1)
    tokens = backbone.embed(images_for(model))
    fewer = kept(tokens, torch.arange(backbone.n_tokens - 1).expand(3, -1))
    difference = backbone.encode(tokens.prefix, fewer) - backbone.encode(tokens.prefix, everything(tokens))
    assert difference.abs().amax(1).min() > 1e-6


@pytest.mark.parametrize("kind", MASKED)
@pytest.mark.parametrize("layer", [0, 2, DEPTH])
def test_bias_of_minus_infinity_is_an_absent_token(kind, layer):
    model = vit(kind)
    backbone = Backbone.of(model, layer)
    tokens = backbone.embed(images_for(model))
    index = torch.tensor([[0, 3, 5], [1, 2, 15], [4, 9, 11]])
    bias = torch.full((3, backbone.n_tokens), -torch.inf, dtype=torch.float64).scatter(1, index, 0.0)
    # What an absent token holds must not matter at all.
    loud = torch.where(bias.isinf()[..., None], 1e3 * tokens.patches, tokens.patches).requires_grad_()
    masked = backbone.encode(tokens.prefix, Selection(loud, bias.exp(), key_bias=bias))
    gathered = backbone.encode(tokens.prefix, kept(tokens, index))
    assert (masked - gathered).abs().max() <= 1e-12 * gathered.abs().max()
    (gradient,) = torch.autograd.grad(masked.square().sum(), loud)
    assert (gradient[bias.isinf()] == 0).all()


@pytest.mark.parametrize("kind", ["deit", "registers, average", "map"])
def test_attention_with_hard_weights_is_gather(kind):
    model = vit(kind)
    backbone = Backbone.of(model, 1)
    tokens = backbone.embed(images_for(model))
    weights = torch.zeros(3, backbone.n_tokens, dtype=torch.float64)
    weights.scatter_(1, torch.tensor([[0, 3, 5], [1, 2, 15], [4, 9, 11]]), 1.0)
    noise = Noise(0, range(3))
    masked, gathered = (
        backbone.encode(tokens.prefix, throttle(tokens.patches, weights, 3, noise))
        for throttle in (Attention(), Gather())
    )
    assert (masked - gathered).abs().max() <= 1e-12 * gathered.abs().max()


@pytest.mark.parametrize("kind", MASKED)
def test_bias_of_log_two_is_a_token_that_is_there_twice(kind):
    model = vit(kind)
    backbone = Backbone.of(model, 1)
    tokens = backbone.embed(images_for(model))
    times = torch.tensor([1, 2, 3, 1])
    index = torch.tensor([2, 5, 7, 8])
    bias = times.double().log().expand(3, -1)
    weighted = backbone.encode(tokens.prefix, Selection(tokens.patches[:, index], bias.exp(), key_bias=bias))
    repeated = backbone.encode(tokens.prefix, kept(tokens, index.repeat_interleave(times).expand(3, -1)))
    assert (weighted - repeated).abs().max() <= 1e-12 * repeated.abs().max()


@pytest.mark.parametrize("kind", UNWEIGHTED)
def test_bias_without_a_weighted_pooling_is_refused(kind):
    model = vit(kind)
    backbone = Backbone.of(model)
    tokens = backbone.embed(images_for(model))
    bias = torch.zeros(3, backbone.n_tokens)
    with pytest.raises(UsageError, match=rf"pools by '{kind}'.*gather, zero"):
        backbone.encode(tokens.prefix, Selection(tokens.patches, bias.exp(), key_bias=bias))


def test_bias_without_a_mask_in_the_blocks_is_refused():
    class Maskless(nn.Module):
        def forward(self, x):
            return x

    model = vit("deit")
    model.blocks[2] = Maskless()
    tokens = Backbone.of(model).embed(images_for(model))
    with pytest.raises(UsageError, match=r"Maskless .* takes no attention mask"):
        Backbone.of(model).encode(
            tokens.prefix, Selection(tokens.patches, torch.ones(3, 16), key_bias=torch.zeros(3, 16))
        )


@pytest.mark.parametrize("kind", ["deit", "deit3", "registers, average", "map", "average with prefix", "differential"])
def test_gradients_are_those_of_finite_differences(kind):
    model = vit(kind, embed_dim=8, depth=2)
    backbone = Backbone.of(model, 1)
    tokens = backbone.embed(images_for(model, 1))
    rng = torch.Generator().manual_seed(2)
    some = tokens.patches[:, :4].clone().requires_grad_()
    bias = torch.randn(1, 4, generator=rng, dtype=torch.float64).requires_grad_()

    def logits(x, b):
        return backbone.encode(tokens.prefix, Selection(x, torch.ones(1, 4), key_bias=b))

    assert torch.autograd.gradcheck(logits, (some, bias))
    assert torch.autograd.gradcheck(lambda x: backbone.encode(tokens.prefix, Selection(x, torch.ones(1, 4))), some)


def test_the_model_is_left_as_found():
    model = vit("deit", drop_path_rate=0.5, proj_drop_rate=0.5, attn_drop_rate=0.5).train()
    model.blocks[1].eval()
    model.norm.weight.requires_grad_(False)
    modes = [module.training for module in model.modules()]
    flags = [parameter.requires_grad for parameter in model.parameters()]
    before, random = digest(model), torch.get_rng_state()
    backbone = Backbone.of(model, 1)
    images = images_for(model)

    tokens = backbone.embed(images)
    leaf = tokens.patches.clone().requires_grad_()
    logits = backbone.encode(tokens.prefix, Selection(leaf, torch.ones(3, 16)))
    assert torch.equal(logits, backbone.full(images))  # without dropout, though the model is in training
    logits.square().sum().backward()
    assert leaf.grad.abs().max() > 0
    with pytest.raises(RuntimeError):
        backbone.encode(tokens.prefix, Selection(leaf[..., :5], torch.ones(3, 16)))
    with pytest.raises(RuntimeError), frozen(model):
        assert not any(module.training for module in model.modules())
        assert not any(parameter.requires_grad for parameter in model.parameters())
        raise RuntimeError

    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert all(parameter.grad is None for parameter in model.parameters())
    assert digest(model) == before
    assert torch.equal(torch.get_rng_state(), random)


def test_normalisation_statistics_are_not_updated():
    model = vit("deit")
    model.patch_embed.norm = nn.Sequential(nn.BatchNorm1d(16).double())
    model.train()
    before = digest(model)
    tokens = Backbone.of(model, 1).embed(images_for(model))
    Backbone.of(model, 1).encode(tokens.prefix, everything(tokens))
    assert digest(model) == before


def test_second_derivatives_of_a_users_model():
    model = vit("deit", embed_dim=8, depth=2)
    tokens = Backbone.of(model).embed(images_for(model, 1))
    some = tokens.patches[:, :3].clone().requires_grad_()
    bias = torch.zeros(1, 3, dtype=torch.float64)

    def squared(x):
        return Backbone.of(model).encode(tokens.prefix, Selection(x, bias.exp(), key_bias=bias)).square().sum()

    def brute(x):
        h = model.blocks(torch.cat([tokens.prefix, x], 1))
        return model.forward_head(model.norm(h)).square().sum()

    direction = torch.randn(some.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    products = []
    for function in (squared, brute):
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            (slope,) = torch.autograd.grad(function(some), some, create_graph=True)
            products.append(torch.autograd.grad((slope * direction).sum(), some)[0])
    assert (products[0] - products[1]).abs().max() <= 1e-12 * products[1].abs().max()


def test_bfloat16_is_autocast_with_float32_results():
    model = vit("deit").float()
    images = images_for(model)
    plain, cast = Backbone.of(model, 1), Backbone.of(model, 1, autocast=True)
    tokens = cast.embed(images)
    assert tokens.patches.dtype == torch.float32
    logits = cast.encode(tokens.prefix, everything(tokens))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(logits, model(images.float()).float())
    exact = plain.full(images)
    error = (logits - exact).abs().max() / exact.abs().max()
    assert logits.dtype == torch.float32
    assert 0 < error < 0.05
    leaf, bias = tokens.patches.clone().requires_grad_(), torch.zeros(3, 16).requires_grad_()
    biased = cast.encode(tokens.prefix, Selection(leaf, bias.exp(), key_bias=bias))
    assert (biased - logits).abs().max() / exact.abs().max() < 0.05
    gradients = torch.autograd.grad(biased.sum(), [leaf, bias])
    assert all(g.dtype == torch.float32 and g.isfinite().all() and g.abs().max() > 0 for g in gradients)
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_images_of_another_size_are_refused():
    for kind in ("deit", "dynamic size", "convolutional stem"):
        with pytest.raises(UsageError, match=r"takes \(B, 3, "):
            Backbone.of(vit(kind)).embed(torch.zeros(2, 3, 48, 48))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("swin_tiny_patch4_window7_224", "windows or convolutions"),
        ("resnet18", "windows or convolutions"),
        ("eva02_tiny_patch14_224", "rotary positions"),
        ("vit_relpos_small_patch16_224", "relative-position bias"),
        ("beit_base_patch16_224", "relative-position bias"),
        ("samvit_base_patch16", "relative-position bias"),
        ("naflexvit_base_patch16_gap", "not known to take any set"),
    ],
)
def test_models_that_cannot_be_split_are_refused_with_the_reason(name, reason):
    for weights in ("none", None):  # None: before anything is fetched
        with pytest.raises(UsageError, match=rf"{name} is a .* cannot be split: .*{reason}"):
            load_backbone(name, weights)


def test_changed_transformers_are_refused():
    class Own(VisionTransformer):
        def forward_head(self, x, pre_logits=False):
            return x

    with pytest.raises(UsageError, match="mine cannot be split: Own has its own forward_head"):
        Backbone.of(Own(img_size=64, **TINY), name="mine")
    with pytest.raises(UsageError, match="does not pool"):
        Backbone.of(vit("deit", global_pool=""))
    with pytest.raises(UsageError, match=r"--layer 4 is not possible: .* has 3 blocks"):
        Backbone.of(vit("deit"), 4)
    for layer in (-1, True, "1"):
        with pytest.raises(UsageError, match=f"--layer {layer!r} is not possible"):
            Backbone.of(vit("deit"), layer)
    assert Backbone.of(vit("deit"), np.int64(2)).layer == 2


def test_a_frozen_model_that_is_put_in_training_mode_is_frozen_again_by_the_next_call():
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(2, 2))
    with frozen(model), frozen(model):
        model.train()
        with frozen(model):
            assert not any(module.training for module in model.modules())
        assert all(module.training for module in model.modules())
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
