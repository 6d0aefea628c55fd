"""Attention within the vision tower: that of the unfused path, and None where it cannot be told."""

import numpy as np
import pytest
import torch
from tiny_vlms import FAMILIES, made, shared

import gradprobe as gp
import gradprobe.vlm.tower_attention as module
from gradprobe.models.rankings import RANKINGS, rank_scores
from gradprobe.vlm.model import VLM
from gradprobe.vlm.picture_source import PictureSource
from gradprobe.vlm.tower_attention import QUERIES, tower_attention


@pytest.fixture(scope="module")
def task():
    return gp.vlm.captioning("scenes-vlm", scorer="mlp:width=1")


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("layer", [-1, -2, 1])
def test_it_is_what_the_unfused_path_multiplies_values_with(query, layer):
    from transformers import AutoModelForImageTextToText

    from gradprobe.embedded.vlms import VLMS

    model = AutoModelForImageTextToText.from_pretrained(VLMS["scenes-vlm"], attn_implementation="eager")
    model.config.vision_feature_layer = layer
    examples = PictureSource().probe(0, 3, 0)
    told = tower_attention(VLM.of(model), examples, query)
    pixels = torch.from_numpy(np.stack([example.image() for example in examples]))
    with torch.no_grad():
        out = model.model.vision_tower(pixels, output_attentions=True)
    probabilities = out.attentions[layer if layer < 0 else layer - 1].mean(1)
    expected = probabilities[:, 0, 1:] if query == "class" else probabilities[:, 1:, 1:].mean(1)
    torch.testing.assert_close(told, expected, rtol=1e-5, atol=1e-7)


def test_an_image_has_the_same_attention_in_any_batch(task):
    (batch,) = task.batches(1, 5, 0)
    some = torch.tensor([4, 1])
    torch.testing.assert_close(task.attention(batch.subset(some), "mean"), task.attention(batch, "mean")[some])
    torch.testing.assert_close(task.attention(batch.subset(slice(1, 2))), task.attention(batch)[1:2])


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "llava"])
def test_towers_with_tiles_or_windows_tell_none(family, monkeypatch):
    vlm = shared(family)
    monkeypatch.setattr(module, "inputs_of", lambda vlm, examples: made(vlm, [[1]]))
    assert tower_attention(vlm, PictureSource().probe(0, 1, 0), "class") is None


def test_every_ranking_orders_the_tokens_of_a_language_model(task):
    (batch,) = task.batches(1, 4, 0)
    scores = {name: rank_scores(task, name, batch, 0) for name in RANKINGS}
    assert all(x.shape == (4, 100) and bool(x.isfinite().all()) for x in scores.values())
    assert scores["divprune"].sort(1).values.tolist() == [list(range(1, 101))] * 4
    torch.testing.assert_close(scores["projected-norm"], task.vlm.project(batch.tokens.patches).norm(dim=-1))
    assert len({tuple(x[0].argsort().tolist()) for x in scores.values()}) == len(scores)


def test_a_classifier_has_no_projector_but_its_tokens_differ():
    task = gp.classification("scenes", scorer="mlp:width=1")
    (batch,) = task.batches(1, 2, 0)
    assert rank_scores(task, "projected-norm", batch, 0) is None and rank_scores(task, "zoo", batch, 0) is None
    assert rank_scores(task, "divprune", batch, 0).shape == (2, 196)
