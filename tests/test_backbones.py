"""The frozen backbone: split bit for bit, masked exactly, left as found; what cannot be is refused in one line."""

import hashlib
import time
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from gradprobe import backbones
from gradprobe.backbones import Backbone, frozen, load_backbone
from gradprobe.core import Noise, Selection, Tokens
from gradprobe.data.fingerprints import weights_fingerprint
from gradprobe.errors import GradprobeError, UsageError
from gradprobe.stem import ConvStem
from gradprobe.throttles.attention import Attention
from gradprobe.throttles.gather import Gather

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


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kind", KINDS)
def test_keeping_all_is_the_model_bit_for_bit(kind, dtype):
    model = vit(kind).to(dtype)
    images = images_for(model).to(dtype)
    with torch.no_grad():
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
        ("test_vit_relpos", "relative-position bias"),
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
    with pytest.raises(UsageError, match="--layer -1"):
        Backbone.of(vit("deit"), -1)


def test_random_weights_come_from_the_seed_alone():
    random = torch.get_rng_state()
    one = load_backbone("test_vit", "none", seed=1)
    assert torch.equal(torch.get_rng_state(), random)
    torch.rand(5)
    again, other = load_backbone("test_vit", "none", seed=1), load_backbone("test_vit", "none", seed=2)
    assert digest(one.model) == digest(again.model) != digest(other.model)
    assert not any(p.requires_grad for p in one.model.parameters())
    assert not any(m.training for m in one.model.modules())


def test_double_precision_is_double_throughout():
    backbone = load_backbone("test_vit", "none", dtype="float64")
    tokens = backbone.embed(torch.zeros(1, 3, 160, 160))
    assert tokens.patches.dtype == torch.float64
    assert backbone.encode(tokens.prefix, everything(tokens)).dtype == torch.float64


@pytest.mark.parametrize("wrapping", ["safetensors", "plain", "model", "state_dict", "module"])
def test_weights_from_a_file(tmp_path, wrapping):
    source = load_backbone("test_vit", "none", seed=5).model
    state = {name: value.half() for name, value in source.state_dict().items()}
    path = tmp_path / ("w.safetensors" if wrapping == "safetensors" else "w.pth")
    if wrapping == "safetensors":
        save_file(state, path)
    elif wrapping == "module":
        torch.save({"epoch": 3, "state_dict": {f"module.{name}": value for name, value in state.items()}}, path)
    else:
        torch.save(state if wrapping == "plain" else {wrapping: state}, path)
    loaded = load_backbone("test_vit", str(path)).model
    for name, value in loaded.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, state[name].float())


def test_a_files_classifier_decides_the_number_of_classes(tmp_path):
    torch.save(timm.create_model("test_vit", num_classes=4).state_dict(), tmp_path / "w.pt")
    assert load_backbone("test_vit", str(tmp_path / "w.pt")).model.num_classes == 4


def test_faulty_weights_are_refused_in_one_line(tmp_path):
    good = load_backbone("test_vit", "none").model.state_dict()
    renamed = {("blocks.9.x" if name == "norm.bias" else name): value for name, value in good.items()}
    torch.save(renamed, tmp_path / "renamed.pth")
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    torch.save(timm.create_model("test_vit", embed_dim=32).state_dict(), tmp_path / "other.pth")
    whole = (tmp_path / "renamed.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "cut.safetensors").write_bytes(b"\x99" * 40)
    (tmp_path / "nothing.pth").write_bytes(b"")
    torch.save({"weights": Path("a")}, tmp_path / "code.pth")
    cases = {
        "gone.pth": (UsageError, "does not exist"),
        ".": (UsageError, "is a folder"),
        "renamed.pth": (UsageError, r"another model than test_vit: 2 of its \d+ tensors .*first norm.bias is missing"),
        "other.pth": (
            UsageError,
            r"another model than test_vit: .* first cls_token is \(1, 1, 32\) and must be \(1, 1, 64\)",
        ),
        "empty.pth": (UsageError, "holds no weights"),
        "cut.pth": (GradprobeError, "not a readable"),
        "cut.safetensors": (GradprobeError, "not a readable"),
        "nothing.pth": (GradprobeError, "not a readable"),
        "code.pth": (GradprobeError, "not a readable"),  # pickled code is never run
    }
    for file, (kind, message) in cases.items():
        with pytest.raises(kind, match=message) as caught:
            load_backbone("test_vit", str(tmp_path / file))
        assert type(caught.value) is kind
        assert "\n" not in str(caught.value)


def test_unknown_names_offer_the_nearest():
    with pytest.raises(UsageError, match="did you mean deit_tiny_patch16_224"):
        load_backbone("deit_tiny_patch16_242", "none")
    with pytest.raises(UsageError, match="no weights 'fb_in2k'; did you mean 'fb_in1k'"):
        load_backbone("deit_tiny_patch16_224.fb_in2k", "none")
    with pytest.raises(UsageError, match="timm has no weights for vit_base_patch16_xp_224"):
        load_backbone("vit_base_patch16_xp_224")
    with pytest.raises(UsageError, match=r"--dtype float16 .* did you mean 'bfloat16'"):
        load_backbone("test_vit", "none", dtype="float16")
    with pytest.raises(UsageError, match="--device hyperspace is not possible"):
        load_backbone("test_vit", "none", device="hyperspace")


def test_without_a_network_the_hub_is_given_up_at_once(monkeypatch, tmp_path):
    import huggingface_hub

    def unreachable():
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub.utils, "get_session", unreachable)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    started, before = time.perf_counter(), huggingface_hub.constants.HF_HUB_OFFLINE
    with pytest.raises(GradprobeError, match=r"not be reached .* --weights FILE, or --weights none") as caught:
        load_backbone("deit_tiny_patch16_224")
    assert time.perf_counter() - started < 10
    assert not isinstance(caught.value, UsageError)
    assert before == huggingface_hub.constants.HF_HUB_OFFLINE


def test_without_a_network_the_hubs_cache_is_used(monkeypatch, tmp_path):
    import huggingface_hub

    def unreachable():
        raise ConnectionError("no network")

    source = load_backbone("test_vit", "none", seed=6).model
    folder = tmp_path / f"models--timm--{weights_fingerprint('test_vit', None, 0).removeprefix('hub:')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    (folder / "snapshots" / ("0" * 40)).mkdir(parents=True)
    save_file(source.state_dict(), folder / "snapshots" / ("0" * 40) / "model.safetensors")
    monkeypatch.setattr(huggingface_hub.utils, "get_session", unreachable)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert digest(load_backbone("test_vit").model) == digest(source)


def test_a_hub_that_answers_but_fails_is_told_apart(monkeypatch):
    import huggingface_hub

    class Session:
        def head(self, url, timeout):
            return None

    create = timm.create_model

    def failing(name, pretrained=False):
        if pretrained:
            raise OSError("disk full\nreally")
        return create(name)

    monkeypatch.setattr(huggingface_hub.utils, "get_session", Session)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(backbones.timm, "create_model", failing)
    with pytest.raises(GradprobeError, match=r"did not give the weights of test_vit \(disk full really\)"):
        load_backbone("test_vit")


def test_scenes_is_a_backbone():
    from gradprobe.embedded import WEIGHTS

    if not WEIGHTS.is_file():
        pytest.skip("the weights of scenes are not made yet: gradprobe train-scenes")
    backbone = load_backbone("scenes", layer=2)
    assert (backbone.n_tokens, backbone.dim) == (196, 128)
    assert weights_fingerprint("scenes", None, 0) == weights_fingerprint("scenes", WEIGHTS, 0)


def test_scenes_with_other_weights(tmp_path):
    backbone = load_backbone("scenes", "none", layer=2, seed=3)
    images = torch.randn(2, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    tokens = backbone.embed(images)
    assert torch.equal(backbone.encode(tokens.prefix, everything(tokens)), backbone.full(images))
    assert digest(backbone.model) == digest(load_backbone("scenes", "none", seed=3).model)
    torch.save(backbone.model.state_dict(), tmp_path / "w.pth")
    assert digest(load_backbone("scenes", tmp_path / "w.pth").model) == digest(backbone.model)
    torch.save(timm.create_model("test_vit").state_dict(), tmp_path / "w.pth")
    with pytest.raises(UsageError, match="of another model than scenes"):
        load_backbone("scenes", tmp_path / "w.pth")


@pytest.mark.real
def test_the_real_deit_tiny_reads_real_images(assets):
    backbone = load_backbone(
        "deit_tiny_patch16_224.fb_in1k", str(assets / "deit_tiny_patch16_224" / "model.safetensors"), layer=4
    )
    folder = backbone.open_images(assets / "imagenet-sample")
    batch = folder.take(folder.order(0), 0, 64)
    tokens = backbone.embed(batch.images)
    with torch.no_grad():
        logits = backbone.encode(tokens.prefix, everything(tokens))
    assert torch.equal(logits, backbone.full(batch.images))
    correct = int((logits.argmax(1) == batch.labels).sum())
    # 0.793 over the 1000 images that these are from: 64 of them lie within three standard deviations.
    assert abs(correct / 64 - 0.793) < 3 * np.sqrt(0.793 * 0.207 / 64)
