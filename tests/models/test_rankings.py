"""Rankings without training: their order, and None where a task cannot rank."""

import pytest
import torch
from toy import Toy
from vits import DEPTH, images_for, vit

from gradprobe.core import Noise, Stream
from gradprobe.errors import UsageError
from gradprobe.models.attention import tower_of
from gradprobe.models.backbones import Backbone
from gradprobe.models.rankings import USUAL, Selecting, fault_of
from gradprobe.tasks import classification
from gradprobe.view import Unavailable

WITH_CLASS_TOKEN = ["deit", "deit distilled", "deit3", "norm before", "dinov2 with registers", "dynamic size"]


def rank_scores(task, name, batch, seed):
    return Selecting.of(task, name, 1, seed).choose(batch).scores


def batch_of(count=5, seed=1):
    task = classification("scenes", scorer="mlp:width=1")
    return task, next(iter(task.batches(1, count, seed)))


def test_random_belongs_to_the_image_and_the_seed_and_to_no_operators_noise():
    (batch,) = Toy().batches(1, 6, 0)
    scores = rank_scores(Toy(), "random", batch, 0)
    turned = rank_scores(Toy(), "random", batch.subset(torch.tensor([4, 1])), 0)
    assert scores.shape == (6, 10) and torch.equal(turned, scores[[4, 1]])
    assert not torch.equal(scores, rank_scores(Toy(), "random", batch, 1))
    assert len({tuple(row) for row in scores.argsort(-1).tolist()}) == 6
    for stream in (Stream.RELAXATION, Stream.THROTTLE):
        assert not torch.equal(scores, Noise(0, batch.ids).stream(stream).uniform((10,), like=scores))


def test_norm_is_the_length_of_a_token():
    (batch,) = Toy().batches(1, 3, 0)
    expected = (batch.tokens.patches**2).sum(-1).sqrt()
    torch.testing.assert_close(rank_scores(Toy(), "norm", batch, 0), expected)


def test_truth_puts_the_tokens_that_matter_first_and_the_rest_at_random():
    task, batch = batch_of()
    scores = rank_scores(task, "truth", batch, 0)
    known = batch.relevant
    assert known.any(1).all() and not known.all(1).any()
    for row, true in zip(scores, known, strict=True):
        assert row[true].min() > row[~true].max()
    other = rank_scores(task, "truth", batch, 1)
    assert not torch.equal(scores.masked_fill(known, 9).argsort(-1), other.masked_fill(known, 9).argsort(-1))


@pytest.mark.parametrize(("name", "reason"), [
    ("truth", "not known which"), ("class-attention", "attention"), ("projected-norm", "no projector"),
    ("zoo", "projector"), ("cdpruner", "no text"), ("random@2", "no language model"), ("scored", "--pruner"),
])  # fmt: skip
def test_what_a_task_does_not_have_is_a_reason(name, reason):
    (batch,) = Toy().batches(1, 3, 0)
    assert reason in fault_of(Toy(), name, 2, batch)
    with pytest.raises(UsageError, match=reason):
        rank_scores(Toy(), name, batch, 0)


def test_no_ranking_asks_for_a_gradient():
    task, batch = batch_of(1)
    scores = [rank_scores(task, name, batch, 0) for name in USUAL]
    assert not any(x.requires_grad for x in scores)


@pytest.mark.parametrize("kind", WITH_CLASS_TOKEN)
@pytest.mark.parametrize("layer", [0, DEPTH - 1])
def test_class_attention_is_what_the_unfused_path_multiplies_values_with(kind, layer):
    model = vit(kind)
    backbone = Backbone.of(model, layer)
    tokens = backbone.embed(images_for(model))
    tower = tower_of(backbone, tokens)
    captured = []
    last = model.blocks[-1].attn
    last.fused_attn = False
    last.attn_drop.register_forward_pre_hook(lambda module, inputs: captured.append(inputs[0]))
    backbone.full(images_for(model))
    (probabilities,) = captured  # (B, heads, queries, keys)
    expected = probabilities[:, :, 0, model.num_prefix_tokens :].mean(1)
    scores = tower.last.attention("class")
    torch.testing.assert_close(scores, expected, rtol=1e-9, atol=1e-12)
    patches = slice(model.num_prefix_tokens, None)
    of_all = tower.last.attention("mean")
    torch.testing.assert_close(of_all, probabilities[:, :, patches, patches].mean((1, 2)), rtol=1e-9, atol=1e-12)
    assert scores.shape == (3, backbone.n_tokens) and float(expected.std()) > 1e-4


@pytest.mark.parametrize("kind", ["no class token", "registers, average", "map"])
def test_a_model_without_class_token_has_the_mean_attention_alone(kind):
    model = vit(kind)
    backbone = Backbone.of(model, 0)
    tower = tower_of(backbone, backbone.embed(images_for(model)))
    assert tower.last.attention("mean").shape == (3, backbone.n_tokens)
    with pytest.raises(Unavailable, match="no class token"):
        tower.last.attention("class")


def test_attention_of_another_kind_cannot_be_told():
    model = vit("differential")
    backbone = Backbone.of(model, 0)
    with pytest.raises(Unavailable, match="not timm's usual ones"):
        tower_of(backbone, backbone.embed(images_for(model)))


def test_after_the_last_block_there_is_no_attention_left():
    model = vit("deit")
    backbone = Backbone.of(model, DEPTH)
    with pytest.raises(Unavailable, match="behind the last block"):
        tower_of(backbone, backbone.embed(images_for(model)))
