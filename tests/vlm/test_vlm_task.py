"""A vision-language model as a task: its losses are the model's own, and every probe runs on it."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from captioned import SIZES, captioned, paint, with_processor
from tiny_vlms import ATTENDING, over, types_of

import gradprobe as gp
from gradprobe.core import Noise, RaggedBatch, Selection, hard_topk
from gradprobe.errors import Notice, UsageError
from gradprobe.vlm import vision_features
from gradprobe.vlm.captions import open_captions
from gradprobe.vlm.sequence import assemble
from gradprobe.vlm.task import captioning, task_of

NAMES = {"backbone": "tiny", "weights": "random:0", "data": "some", "dtype": "float32"}


def made(family, folder, sizes=SIZES[:1], scorer="mlp:width=8", count=12, held_out=5, **options):
    vlm = with_processor(family)
    source = open_captions(captioned(folder, count, sizes), held_out=held_out)
    names = NAMES | {"weights": family, "data": str(folder)}
    return task_of(vlm, source, names, scorer=scorer, denoiser="none", seed=0, **options)


def asking(folder):
    """Captions with questions."""
    lines = []
    for i in range(12):
        paint(folder / f"{i}.png", (28, 28), i)
        lines.append({
            "image": f"{i}.png", "caption": "a red square", "prompt": "<image> say :",
            "question": f"<image> is it {i} ?", "answer": "yes it is" if i % 2 else "no",
        })  # fmt: skip
    file = folder / "captions.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def everything(batch):
    patches = batch.tokens.patches
    return Selection(patches, torch.ones(patches.shape[:2]))


@over()
def test_with_all_tokens_the_loss_is_the_models_own(family, tmp_path):
    task = made(family, tmp_path)
    (batch,) = task.batches(1, 4, 0)
    losses = task.losses(everything(batch), batch)
    examples = task.source.probe(0, 4, 0)
    text, processor = batch.target.caption, task.vlm.processor
    for i, example in enumerate(examples):
        pixels = processor.image_processor(images=[example.image()], return_tensors="pt")
        length = int(text.prompt.attention_mask[i].sum())
        ids = text.prompt.input_ids[i : i + 1, :length]
        kinds = types_of(task.vlm, ids)
        labels = text.labels[i : i + 1, :length]
        with torch.no_grad():
            own = task.vlm.model.eval()(input_ids=ids, labels=labels, use_cache=False, **pixels, **kinds).loss
        assert float(losses[i]) == pytest.approx(float(own), rel=1e-5)


@over(ATTENDING)
def test_dropped_tokens_are_exactly_absent(family, tmp_path):
    task = made(family, tmp_path)
    (batch,) = task.batches(1, 4, 0)
    scores = task.scorer(batch.tokens.patches)
    k = task.n_tokens // 3
    masked = gp.build("hard+attention")(batch.tokens.patches, scores, k, noise=Noise(0, batch.ids))
    assert torch.allclose(
        task.losses(masked, batch), task.losses(hard_topk(batch.tokens.patches, scores, k), batch), atol=1e-5
    )
    assert not torch.allclose(task.losses(everything(batch), batch), task.losses(masked, batch), atol=1e-3)


@over()
def test_an_images_loss_does_not_depend_on_its_neighbours(family, tmp_path):
    task = made(family, tmp_path)
    (batch,) = task.batches(1, 5, 0)
    op = gp.build("gumbel")
    whole = task.losses(op(batch.tokens.patches, task.scorer(batch.tokens.patches), 3, Noise(0, batch.ids)), batch)
    for which in (slice(1, 3), torch.tensor([3, 0])):
        few = batch.subset(which)
        one = op(few.tokens.patches, task.scorer(few.tokens.patches), 3, Noise(0, few.ids))
        assert torch.allclose(task.losses(one, few), whole[which], atol=1e-5)


@pytest.mark.parametrize("op", ["vpnoise", "gumbel", "scale", "softtopk", "lapsum+mean", "lapsum+dynamicvit"])
def test_gradients_reach_the_scorer_and_nothing_of_the_model(op, tmp_path):
    task = made("llava", tmp_path)
    (batch,) = task.batches(1, 4, 0)
    scores = task.scorer(batch.tokens.patches)
    selection = gp.build(op)(batch.tokens.patches, scores, 3, noise=Noise(0, batch.ids))
    flags = [p.requires_grad for p in task.vlm.model.parameters()]
    with task.running():
        task.losses(selection, batch).sum().backward()
    assert all(p.grad is None for p in task.vlm.model.parameters())
    assert max(float(p.grad.abs().max()) for p in task.scorer.parameters()) > 0
    assert flags == [p.requires_grad for p in task.vlm.model.parameters()]


def test_ranks_count_the_words_put_above_the_worst_of_the_answer(tmp_path):
    vlm = with_processor("llava")
    task = task_of(vlm, open_captions(asking(tmp_path), held_out=6), NAMES, scorer="mlp", denoiser="none", seed=0)
    (batch,) = task.batches(1, 6, 0)
    kept = hard_topk(batch.tokens.patches, torch.randn(6, task.n_tokens), 4)
    text = batch.target.question
    with torch.no_grad():
        sequence = assemble(vlm, text.prompt, list(kept.tokens), list(kept.index))
        logits, ranks = vlm.logits(sequence), task.ranks(kept, batch)
    for i in range(6):
        labels = text.labels[i][sequence.origin[i].clamp(min=0)]
        at = [t for t in range(len(labels)) if labels[t] >= 0 and sequence.origin[i, t] >= 0]
        above = [int((logits[i, t - 1] > logits[i, t - 1, labels[t]]).sum()) for t in at]
        assert int(ranks[i]) == max(above)
        assert len(above) in (2, 4)  # the answer and the end
    losses, again = task.judged(kept, batch)
    assert torch.equal(ranks, again) and torch.equal(losses, task.losses(kept, batch))


def test_without_questions_there_is_nothing_to_be_right_about(tmp_path):
    task = made("llava", tmp_path)
    (batch,) = task.batches(1, 2, 0)
    with pytest.raises(UsageError, match="a question and an answer"):
        task.ranks(everything(batch), batch)


@pytest.mark.parametrize("family", ["llava_next", "qwen2_5_vl"])
def test_images_of_several_sizes_train_in_batches_of_their_own_and_are_refused_by_probes(family, tmp_path):
    task = made(family, tmp_path, SIZES, count=24, held_out=12)  # so many that each half has every size
    mixed = next(task.training_batches(12, 0))
    assert isinstance(mixed, RaggedBatch) and len(mixed.ids) == 12 == len(set(mixed.ids))
    sizes = [part.tokens.patches.shape[1] for part in mixed.parts]
    assert len(set(sizes)) == len(sizes) > 1
    for part in mixed.parts:
        assert torch.isfinite(task.losses(everything(part), part)).all()
    with pytest.raises(UsageError, match="give images of one size"):
        list(task.batches(1, 12, 0))


def test_data_that_come_round_are_seen_once(tmp_path, monkeypatch):
    monkeypatch.setattr(vision_features, "CACHE", vision_features.FeatureCache(1 << 30))
    task = made("llava", tmp_path)
    calls = []
    tower = task.vlm.model.model.vision_tower.register_forward_hook(lambda *_: calls.append(1))
    batches = task.training_batches(7, 0)  # there are 7 images to train on
    first = next(batches)
    passes = len(calls)
    again = next(batches)
    tower.remove()
    assert passes > 0 and len(calls) == passes
    assert sorted(first.ids) == sorted(again.ids)
    places = [again.ids.index(i) for i in first.ids]
    assert torch.equal(first.tokens.patches, again.tokens.patches[places])


def test_what_is_remembered_is_forgotten_in_time(tmp_path, monkeypatch):
    task = made("llava", tmp_path)
    one = task.n_tokens * task.vlm.dim * 4
    monkeypatch.setattr(vision_features, "CACHE", vision_features.FeatureCache(3 * one + 1))
    batch = next(task.training_batches(7, 0))
    assert len(vision_features.CACHE) == 3 and vision_features.CACHE.size == 3 * one
    again = next(task.training_batches(7, 0))
    assert torch.equal(batch.tokens.patches, again.tokens.patches)


def test_one_thread_may_see_while_others_project(tmp_path):
    task = made("llava", tmp_path)
    (batch,) = task.batches(1, 4, 0)
    vlm, stop, wrong = task.vlm, threading.Event(), []
    right = vlm.project(batch.tokens.patches)

    def project():
        while not stop.is_set():
            if not torch.equal(vlm.project(batch.tokens.patches), right):
                wrong.append(1)

    pixels = {"pixel_values": torch.randn(2, 3, 28, 28)}
    with task.running(), ThreadPoolExecutor(1) as pool:
        expected = vlm.vision_features(pixels)
        work = pool.submit(project)
        for _ in range(60):
            assert all(
                torch.equal(a, b) for a, b in zip(vlm.vision_features(pixels).tokens, expected.tokens, strict=True)
            )
        stop.set()
        work.result()
    assert not wrong


def test_probes_do_not_know_that_it_is_a_language_model(tmp_path):
    task = made("llava", tmp_path)
    result = gp.coherence(task, gp.build("vpnoise"), 4, batches=5, batch_size=1, draws=2)
    assert result.gradient == "yes" and np.isfinite(result.gram).all() and result.question["task"] == "captioning"
    hard = gp.coherence(task, gp.build("hard"), 4, batches=5, batch_size=1, draws=2)
    assert hard.gradient == "none"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "x.pth"}, "name a folder"),
        ({"train_data": "other"}, "held out"),
        ({"layer": 2}, "before its projector"),
        ({"loss": "kl"}, "--loss ce"),
        ({"dtype": "int8"}, "dtype"),
        ({"backbone": "./nowhere"}, "no folder"),
    ],
)
def test_what_means_nothing_here_is_refused(options, message):
    with pytest.raises(UsageError, match=message):
        captioning(**options)


@pytest.mark.parametrize("which", [slice(1, 3), torch.tensor([3, 0])])
def test_kinds_of_questions_stay_with_their_images(which):
    (batch,) = captioning("scenes-vlm", scorer="mlp:width=1").batches(1, 4, 0)
    few = batch.subset(which)
    assert few.kinds == tuple(i % 4 for i in few.ids) and len(few.kinds) == 2
    assert replace(batch, kinds=()).subset(which).kinds == ()


def test_a_training_picture_is_not_taken_for_a_probes_of_the_same_number():
    task = captioning("scenes-vlm", scorer="mlp:width=1")
    first = next(task.training_batches(1, 0))  # number 1000 million, as the first probe picture of seed 1000
    (probe,) = task.batches(1, 1, 1000)
    assert first.ids == probe.ids and not torch.equal(first.tokens.patches, probe.tokens.patches)
    fresh = task.vlm.vision_features({"pixel_values": task.source.probe(0, 1, 1000)[0].image()[None]})
    assert torch.allclose(probe.tokens.patches[0], fresh.tokens[0], atol=1e-5)


def test_features_take_no_more_than_the_device_has_room_for(tmp_path, monkeypatch):
    task = made("llava", tmp_path)
    one = task.n_tokens * task.vlm.dim * 4
    monkeypatch.setattr(vision_features, "CACHE", vision_features.FeatureCache(1 << 30))
    monkeypatch.setattr(vision_features, "room_on", lambda device: 2 * one)
    next(task.training_batches(7, 0))
    assert len(vision_features.CACHE) == 2


def test_where_memory_runs_out_the_tower_sees_fewer_images_at_a_time(tmp_path, monkeypatch):
    task = made("llava", tmp_path)
    wanted = next(task.training_batches(7, 0))
    monkeypatch.setattr(vision_features, "CACHE", vision_features.FeatureCache(1 << 30))
    features, sizes = type(task.vlm).vision_features, []

    def tight(self, inputs):
        sizes.append(len(inputs["pixel_values"]))
        if sizes[-1] > 2:
            raise torch.OutOfMemoryError
        return features(self, inputs)

    monkeypatch.setattr(type(task.vlm), "vision_features", tight)
    with pytest.warns(Notice, match="goes on with 2 images at a time"):
        batch = next(task.training_batches(7, 0))
    assert sizes == [7, 4, 2, 2, 2, 1] and batch.ids == wanted.ids
    assert torch.allclose(batch.tokens.patches, wanted.tokens.patches, atol=1e-5)
