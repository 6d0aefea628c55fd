"""A task on a model that the caller hands over: numbers as by name, a fingerprint of contents, left as found."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import gradprobe as gp
from gradprobe.models.own_models import state_fingerprint
from gradprobe.probes.opened import OpenTasks

SMALL = {"batches": 3, "batch_size": 2, "k": 2}


def model(seed=0, **settings):
    torch.manual_seed(seed)
    return timm.create_model("deit_tiny_patch16_224", img_size=32, depth=2, num_classes=3, **settings)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three classes of four noisy pictures, and the same without folders."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    (folder / "flat").mkdir()
    for kind in "abc":
        (folder / "classes" / kind).mkdir(parents=True)
        for i in range(4):
            picture = Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8))
            picture.save(folder / "classes" / kind / f"{i}.png")
            picture.save(folder / "flat" / f"{kind}{i}.png")
    return folder


@pytest.mark.parametrize("layer", [0, 1])
def test_a_model_and_its_backbone_give_the_same_gradients_and_come_back_as_they_were(photos, layer):
    own = model().train()
    before = {name: value.clone() for name, value in own.state_dict().items()}
    results = [
        gp.coherence(gp.classification(each, data=str(photos / "classes"), layer=layer), "vpnoise", **SMALL)
        for each in (own, gp.Backbone.of(own, layer, "deit_tiny_patch16_224"))
    ]
    assert results[0].question == results[1].question
    assert np.array_equal(results[0].gram, results[1].gram)
    assert results[0].question["backbone"] == "deit_tiny_patch16_224"
    assert results[0].question["layer"] == layer
    assert own.training
    assert all(parameter.requires_grad for parameter in own.parameters())
    assert all(torch.equal(before[name], value) for name, value in own.state_dict().items())


@pytest.mark.real
def test_a_model_handed_over_is_measured_as_the_same_model_by_name(assets, tmp_path):
    named = gp.Backbone.of(timm.create_model("deit_tiny_patch16_224", num_classes=1000))
    torch.manual_seed(0)
    save_file(named.model.state_dict(), tmp_path / "weights.safetensors")
    data = next(str(each) for each in sorted(assets.rglob("*")) if each.is_dir() and any(each.glob("*.JPEG")))
    options = {"data": data, "loss": "kl"}
    by_name = gp.classification("deit_tiny_patch16_224", weights=str(tmp_path / "weights.safetensors"), **options)
    own = gp.classification(named.model, **options)
    first, second = (gp.coherence(task, "vpnoise", k=58, batches=3, batch_size=2) for task in (by_name, own))
    assert np.array_equal(first.gram, second.gram)


def test_without_labels_the_distance_to_the_unpruned_output_is_measured(photos):
    task = gp.classification(model(), data=str(photos / "flat"), loss="kl")
    assert gp.coherence(task, "vpnoise", **SMALL).losses.min() > 0
    with pytest.raises(gp.UsageError, match="use --loss kl"):
        gp.classification(model(), data=str(photos / "flat"))


@pytest.mark.parametrize(("dtype", "asked"), [("float32", {}), ("float64", {}), ("bfloat16", {"dtype": "bfloat16"})])
def test_the_precision_is_the_models_own(photos, dtype, asked):
    own = model().double() if dtype == "float64" else model()
    task = gp.classification(own, data=str(photos / "flat"), loss="kl", **asked)
    assert task.question["dtype"] == dtype
    assert next(task.scorer.parameters()).dtype == next(own.parameters()).dtype
    assert np.isfinite(gp.coherence(task, "vpnoise", **SMALL).gram).all()


def test_the_fingerprint_is_of_the_contents_and_follows_them(photos):
    own = model()
    task = gp.classification(own, data=str(photos / "flat"), loss="kl")
    before = task.question["weights"]
    assert before == state_fingerprint(model()) == state_fingerprint(own.train())
    assert before.startswith("state:")
    others = [
        model(seed=1), model().double(), model(global_pool="avg"), model(num_heads=1),
        timm.create_model("deit_tiny_patch16_224", img_size=48, depth=2, num_classes=3), model(act_layer=nn.ReLU),
        model(norm_layer=partial(nn.LayerNorm, eps=1e-3)), model(act_layer=partial(nn.GELU, approximate="tanh")),
    ]  # fmt: skip
    normalised = model()
    normalised.pretrained_cfg = {**normalised.pretrained_cfg, "mean": (0.1, 0.1, 0.1)}
    assert len({before, *map(state_fingerprint, [*others, normalised])}) == len(others) + 2
    own.blocks[1].mlp.fc1.bias.data[3] += 1e-3
    assert task.question["weights"] != before


def test_the_fingerprint_is_the_same_in_another_process():
    source = Path(__file__).read_text(encoding="utf-8")
    code = (
        "import timm, torch\nfrom gradprobe.models.own_models import state_fingerprint\n"
        + source[source.index("def model(") : source.index("@pytest.fixture")]
        + "\nprint(state_fingerprint(model()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == state_fingerprint(model())


def test_a_wrapped_model_is_the_model(photos):
    wrapped = gp.classification(nn.DataParallel(model()), data=str(photos / "flat"), loss="kl")
    plain = gp.classification(model(), data=str(photos / "flat"), loss="kl")
    assert wrapped.question == plain.question


def test_a_stored_question_about_such_a_model_says_that_no_file_holds_it(photos):
    question = gp.coherence(gp.classification(model(), data=str(photos / "classes")), "vpnoise", **SMALL).question
    with pytest.raises(gp.GradprobeError, match=r"a model that Python code handed over \(state:"):
        OpenTasks().task(question, {"data": str(photos / "classes")})


def with_head(head):
    own = model()
    own.head = head
    return own


def hooked(own):
    own.register_forward_pre_hook(lambda module, args: (2 * args[0],))
    return own


def doubled(own):
    plain = own.forward_features
    own.forward_features = lambda x, **options: plain(2 * x, **options)
    return own


@pytest.mark.parametrize("head", [nn.Linear(192, 3), nn.Sequential(nn.LayerNorm(192), nn.Linear(192, 3))])
def test_a_head_put_in_the_place_of_another_decides_the_classes(photos, head):
    own = timm.create_model("deit_tiny_patch16_224", img_size=32, depth=2)  # num_classes goes on saying 1000
    own.head = head
    task = gp.classification(own, data=str(photos / "classes"))
    assert sorted(task.source.folder.labels) == [0] * 4 + [1] * 4 + [2] * 4
    assert gp.equivalence(task, "hard", k=2, images=12).ranks.max() <= 2


def test_training_images_of_other_classes_are_refused_by_name(photos, tmp_path):
    for kind in "bcd":
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "0.png").write_bytes((photos / "flat" / "a0.png").read_bytes())
    folders = {"data": str(photos / "classes"), "train_data": str(tmp_path)}
    with pytest.raises(gp.UsageError, match="class 0 is a in --data and b in --train-data; give both the same class"):
        gp.classification(model(), **folders)
    gp.classification(model(), **folders, loss="kl")
    (tmp_path / "d").rename(tmp_path / "a")
    assert gp.classification(model(), **folders).source.training.labels == (0, 1, 2)


def test_hooks_that_only_look_on_are_no_reason_to_refuse_a_model(photos):
    own, seen = model(), []
    own.register_forward_hook(lambda module, args, output: seen.append(output.shape))
    gp.classification(own, data=str(photos / "classes"))
    gp.prune(own, nn.Sequential(nn.Linear(192, 1), nn.Flatten(1)), k=2)
    assert seen


@pytest.mark.parametrize("change", [hooked, doubled])
def test_a_model_whose_output_is_changed_from_outside_is_not_deployed_without_it(change):
    with pytest.raises(gp.UsageError, match="remove the hooks and methods that were put on it"):
        gp.prune(change(model()), nn.Sequential(nn.Linear(192, 1), nn.Flatten(1)), k=2)


@pytest.mark.parametrize(
    ("given", "options", "words"),
    [
        (with_head(nn.Linear(192, 2)), {}, "the model has 2 classes, not 3"),
        (with_head(nn.Identity()), {}, "has no classifier"),
        (hooked(model()), {}, "called as a whole it gives another output than its patches, blocks and head in turn"),
        (doubled(model()), {}, "called as a whole it gives another output than its patches, blocks and head in turn"),
        (42, {}, "backbone=42 is no model; give a name, a timm VisionTransformer or a gp.Backbone"),
        (nn.Linear(2, 2), {}, "Linear is a Linear and cannot be split"),
        (model(), {"data": None}, r"needs images; give data='photos/' \(with loss='kl' where there are no labels\)"),
        (model(), {"weights": "file.pth"}, "brings its weights"),
        (model(), {"image_size": 64}, "brings its weights"),
        (model(), {"layer": 3}, "has 2 blocks; give --layer 0 to --layer 2"),
        (gp.Backbone.of(model(), 1), {"layer": 2}, "this Backbone is split at layer 1; leave layer=2 out"),
        (model(), {"dtype": "float64"}, r"runs in float32, not float64; give model.to\(torch.float64\)"),
        (model().double(), {"dtype": "bfloat16"}, "not bfloat16"),
        (gp.Backbone.of(model()), {"dtype": "bfloat16"}, r"give Backbone.of\(model, autocast=True\)"),
        (model().half(), {}, "the model is in float16; give model.float()"),
        (model(), {"device": "cuda"}, r"the model is on cpu; move it: model.to\('cuda'\)"),
        (timm.create_model("deit_tiny_patch16_224", num_classes=0), {}, "has no classifier"),
    ],
)
def test_what_cannot_be_used_is_one_line_that_says_what_to_pass(photos, given, options, words):
    with pytest.raises(gp.UsageError, match=words) as caught:
        gp.classification(given, **{"data": str(photos / "classes"), **options})
    assert "\n" not in str(caught.value)
