"""A task on a model that the caller hands over: numbers as by name, a fingerprint of contents, left as found."""

import subprocess
import sys
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
        timm.create_model("deit_tiny_patch16_224", img_size=48, depth=2, num_classes=3),
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


@pytest.mark.parametrize(
    ("given", "options", "words"),
    [
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
