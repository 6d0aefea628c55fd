"""Weights as training scripts leave them: wrappings, prefixes, leftovers, other image sizes and numbers of classes."""

import argparse
import datetime
import pathlib
import random
import types
import warnings
from collections import OrderedDict, defaultdict

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch.optim.swa_utils import AveragedModel
from vits import everything

from gradprobe.errors import GradprobeError, Notice, UsageError
from gradprobe.models.loading import load_backbone
from gradprobe.models.vit_weights import size_of
from gradprobe.models.weights import read_weights

NAME, KEY = "deit_tiny_patch16_224", "blocks.0.attn.qkv.weight"
SMALL = {"depth": 1, "embed_dim": 24, "num_heads": 2}


@pytest.fixture(scope="module")
def raw():
    return timm.create_model("test_vit", img_size=32, num_classes=5).state_dict()


@pytest.fixture(scope="module")
def ema(raw):
    return {name: value + 0.5 for name, value in raw.items()}


def prefixed(prefix, state):
    return OrderedDict((prefix + name, value) for name, value in state.items())


def taken(folder, content, **options):
    """The backbone's state_dict from a file of this content, and the notice that came with it."""
    torch.save(content, folder / "w.pth")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        state = load_backbone("test_vit", str(folder / "w.pth"), **options).model.state_dict()
    assert all(w.category is Notice for w in caught)
    return state, " ".join(str(w.message) for w in caught)


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def leftovers():
    """Contents of real training checkpoints beside tensors."""
    optimiser = torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))], amsgrad=True)
    optimiser.param_groups[0]["params"][0].grad = torch.ones(2)
    optimiser.step()
    return {
        "args": argparse.Namespace(
            lr=np.float64(1e-3), steps=np.int64(7), output_dir=pathlib.Path("runs"), nested=argparse.Namespace(a=1)
        ),
        "config": types.SimpleNamespace(a=[1, {2}], b=frozenset({3}), c=slice(1, 2), d=range(3), e=1j),
        "metric": np.float32(0.7),
        "flag": np.bool_(True),
        "curve": np.arange(3.0),
        "names": np.array(["a", "b"]),
        "counts": defaultdict(list, {"x": [1]}),
        "date": datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC) - datetime.timedelta(1),
        "rng": {"numpy": np.random.RandomState(0).get_state(), "python": random.getstate()},
        "torch_version": torch.__version__,
        "optimizer": optimiser.state_dict(),
        "scaler": torch.amp.GradScaler("cpu", enabled=False).state_dict(),
        "callbacks": {"ModelCheckpoint": {"best_k_models": {"/runs/epoch=1.ckpt": torch.tensor(0.3)}}},
        "epoch": 3,
        "dino_loss": {"center": torch.zeros(1, 4)},
    }


def test_of_several_models_timms_order_decides_and_it_is_said(tmp_path, raw, ema):
    cases = [  # content, the container that is taken
        ({"state_dict": raw, "state_dict_ema": ema, "args": argparse.Namespace(lr=1)}, "state_dict_ema"),
        ({"model": raw, "model_ema": ema}, "model_ema"),
        ({"model": raw, "state_dict": ema}, "state_dict"),
        ({"ema": raw, "model": ema}, "model"),
        ({"student": raw, "teacher": ema}, "teacher"),
        ({"net": raw, "model_state_dict": ema}, "model_state_dict"),
        ({"mine": raw, "net": ema}, "net"),
        ({"state_dict": {"student": raw, "teacher": ema}}, "state_dict.teacher"),
        (prefixed("student.backbone.", raw) | prefixed("teacher.backbone.", ema), "teacher"),
        (prefixed("model.", raw) | prefixed("model_ema.module.", ema), "model_ema"),
        ({"state_dict": prefixed("ema_model.", raw) | prefixed("model.", ema)}, "state_dict.model"),
    ]
    for content, key in cases:
        state, notice = taken(tmp_path, content)
        assert same(state, ema), key
        assert f"taken from {key} rather than from" in notice
        assert "--weights-key KEY takes another" in notice


def test_no_copy_that_is_none_is_preferred(tmp_path, raw):
    state, notice = taken(tmp_path, {"state_dict": raw, "state_dict_ema": None})
    assert same(state, raw)
    assert "rather than" not in notice


def test_a_key_takes_another_model_of_the_file(tmp_path, raw, ema):
    cases = [
        ({"state_dict": raw, "state_dict_ema": ema}, "state_dict"),
        ({"model": raw, "state_dict": raw, "state_dict_ema": ema}, "model"),
        ({"mine": {"yours": raw}, "model": ema}, "mine.yours"),
        ({"mine": {"yours": raw}, "model": ema}, "mine"),
        (prefixed("student.", raw) | prefixed("teacher.", ema), "student"),
        ({"state_dict": prefixed("model.", ema) | prefixed("backbone.", raw)}, "state_dict.backbone"),
    ]
    for content, key in cases:
        assert same(taken(tmp_path, content, weights_key=key)[0], raw), key
    with pytest.raises(UsageError, match=r"no weights under 'modle'; did you mean 'model'.*Known: mine.yours, model"):
        taken(tmp_path, cases[2][0], weights_key="modle")
    with pytest.raises(UsageError, match="leave --weights-key out"):
        taken(tmp_path, raw, weights_key="model")
    with pytest.raises(UsageError, match="--weights-key model needs a file"):
        load_backbone("test_vit", "none", weights_key="model")


@pytest.mark.parametrize(
    "prefix",
    [
        "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.", "backbone.", "model.backbone.",
        "module.model._orig_mod.", "net.", "model.model.",
    ],
)  # fmt: skip
@pytest.mark.parametrize("container", [None, "state_dict", "model"])
def test_prefixes_of_wrappers_are_cut_off_and_it_is_said(tmp_path, raw, prefix, container):
    content = prefixed(prefix, raw)
    state, notice = taken(tmp_path, content if container is None else {container: content, "epoch": 1})
    assert same(state, raw)
    assert f"prefix {prefix} cut off" in notice
    save_file(content, tmp_path / "w.safetensors")
    with pytest.warns(Notice, match="cut off"):
        assert same(load_backbone("test_vit", tmp_path / "w.safetensors").model.state_dict(), raw)


def test_plain_weights_are_loaded_without_a_word(tmp_path, raw):
    state, notice = taken(tmp_path, raw)
    assert same(state, raw)
    assert notice == ""


def test_an_averaged_models_counter_and_a_lightning_modules_criterion_are_left_out(tmp_path, raw):
    model = timm.create_model("test_vit", img_size=32, num_classes=5)
    model.load_state_dict(raw)
    state, notice = taken(tmp_path, AveragedModel(model).state_dict())
    assert same(state, raw)
    assert "n_averaged left out" in notice
    lightning = {"state_dict": prefixed("model.", raw) | {"criterion.weight": torch.ones(5)}}
    state, notice = taken(tmp_path, lightning)
    assert same(state, raw)
    assert "criterion.weight left out" in notice


def test_a_head_beside_a_backbone_belongs_to_it(tmp_path, raw):
    body = {name: value for name, value in raw.items() if not name.startswith("head.")}
    head = {name: value for name, value in raw.items() if name.startswith("head.")}
    assert same(taken(tmp_path, prefixed("backbone.", body) | head)[0], raw)


def test_the_same_module_under_two_names_is_one_and_different_ones_are_two(tmp_path, raw, ema):
    both = prefixed("model.", raw) | prefixed("backbone.", raw)
    assert same(taken(tmp_path, both)[0], raw)
    state, notice = taken(tmp_path, prefixed("backbone.", raw) | prefixed("model.", ema))
    assert same(state, ema)
    assert "taken from model rather than from backbone" in notice


def test_names_of_the_models_own_are_no_prefixes(tmp_path):
    own = {"net.0.weight": torch.ones(2), "model.bias": torch.zeros(1)}
    torch.save(prefixed("module.", own), tmp_path / "w.pth")
    assert read_weights(tmp_path / "w.pth", own).tensors.keys() == own.keys()


@pytest.mark.parametrize("legacy", [False, True])
def test_leftovers_of_training_scripts_are_no_obstacle_and_stay_inert(tmp_path, raw, ema, legacy):
    before = set(torch.serialization.get_safe_globals())
    torch.save(
        {"state_dict": raw, "state_dict_ema": ema, **leftovers()}, tmp_path / "w.pth",
        _use_new_zipfile_serialization=not legacy,
    )  # fmt: skip
    with pytest.warns(Notice, match="taken from state_dict_ema rather than from state_dict;"):
        assert same(load_backbone("test_vit", tmp_path / "w.pth").model.state_dict(), ema)
    assert set(torch.serialization.get_safe_globals()) == before


def test_names_that_a_user_declared_safe_stay_so(tmp_path, raw):
    torch.save({"model": raw, "args": argparse.Namespace()}, tmp_path / "w.pth")
    with torch.serialization.safe_globals([argparse.Namespace]):
        with pytest.warns(Notice):
            load_backbone("test_vit", tmp_path / "w.pth")
        assert argparse.Namespace in torch.serialization.get_safe_globals()


class Hostile:
    def __reduce__(self):
        return exec, ("import pathlib; pathlib.Path('ran').touch()",)


def test_nothing_in_a_file_is_executed(tmp_path, raw, monkeypatch):
    import os

    class System:
        def __reduce__(self):
            return os.system, ("touch ran",)

    class Getattr:  # names that are let pass are not what they say
        def __reduce__(self):
            return getattr, (argparse.Namespace, "mro")

    monkeypatch.chdir(tmp_path)
    for thing, told in ((Hostile(), "exec"), (System(), "system")):
        torch.save({**raw, "x": thing}, "w.pth")
        with pytest.raises(GradprobeError, match=r"holds a pickled|not a readable") as caught:
            load_backbone("test_vit", "w.pth")
        assert told in str(caught.value)
        assert "\n" not in str(caught.value)
    assert same(taken(tmp_path, {**raw, "x": Getattr()})[0], raw)
    torch.save(timm.create_model("test_vit", img_size=32), "w.pth")
    with pytest.raises(GradprobeError, match=r"holds a pickled timm.*model.state_dict\(\)"):
        load_backbone("test_vit", "w.pth")
    assert not (tmp_path / "ran").exists()


def test_files_that_contain_themselves_or_no_weights_end(tmp_path, raw):
    loop: dict = {"epoch": 1, "optimizer": {"state": {0: {"exp_avg": torch.ones(1)}}}}
    loop["self"] = loop
    with pytest.raises(UsageError, match="holds no weights"):
        taken(tmp_path, loop)
    loop["model"] = raw
    assert same(taken(tmp_path, loop)[0], raw)


def test_an_adapter_is_told_to_be_merged(tmp_path, raw):
    adapter = prefixed("base_model.model.", {"blocks.0.attn.qkv.lora_A.default.weight": torch.ones(2, 2), **raw})
    with pytest.raises(UsageError, match="merge_and_unload"):
        taken(tmp_path, adapter)


def test_a_safetensors_file_is_known_by_its_content(tmp_path, raw):
    save_file(raw, tmp_path / "blob")
    assert same(load_backbone("test_vit", tmp_path / "blob").model.state_dict(), raw)


ARCHITECTURES = {  # of every way to put positions on prefix tokens
    "class token": "deit_tiny_patch16_224",
    "distilled": "deit_tiny_distilled_patch16_224",
    "class token without position": "deit3_small_patch16_224",
    "patch 14": "vit_small_patch14_dinov2",
    "registers without position": "vit_small_patch14_reg4_dinov2",
    "no class token": "vit_base_patch16_gap_224",
    "map": "vit_base_patch16_siglip_224",
    "rectangular default": "vit_medium_patch16_rope_reg1_gap_256",
}


@pytest.mark.parametrize("name", list(ARCHITECTURES.values())[:-1], ids=list(ARCHITECTURES)[:-1])
def test_image_size_and_classes_are_those_of_the_weights(tmp_path, monkeypatch, name):
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, **more: create(name, **{**SMALL, **more}))
    patch = 14 if "patch14" in name else 16
    model = create(name, **SMALL, img_size=3 * patch, num_classes=7).eval()
    torch.save(model.state_dict(), tmp_path / "w.pth")
    backbone = load_backbone(name, tmp_path / "w.pth")
    assert backbone.n_tokens == 9
    assert backbone.model.num_classes == 7
    images = torch.randn(2, 3, 3 * patch, 3 * patch, generator=torch.Generator().manual_seed(0))
    tokens = backbone.embed(images)
    assert torch.equal(backbone.encode(tokens.prefix, everything(tokens)), model(images))


def test_another_image_size_resamples_positions_as_timm_does(tmp_path, raw):
    torch.save(raw, tmp_path / "w.pth")
    for size, given in (((64, 64), 64), ((64, 32), "64x32")):
        with pytest.warns(Notice, match=rf"position embedding resampled .*{size[0] // 16} x {size[1] // 16} patches"):
            found = load_backbone("test_vit", tmp_path / "w.pth", image_size=given)
        model = timm.create_model("test_vit", img_size=32, num_classes=5)
        model.load_state_dict(raw)
        model.set_input_size(img_size=size)
        assert torch.allclose(found.model.pos_embed, model.pos_embed, atol=1e-6)
        assert found.model.patch_embed.img_size == size


def test_a_rectangle_of_patches_has_to_be_said(tmp_path):
    model = timm.create_model("test_vit", img_size=(32, 96), num_classes=5)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    with pytest.raises(UsageError, match=r"has 12 patches, which is no square; .* --image-size HEIGHTxWIDTH"):
        load_backbone("test_vit", tmp_path / "w.pth")
    backbone = load_backbone("test_vit", tmp_path / "w.pth", image_size="32x96")
    assert same(backbone.model.state_dict(), model.state_dict())


def test_impossible_image_sizes_are_refused_at_once():
    assert (size_of(None), size_of((32, 64)), size_of("48")) == (None, (32, 64), (48, 48))
    for size in (0, -3, "axb", "32x", "1e3", 10**9, "99999999x99999999", "32x32x32", 22.5, "٣٢"):
        with pytest.raises(UsageError, match=r"--image-size .* is not possible"):
            load_backbone("test_vit", "none", image_size=size)
    with pytest.raises(UsageError, match="50x40 does not divide into patches; the nearest is --image-size 48x32"):
        load_backbone("test_vit", "none", image_size="50x40")
    with pytest.raises(UsageError, match="not possible with --backbone scenes, whose images have 112 x 112"):
        load_backbone("scenes", image_size=224)


def test_patches_of_another_size_are_another_model(tmp_path):
    torch.save(timm.create_model("test_vit", img_size=32, patch_size=8).state_dict(), tmp_path / "w.pth")
    with pytest.raises(UsageError, match=r"of another model than test_vit: patch_embed.proj.weight is \(64, 3, 8, 8\)"):
        load_backbone("test_vit", tmp_path / "w.pth")


def test_a_model_without_classifier_gives_features_and_is_no_classification(tmp_path, raw):
    from gradprobe.tasks import classification

    torch.save({name: value for name, value in raw.items() if not name.startswith("head.")}, tmp_path / "w.pth")
    assert load_backbone("test_vit", tmp_path / "w.pth").model.num_classes == 0
    with pytest.raises(UsageError, match=r"has no classifier \(head.weight\)"):
        classification("test_vit", weights=str(tmp_path / "w.pth"), data=str(tmp_path))


@pytest.mark.real
def test_the_second_real_model_classifies_imagenette(assets):
    backbone = load_backbone("vit_small_patch14_dinov2", assets / "vit_small_patch14_saliency" / "model.safetensors")
    assert (backbone.n_tokens, backbone.model.num_classes) == (256, 10)
    folder = backbone.open_images(assets / "imagenette" / "val")
    right = 0
    for start in range(0, 400, 50):
        images = folder.take(range(400), start, 50)
        right += int((backbone.full(images.images).argmax(1) == images.labels).sum())
    assert right / 400 == 0.8775
