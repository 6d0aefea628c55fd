"""Attention within the vision tower: that of the unfused path, and a reason where it cannot be told."""

import numpy as np
import pytest
import torch
from tiny_vlms import made, shared

import gradprobe as gp
from gradprobe.core import Noise
from gradprobe.models.rankings import Selecting, fault_of
from gradprobe.view import Unavailable
from gradprobe.vlm import views
from gradprobe.vlm.model import VLM, open_vlm
from gradprobe.vlm.picture_source import PictureSource
from gradprobe.vlm.views import tower_of, tower_of_examples


@pytest.fixture(scope="module")
def task():
    return gp.vlm.captioning("scenes-vlm", scorer="mlp:width=1")


@pytest.mark.parametrize("query", ["class", "mean"])
@pytest.mark.parametrize("layer", [-1, -2, 1])
def test_it_is_what_the_unfused_path_multiplies_values_with(query, layer):
    from transformers import AutoModelForImageTextToText

    from gradprobe.embedded.vlms import VLMS

    model = AutoModelForImageTextToText.from_pretrained(VLMS["scenes-vlm"], attn_implementation="eager")
    model.config.vision_feature_layer = layer
    examples = PictureSource().probe(0, 3, 0)
    tower = tower_of_examples(VLM.of(model), examples)
    pixels = torch.from_numpy(np.stack([example.image() for example in examples]))
    with torch.no_grad():
        out = model.model.vision_tower(pixels, output_attentions=True)
    for part, number in ((tower.last, layer if layer < 0 else layer - 1), (tower.first, 0)):
        probabilities = out.attentions[number].mean(1)
        expected = probabilities[:, 0, 1:] if query == "class" else probabilities[:, 1:, 1:].mean(1)
        torch.testing.assert_close(part.attention(query), expected, rtol=1e-5, atol=1e-7)


def test_an_image_has_the_same_attention_in_any_batch(task):
    (batch,) = task.batches(1, 5, 0)

    def attention(some, query):
        return task.view(some, Noise(0, some.ids)).tower.last.attention(query)

    whole = {query: attention(batch, query) for query in ("class", "mean")}
    some = torch.tensor([4, 1])
    torch.testing.assert_close(attention(batch.subset(some), "mean"), whole["mean"][some])
    torch.testing.assert_close(attention(batch.subset(slice(1, 2)), "class"), whole["class"][1:2])


def test_passes_of_some_examples_each_are_one(monkeypatch):
    vlm, examples = open_vlm("scenes-vlm"), PictureSource().probe(0, 5, 0)
    whole = tower_of_examples(vlm, examples)
    monkeypatch.setattr(views, "BATCH", 2)
    parts = tower_of_examples(vlm, examples)
    torch.testing.assert_close(parts.last.attention("mean"), whole.last.attention("mean"))
    torch.testing.assert_close(parts.first.patch_keys, whole.first.patch_keys)


def test_tiles_have_attention_each_within_its_own():
    """LLaVA-NeXT: each token's attention and key are those of its place in its tile, of two images in one call."""
    vlm = shared("llava_next")
    features = vlm.vision_features(made(vlm, [[1], [1]]), attention=True)
    tower = tower_of(features, [0, 1])
    layer, per = tower.last, features.patches
    picture, place = layer.rows // per, layer.rows % per
    assert layer.rows.shape == (2, len(features.tokens[0])) and int(picture.max()) + 1 == len(layer.queries) > 2
    for b in range(2):
        for n in range(layer.rows.shape[1]):
            key = layer.keys[picture[b, n], layer.prefix + place[b, n]]
            assert torch.equal(layer.patch_keys[b, n], key)
    q, k = (x.unflatten(-1, (layer.heads, -1)).transpose(1, 2) for x in (layer.queries[:, :1], layer.keys))
    expected = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)[:, :, 0, 1:].mean(1)
    torch.testing.assert_close(layer.attention("class"), expected.flatten()[layer.rows])


def test_towers_with_windows_cannot_tell():
    vlm = shared("qwen2_5_vl")
    with pytest.raises(Unavailable, match="no separate q_proj"):
        tower_of(vlm.vision_features(made(vlm, [[1]]), attention=True), [0])


def test_every_selector_outside_chooses_for_a_language_model(task):
    (batch,) = task.batches(1, 4, 0)
    names = ("random", "norm", "projected-norm", "class-attention", "mean-attention", "divprune", "zoo", "truth")
    scores = {name: Selecting.of(task, name, 5).choose(batch).scores for name in names}
    assert all(x.shape == (4, 100) and bool(x.isfinite().all()) for x in scores.values())
    assert scores["divprune"].sort(1).values.tolist() == [list(range(1, 101))] * 4
    torch.testing.assert_close(scores["projected-norm"], task.vlm.project(batch.tokens.patches).norm(dim=-1))
    assert len({tuple(x[0].argsort().tolist()) for x in scores.values()}) == len(scores)


def test_a_classifier_has_no_projector_but_its_tokens_differ():
    task = gp.classification("scenes", scorer="mlp:width=1")
    (batch,) = task.batches(1, 2, 0)
    assert all("projector" in fault_of(task, name, 5, batch) for name in ("projected-norm", "zoo"))
    assert Selecting.of(task, "divprune", 5).choose(batch).scores.shape == (2, 196)
