"""Backbones from names and files: weights, the hub, and what is said when they do not fit."""

import time

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from vits import digest, everything

from gradprobe.data.fingerprints import weights_fingerprint
from gradprobe.errors import GradprobeError, Notice, UsageError
from gradprobe.models import loading
from gradprobe.models.loading import load_backbone


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
    if wrapping in ("safetensors", "plain"):
        loaded = load_backbone("test_vit", str(path)).model
    else:
        with pytest.warns(Notice, match=f"taken from {'state_dict' if wrapping == 'module' else wrapping}"):
            loaded = load_backbone("test_vit", str(path)).model
    for name, value in loaded.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, state[name].float())


def test_a_files_classifier_decides_the_number_of_classes(tmp_path):
    torch.save(timm.create_model("test_vit", num_classes=4).state_dict(), tmp_path / "w.pt")
    assert load_backbone("test_vit", str(tmp_path / "w.pt")).model.num_classes == 4


def run_me():
    raise AssertionError("code in a weights file ran")


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
    torch.save({**good, "hook": run_me}, tmp_path / "code.pth")
    cases = {
        "gone.pth": (UsageError, "does not exist"),
        ".": (UsageError, "is a folder"),
        "renamed.pth": (
            UsageError,
            r"another model than test_vit: 1 of its \d+ tensors and 1 of the file's .*first norm.bias is missing",
        ),
        "other.pth": (
            UsageError,
            r"another model than test_vit: .* first cls_token is \(1, 1, 32\) and must be \(1, 1, 64\)",
        ),
        "empty.pth": (UsageError, "holds no weights"),
        "cut.pth": (GradprobeError, "not a readable"),
        "cut.safetensors": (GradprobeError, "not a readable"),
        "nothing.pth": (GradprobeError, "not a readable"),
        "code.pth": (
            GradprobeError,
            r"holds a pickled test_loading.run_me, .*model.state_dict\(\)",
        ),  # pickled code is never run
    }
    for file, (kind, message) in cases.items():
        with pytest.raises(kind, match=message) as caught:
            load_backbone("test_vit", str(tmp_path / file))
        assert type(caught.value) is kind
        assert "\n" not in str(caught.value)


def test_unknown_names_offer_the_nearest():
    with pytest.raises(UsageError, match="no backbone is called 'senes'; did you mean scenes"):
        load_backbone("senes")
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
    monkeypatch.setattr(loading.timm, "create_model", failing)
    with pytest.raises(GradprobeError, match=r"did not deliver the weights of test_vit \(disk full really\)"):
        load_backbone("test_vit")


def test_scenes_is_a_backbone():
    from gradprobe.embedded.scenes_model import WEIGHTS

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
