"""Trained scorer from its file, and a model that runs on the K tokens it keeps."""

import json
import shutil

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save
from stored import result
from toy import Toy
from vits import digest

from gradprobe.data.image_source import SceneSource
from gradprobe.embedded.scenes_model import load_scenes_model
from gradprobe.errors import GradprobeError, UsageError
from gradprobe.models.deploy import prune
from gradprobe.models.scorer_file import Scorer, load_scorer, save_scorer
from gradprobe.models.scorers import MLP, Transformer
from gradprobe.operators.registry import build, label
from gradprobe.probes.retention.measure import retention
from gradprobe.store.results import Store
from gradprobe.tasks import classification
from gradprobe.training.train import Recipe

ABOUT = {"scorer": "mlp:width=7", "backbone": "deit", "layer": 1, "k": 3, "op": "lapsum+vpnoise"}


def saved(folder, network=None, dim=16, **about):
    return save_scorer(network or MLP(width=7).make(16, 3), folder, {**ABOUT, "dim": dim, **about})


def small(**settings):
    return timm.create_model("deit_tiny_patch16_224", img_size=64, depth=3, **settings)


# --- files ---


@pytest.mark.parametrize("made", [MLP(width=7), Transformer(depth=1, heads=2)], ids=["mlp", "transformer"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_was_saved_is_loaded(tmp_path, made, dtype):
    scorer = made.make(16, 3).to(dtype)
    path = saved(tmp_path / "new" / "folder", scorer, scorer=label(made))
    patches = torch.randn(2, 9, 16, dtype=dtype)
    for where in (path, path.parent):
        loaded = load_scorer(where)
        assert isinstance(loaded, Scorer) and not loaded.training
        assert torch.equal(loaded(patches), scorer(patches))
        assert not any(p.requires_grad for p in loaded.parameters())
    assert loaded.metadata == {**ABOUT, "scorer": label(made), "dim": 16}


def test_the_bytes_of_a_retention_of_before_are_those_of_today_and_load(tmp_path):
    network = MLP(width=7).make(16, 3)
    (tmp_path / "scorer.safetensors").write_bytes(save({n: v.contiguous() for n, v in network.state_dict().items()}))
    (tmp_path / "scorer.json").write_text(json.dumps({**ABOUT, "dim": 16}, indent=2, sort_keys=True) + "\n")
    patches = torch.randn(2, 9, 16)
    assert torch.equal(load_scorer(tmp_path)(patches), network(patches))
    saved(tmp_path / "today", network)
    for name in ("scorer.safetensors", "scorer.json"):
        assert (tmp_path / "today" / name).read_bytes() == (tmp_path / name).read_bytes()


def test_a_stored_result_holds_the_scorer_that_was_kept_with_it(tmp_path):
    network, patches = MLP(width=7).make(16, 3), torch.randn(2, 9, 16)
    path = Store(tmp_path / "runs").save(result(), keep=saved(tmp_path / "keep", network).parent)
    loaded = load_scorer(path)
    assert torch.equal(loaded(patches), network(patches)) and loaded.metadata == {**ABOUT, "dim": 16}


def test_a_missing_scorer_is_one_line_that_says_what_to_type(tmp_path):
    without = Store(tmp_path / "runs").save(result())
    for where in (tmp_path, tmp_path / "gone", tmp_path / "gone.safetensors", tmp_path / "gone.npz", without):
        with pytest.raises(UsageError, match=r"there is no scorer at .*gradprobe retention"):
            load_scorer(where)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "scorer.safetensors").write_bytes(b"no tensors"),
        lambda folder: (folder / "scorer.safetensors").write_bytes(b""),
        lambda folder: (folder / "scorer.json").unlink(),
        lambda folder: (folder / "scorer.json").write_text("{"),
        lambda folder: (folder / "scorer.json").write_text("[]"),
        lambda folder: (folder / "scorer.json").write_text(json.dumps({"dim": 16})),
        lambda folder: (folder / "scorer.json").write_text(json.dumps(ABOUT | {"dim": 17})),
        lambda folder: (folder / "scorer.json").write_text(json.dumps(ABOUT | {"dim": 16, "scorer": "mlp:width=8"})),
    ],
)
def test_broken_files_are_one_line(tmp_path, damage):
    saved(tmp_path)
    damage(tmp_path)
    with pytest.raises(GradprobeError, match=r"no scorer that can be read \(.+\); train it again") as caught:
        load_scorer(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(GradprobeError, match=r"cannot write to .*; name another folder"):
        saved(tmp_path / "file")


# --- pruning ---


def test_later_blocks_see_k_tokens_and_earlier_ones_all():
    model, lengths = small(), []
    for block in model.blocks:
        block.register_forward_pre_hook(lambda module, inputs: lengths.append(inputs[0].shape[1]))
    pruned = prune(model, MLP(width=7).make(192, 0), 5, layer=1)
    logits = pruned(torch.randn(2, 3, 64, 64))
    assert lengths == [17, 6, 6] and logits.shape == (2, 1000)


def test_all_tokens_are_the_models_own_output_and_any_k_is_the_best_k():
    model, images = small().eval(), torch.randn(3, 3, 64, 64)
    scorer = MLP(width=7).make(192, 0)
    assert torch.equal(prune(model, scorer, 16)(images), model(images))
    pruned = prune(model, scorer, 4)
    scores = scorer(pruned.backbone.embed(images).patches)
    assert torch.equal(pruned.kept(images), scores.topk(4).indices.sort(-1).values)


def test_the_model_and_the_scorer_are_left_as_they_were():
    model, scorer = small(drop_path_rate=0.5).train(), MLP(width=7).make(192, 0)
    model.cls_token.requires_grad_(False)
    flags = [p.requires_grad for p in model.parameters()]
    before, rng = (digest(model), digest(scorer)), torch.get_rng_state()
    out = prune(model, scorer, 4)(torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    assert (digest(model), digest(scorer)) == before and torch.equal(rng, torch.get_rng_state())
    assert [p.requires_grad for p in model.parameters()] == flags and model.training and model.blocks[0].training
    assert not out.requires_grad and all(p.grad is None for p in model.parameters())


def test_a_loaded_scorer_knows_its_layer_and_its_width(tmp_path):
    scorer = load_scorer(saved(tmp_path, MLP(width=7).make(192, 0), dim=192))
    assert prune(small(), scorer, 3).backbone.layer == 1
    assert prune(small(), scorer, 3, layer=2).backbone.layer == 2
    narrow = load_scorer(saved(tmp_path / "narrow"))
    with pytest.raises(UsageError, match=r"width 16 \(it was trained on deit\), the VisionTransformer has width 192"):
        prune(small(), narrow, 3)


@pytest.mark.parametrize(
    "k, reason",
    [(0, "asks for 0 of 16 tokens"), (17, "asks for 17 of 16 tokens"), (2.5, "is not possible; give a whole number")],
)
def test_an_impossible_k_is_one_line(k, reason):
    with pytest.raises(UsageError, match=f"k={k} {reason}"):
        prune(small(), MLP(width=7).make(192, 0), k)


def test_a_k_of_numpy_is_a_k():
    assert type(prune(small(), MLP(width=7).make(192, 0), np.int64(3)).k) is int


def test_a_model_that_cannot_be_split_is_one_line():
    with pytest.raises(UsageError, match="ResNet and cannot be split"):
        prune(timm.create_model("test_resnet"), MLP(width=7).make(192, 0), 3)


# --- what is deployed is what was measured ---


def test_on_scenes_the_pruned_model_is_right_where_the_probe_says(tmp_path):
    task = classification("scenes", scorer="mlp:width=64", seed=1)
    recipe = Recipe(steps=2, batch_size=8, seed=1)
    result = retention(task, build("vpnoise"), 10, recipe=recipe, images=24, folder=tmp_path)
    moved = shutil.copytree(tmp_path / "keep", tmp_path / "elsewhere")
    model = load_scenes_model()
    lengths = []
    model.blocks[0].register_forward_pre_hook(lambda module, inputs: lengths.append(inputs[0].shape[1]))
    pruned = prune(model, load_scorer(moved), k=10)
    images = SceneSource().probe(0, 24, 1)
    logits = torch.cat([pruned(part) for part in images.images.split(8)])
    right = logits.argmax(-1) == images.labels
    assert right.tolist() == result.correct.astype(bool).tolist()
    assert set(lengths) == {11} and 0 < right.sum() < 24


def test_a_toy_scorer_is_kept_beside_its_result(tmp_path):
    retention(Toy(), build("vpnoise"), 3, recipe=Recipe(steps=1, batch_size=4), images=8, folder=tmp_path)
    assert sorted(p.name for p in (tmp_path / "keep").iterdir()) == ["scorer.json", "scorer.safetensors"]
    about = json.loads((tmp_path / "keep" / "scorer.json").read_text())
    assert about["dim"] == 5 and about["k"] == 3 and about["op"] == "lapsum+vpnoise"
