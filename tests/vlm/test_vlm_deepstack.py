"""Streams that a language model adds to visual tokens behind its first layers: handed on, pruned and throttled."""

import functools
import threading

import pytest
import torch
from masked_layers import generated
from tiny_vlms import made, tiny

import gradprobe as gp
from gradprobe.errors import UsageError
from gradprobe.operators.registry import part
from gradprobe.vlm.budgets import Budget
from gradprobe.vlm.pruner import Pruner
from gradprobe.vlm.sequence import assemble

THROTTLES = ("lapsum+gather", "lapsum+zero", "scale", "lapsum+mean", "vpnoise:sigma=0.5")


@functools.cache
def deep():
    """A model in which a layer comes behind both streams."""
    return tiny("qwen3_vl", layers=3)


def read(vlm, rows=((1, 2),)):
    inputs = made(vlm, rows)
    features = vlm.vision_features(inputs)
    return vlm.prompt(inputs, features), features


def parts(tokens, places):
    """Tokens whose parts at the other places are 0."""
    mask = torch.zeros(3)
    mask[list(places)] = 1
    return (tokens.unflatten(-1, (3, -1)) * mask[:, None]).flatten(-2)


def test_a_token_is_its_parts_side_by_side_in_order():
    vlm = deep()
    visual, seen = vlm.family.tower(vlm.model), []
    hooks = [block.register_forward_hook(lambda _, args, output: seen.append(output)) for block in visual.blocks]
    inputs = made(vlm, [[1]])
    (tokens,) = vlm.vision_features(inputs).tokens
    for hook in hooks:
        hook.remove()
    last, first, second = tokens.chunk(3, -1)
    assert torch.equal(first, seen[0].reshape(len(tokens), -1))
    assert torch.equal(second, seen[1].reshape(len(tokens), -1))
    assert torch.equal(last, seen[2].reshape(len(tokens), -1)) and len(seen) == 3
    with torch.no_grad():
        own = vlm.model.model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"], return_dict=True)
        for mine, (stream,) in zip(vlm.streams(tokens), own.deepstack_features, strict=True):
            assert torch.equal(mine, stream)


def test_every_stream_matters_and_only_at_the_places_of_visual_tokens():
    vlm = deep()
    prompt, features = read(vlm)
    tokens = torch.cat(features.tokens)
    with torch.no_grad():
        sequence = assemble(vlm, prompt, [tokens])
        whole = vlm.logits(sequence)
        for place in (1, 2):
            others = assemble(vlm, prompt, [parts(tokens, {0, 1, 2} - {place})])
            assert (vlm.logits(others) - whole)[0, -1].abs().max() > 1e-2
    assert len(sequence.streams) == 2
    for stream in sequence.streams:
        assert torch.equal(stream.abs().sum(-1) > 0, sequence.slot >= 0)


@pytest.mark.parametrize("op", THROTTLES)
def test_a_throttle_does_to_each_part_what_it_does_to_the_last_layers(op):
    """The part alone, throttled with the same scores, is that part of the whole; noise of a fixed scale but for eps."""
    vlm = deep()
    _, features = read(vlm)
    image = features.tokens[0][None]
    scores = torch.linspace(-2, 2, image.shape[1])[None]
    whole = gp.build(op)(image, scores, 9, noise=gp.Noise(0, (3,)))
    for place in range(3):
        alone = gp.build(op)(image.chunk(3, -1)[place].contiguous(), scores, 9, noise=gp.Noise(0, (3,)))
        assert torch.equal(whole.weights, alone.weights)
        own = whole.tokens.chunk(3, -1)[place]
        if "vpnoise" not in op:
            torch.testing.assert_close(own, alone.tokens)
            continue
        alpha = whole.weights[0, :, None].clamp(0, 1)
        noise = own[0] - alpha.sqrt() * image[0].chunk(3, -1)[place]
        scale = noise.square().mean(-1).sqrt()
        torch.testing.assert_close(scale, 0.5 * (1 - alpha[:, 0]).sqrt(), atol=0.1, rtol=0.25)


@pytest.mark.parametrize("op", ["vpnoise", "lapsum+zero", "lapsum+mean", "softtopk"])
def test_the_gradient_of_scores_is_the_slope_of_the_loss_through_all_streams(op):
    vlm = tiny("qwen3_vl", layers=3)
    vlm.model.double()
    prompt, features = read(vlm, [[1]])
    image = features.tokens[0].double()[None]
    operator, noise = gp.build(op), gp.Noise(0, (0,))

    def loss(scores, places=(0, 1, 2)):
        chosen = operator(image, scores, 9, noise=noise)
        own = torch.where(parts(torch.ones_like(image[0]), places) > 0, chosen.tokens[0], image[0])
        sequence = assemble(vlm, prompt, [own], None if chosen.index is None else [chosen.index[0]])
        keys = None
        if chosen.key_bias is not None:
            keys = torch.zeros(sequence.slot.shape, dtype=torch.float64)
            keys = keys.masked_scatter(sequence.slot >= 0, chosen.key_bias)
        return vlm.logits(sequence, keys)[0, -1].log_softmax(-1)[7]

    scores = torch.linspace(-1, 1, image.shape[1], dtype=torch.float64)[None].requires_grad_()
    (slope,) = torch.autograd.grad(loss(scores), scores)
    if "zero" not in op:  # whose gradient is not that of its 0 and 1
        direction, step = slope / slope.norm(), 3e-3  # norms compute in float32
        with torch.no_grad():
            measured = (loss(scores + step * direction) - loss(scores - step * direction)) / (2 * step)
        assert measured.item() == pytest.approx(slope.norm().item(), rel=5e-3)
    if op != "softtopk":  # and each stream has its share
        for place in (1, 2):
            (other,) = torch.autograd.grad(loss(scores, {0, 1, 2} - {place}), scores)
            assert (other - slope).abs().max() > 1e-3 * slope.abs().max()


def test_scaling_is_undone_by_the_normalisation_of_the_mergers():
    vlm = deep()
    prompt, features = read(vlm, [[1]])
    (tokens,) = features.tokens
    with torch.no_grad():
        whole, half, none = (vlm.logits(assemble(vlm, prompt, [a * tokens]))[0, -1] for a in (1.0, 0.5, 0.0))
    assert (half - whole).abs().max() < 1e-2 < (none - whole).abs().max()


def test_scoring_reads_all_parts_and_pruning_keeps_the_rows_of_all():
    vlm = deep()
    scorer = part("scorer", "mlp:width=8").make(vlm.dim, 0)
    pruned = Pruner(vlm, scorer, Budget(k=5))
    inputs = made(vlm, [[1], [2]])
    sequence = pruned.sequence(inputs)
    assert [int((stream.abs().sum(-1) > 0).sum()) for stream in sequence.streams] == [10, 10]
    assert vlm.dim == 3 * 128 and vlm.metadata["dim"] == 3 * 128 and vlm.metadata["tower_width"] == 32


def test_beams_share_the_streams_of_their_prompt_and_decoding_adds_nothing():
    vlm = deep()
    inputs = made(vlm, [[1], [2]])
    options = {"num_beams": 3, "num_return_sequences": 2, "do_sample": False}
    pruned = Pruner(vlm, "norm", Budget(k=7))
    together = pruned.generate(inputs, max_new_tokens=4, options=options)
    assert together.shape[0] == 4
    sequence = pruned.sequence(inputs)
    whole = generated(vlm, sequence, max_new_tokens=4, **options)
    assert torch.equal(together[:, -4:], whole)
    without = type(sequence)(**{**vars(sequence), "streams": ()})
    with torch.no_grad():
        assert (vlm.logits(without) - vlm.logits(sequence))[:, -1].abs().max() > 1e-2


def test_reading_acts_on_the_prompt_in_this_thread_and_leaves_nothing():
    vlm, there = deep(), []
    prompt, features = read(vlm)
    sequence = assemble(vlm, prompt, [torch.cat(features.tokens)])
    language = vlm.family.language(vlm.model)
    arguments = {"inputs_embeds": sequence.embeds, "position_ids": sequence.positions, "use_cache": False}

    def elsewhere():
        with torch.no_grad():
            there.append(language(**arguments).last_hidden_state)

    with torch.no_grad():
        bare = language(**arguments).last_hidden_state
        with vlm.reading(sequence):
            thread = threading.Thread(target=elsewhere)
            thread.start()
            thread.join()
            assert (language(**arguments).last_hidden_state - bare).abs().max() > 1e-2
        assert torch.equal(there[0], bare) and torch.equal(language(**arguments).last_hidden_state, bare)
    with pytest.raises(ZeroDivisionError), vlm.reading(sequence):
        raise ZeroDivisionError
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in language.modules())
    words = made(vlm, [[]])
    with vlm.reading(assemble(vlm, vlm.prompt(words, vlm.vision_features(words)), [torch.zeros(0)])):
        assert not language._forward_pre_hooks


def test_a_prompt_in_chunks_is_refused():
    vlm = deep()
    prompt, features = read(vlm)
    sequence = assemble(vlm, prompt, [torch.cat(features.tokens)])
    chunk = {"inputs_embeds": sequence.embeds[:, :9], "position_ids": sequence.positions[..., :9]}
    with vlm.reading(sequence), pytest.raises(UsageError, match=r"reads 1 x 9 positions, .*prefill_chunk_size"):
        vlm.model(**chunk, use_cache=True)
