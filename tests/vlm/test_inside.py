"""Tokens dropped inside a language model are keys masked from that layer on, in a prompt and while decoding."""

import threading

import pytest
import torch
from masked_layers import LAYERS, deep, generated, gone_of, masking, noise_of, opened, read, recorded
from tiny_vlms import ATTENDING, PATCHES, made, over

from gradprobe.errors import GradprobeError
from gradprobe.selectors.dart import DART
from gradprobe.selectors.divprune import DivPrune
from gradprobe.selectors.fastv import FastV
from gradprobe.selectors.pyramiddrop import PyramidDrop
from gradprobe.selectors.random import Random
from gradprobe.selectors.sparsevlm import SparseVLM
from gradprobe.view import Drop, Kept
from gradprobe.vlm.inside import pruned_logits

PLANS = {
    "one stage": [(2, FastV(), 5)],
    "three stages": [(0, DART(2, 2), 12), (1, DivPrune(), 7), (3, PyramidDrop(), 1)],
    "merging": [(1, SparseVLM(recycled=1, members=2), 8), (2, FastV(), 6), (4, SparseVLM(recycled=1, members=2), 3)],
}
BATCHES = {"alone": [[0]], "padded": [[0], [0], [0]], "two images": [[0, 0], [0, 0]]}
CASES = {
    f"{plan}, {batch}": (PLANS[plan], BATCHES[batch])
    for plan, batch in (
        ("one stage", "alone"),
        ("three stages", "padded"),
        ("merging", "padded"),
        ("three stages", "two images"),
    )
}
each_family = over(ATTENDING)
each_case = pytest.mark.parametrize(("stages", "rows"), CASES.values(), ids=CASES)
each_batch = pytest.mark.parametrize("rows", BATCHES.values(), ids=BATCHES)
each_attention = pytest.mark.parametrize("implementation", ["eager", "sdpa"])
GREEDY = {"max_new_tokens": 4, "do_sample": False}


def cached(vlm, sequence):
    """Logits and lengths of the layers of the cache."""
    inputs = {"attention_mask": sequence.attention_mask, "position_ids": sequence.positions}
    with torch.no_grad(), vlm.reading(sequence):
        out = vlm.model(inputs_embeds=sequence.embeds, **inputs, use_cache=True)
    cache = out.get("cache", out.get("past_key_values"))
    return out.logits, [cache.get_seq_length(layer) for layer in range(LAYERS)]


@each_family
@each_attention
@each_case
@pytest.mark.parametrize("pad", ["left", "right"])
def test_equals_the_full_length_with_keys_masked_layer_by_layer(family, implementation, stages, rows, pad):
    vlm, drops = deep(family, implementation), recorded(stages)
    sequence, last = read(vlm, rows, pad)
    with torch.no_grad(), opened(vlm, sequence, last, drops) as dropped:
        logits = vlm.logits(sequence)
    with masking(vlm, sequence, drops, dropped.kept), torch.no_grad():
        whole = vlm.logits(sequence)
    own = whole.gather(1, dropped.order[..., None].expand(-1, -1, whole.shape[-1]))
    real = sequence.attention_mask.gather(1, dropped.order) > 0
    assert (logits - own)[real].abs().max() <= 1e-5
    assert [numbers.shape[1] for numbers in dropped.kept] == [k for _, _, k in stages]
    with torch.no_grad():
        assert (vlm.logits(sequence) - whole)[sequence.attention_mask > 0].abs().max() > 1e-2  # and dropping matters


@each_family
@each_attention
@each_case
def test_decoding_with_a_cache_equals_the_masked_full_length(family, implementation, stages, rows):
    vlm, drops = deep(family, implementation), recorded(stages)
    sequence, last = read(vlm, rows)
    with opened(vlm, sequence, last, drops) as dropped:
        first = generated(vlm, sequence, **GREEDY)
        again = generated(vlm, sequence, **GREEDY)
        logits, lengths = cached(vlm, sequence)
    with masking(vlm, sequence, drops, dropped.kept):
        expected, (own, whole) = generated(vlm, sequence, **GREEDY), cached(vlm, sequence)
    assert torch.equal(first, expected) and torch.equal(again, expected)
    assert (logits[:, -1] - own[:, -1]).abs().max() <= 1e-5
    total = int((sequence.slot[0] >= 0).sum())
    left = [min([total, *(k for layer, _, k in stages if layer <= number)]) for number in range(LAYERS)]
    assert lengths == [length - total + k for length, k in zip(whole, left, strict=True)]


@over([family for family in ATTENDING if not family.startswith("qwen3_vl")])  # whose own forward adds to all tokens
def test_inputs_of_a_processor_are_followed_too(family):
    vlm, inputs = deep(family), made(deep(family), [[0]])
    sequence, last = read(vlm, [[0]])
    with torch.no_grad(), opened(vlm, sequence, last, recorded(PLANS["three stages"])):
        assert torch.equal(vlm.model.generate(**inputs, **GREEDY)[:, -4:], generated(vlm, sequence, **GREEDY))


@each_family
@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 3, "num_return_sequences": 2, "do_sample": False},
        {"num_return_sequences": 3, "do_sample": True},
    ],
    ids=["beams", "samples"],
)
@pytest.mark.parametrize("rows", [[[0]], [[0], [0]]], ids=["alone", "padded"])
def test_several_answers_follow_the_choice_of_their_prompt(family, options, rows):
    vlm, drops = deep(family), recorded([(1, Random(), 7), (2, SparseVLM(recycled=1, members=2), 4)])
    sequence, last = read(vlm, rows)
    torch.manual_seed(0)
    with opened(vlm, sequence, last, drops) as dropped:
        out = generated(vlm, sequence, max_new_tokens=4, **options)
    torch.manual_seed(0)
    with masking(vlm, sequence, drops, dropped.kept):
        assert torch.equal(out, generated(vlm, sequence, max_new_tokens=4, **options))
    assert all(numbers.shape[0] == len(rows) for numbers in dropped.kept)
    with opened(vlm, sequence, last, drops) as once:
        generated(vlm, sequence, **GREEDY)
    assert all(torch.equal(a, b) for a, b in zip(once.kept, dropped.kept, strict=True))


@each_family
@each_attention
def test_keeping_all_is_the_model_bit_for_bit(family, implementation):
    vlm = deep(family, implementation)
    sequence, last = read(vlm, BATCHES["padded"])
    total = int((sequence.slot[0] >= 0).sum())
    drops = [Drop(layer, SparseVLM(), total) for layer in (0, 1, 3)]
    with torch.no_grad():
        expected = vlm.logits(sequence)
        logits, origin = pruned_logits(vlm, sequence, last, drops, noise_of(sequence), "compact")
    assert torch.equal(logits, expected) and torch.equal(origin, sequence.origin)
    with opened(vlm, sequence, last, drops) as dropped:
        assert torch.equal(generated(vlm, sequence, **GREEDY), generated(vlm, sequence, **GREEDY))
    assert all(numbers.tolist() == [list(range(total))] * 3 for numbers in dropped.kept)
    later = [Drop(1, SparseVLM(), total), Drop(3, FastV(), 5)]  # a stage that keeps all among others
    with torch.no_grad(), opened(vlm, sequence, last, later) as dropped:
        both = vlm.logits(sequence)
    with torch.no_grad(), opened(vlm, sequence, last, later[1:]):
        assert torch.equal(vlm.logits(sequence), both)
    assert [numbers.shape[1] for numbers in dropped.kept] == [total, 5]


@each_family
def test_a_prompt_without_images_is_read_as_it_is(family):
    vlm = deep(family)
    sequence, last = read(vlm, [[], []])
    with torch.no_grad():
        logits, _ = pruned_logits(vlm, sequence, last, [Drop(1, FastV(), 5)], noise_of(sequence))
        assert torch.equal(logits, vlm.logits(sequence))


@pytest.mark.parametrize(
    ("family", "positions"),
    [(family, p) for family in ATTENDING for p in ("keep", "compact") if p == "keep" or family not in PATCHES],
)
def test_an_answer_behind_the_prompt_changes_no_choice_and_its_logits_are_those_of_decoding(family, positions):
    vlm = deep(family)
    stages = [(1, SparseVLM(recycled=1, members=2), 9), (2, FastV(), 6), (3, Random(), 4)]
    prompt, end = read(vlm, BATCHES["padded"])
    with opened(vlm, prompt, end, recorded(stages), positions) as alone:
        new = generated(
            vlm, prompt, max_new_tokens=3, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
    sequence, last = read(vlm, BATCHES["padded"], "right", answers=2)
    drops = [Drop(*stage) for stage in stages]
    with torch.no_grad(), opened(vlm, sequence, last, drops, positions) as behind:
        vlm.logits(sequence)
    assert all(torch.equal(a, b) for a, b in zip(behind.kept, alone.kept, strict=True))
    with torch.no_grad():
        logits, origin = pruned_logits(vlm, sequence, last, drops, noise_of(sequence), positions)
    ends = sequence.origin.gather(1, last[:, None])
    torch.testing.assert_close(logits[origin == ends], new.logits[0], atol=1e-5, rtol=0)
    with torch.no_grad():  # a prompt with what was decoded
        embeds = vlm.model.get_input_embeddings()(new.sequences[:, :2])
    longer = extended(prompt, embeds)
    with torch.no_grad():
        logits, _ = pruned_logits(vlm, longer, end, drops, noise_of(prompt), positions)
    for step in range(3):
        torch.testing.assert_close(logits[:, step - 3], new.logits[step], atol=1e-5, rtol=0)


def extended(sequence, embeds):
    """A sequence padded on the left with words behind it, at the positions that decoding gives them."""
    b, n = embeds.shape[:2]
    ones = torch.ones(b, n, dtype=torch.long)
    positions = sequence.positions
    steps = (positions.amax(-1, keepdim=True) + 1 + torch.arange(n)).expand(*positions.shape[:-1], n)
    if positions.ndim == 3:
        steps = (positions.amax((0, 2))[:, None] + 1 + torch.arange(n)).expand(3, b, n)
    origin = sequence.origin.amax(1, keepdim=True) + 1 + torch.arange(n)
    pieces = [(sequence.attention_mask, ones), (positions, steps), (sequence.origin, origin), (sequence.slot, -ones)]
    streams = tuple(torch.cat([stream, torch.zeros_like(embeds)], 1) for stream in sequence.streams)
    return type(sequence)(torch.cat([sequence.embeds, embeds], 1), *(torch.cat(each, -1) for each in pieces), streams)


@pytest.mark.parametrize("family", ["llava", "llava_next"])
@each_attention
@each_batch
def test_compact_positions_are_those_of_a_prompt_that_never_had_the_dropped(family, implementation, rows):
    """From layer 0 on, compact is the model on the closed-up prompt; from a later layer, only those layers change."""
    vlm = deep(family, implementation)
    sequence, last = read(vlm, rows)
    with torch.no_grad(), opened(vlm, sequence, last, [Drop(0, Random(), 5)], "compact") as dropped:
        logits, new = vlm.logits(sequence), generated(vlm, sequence, **GREEDY)
    order = dropped.order
    embeds = sequence.embeds.gather(1, order[..., None].expand(-1, -1, sequence.embeds.shape[-1]))
    mask = sequence.attention_mask.gather(1, order)
    closed = {"inputs_embeds": embeds, "attention_mask": mask}
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        own = vlm.model(**closed, position_ids=positions).logits
    torch.testing.assert_close(logits[mask > 0], own[mask > 0], atol=1e-5, rtol=0)
    assert torch.equal(new, vlm.model.generate(**closed, **GREEDY))
    with torch.no_grad(), opened(vlm, sequence, last, [Drop(4, Random(), 5)], "compact"):
        late = vlm.logits(sequence)
    with torch.no_grad(), opened(vlm, sequence, last, [Drop(4, Random(), 5)], "keep"):
        kept = vlm.logits(sequence)
    assert (late - kept).abs().max() > 1e-3


@each_family
def test_a_row_in_a_batch_is_the_row_alone(family):
    vlm = deep(family)
    stages = [(1, Random(), 9), (2, DART(2, 1), 7), (3, SparseVLM(recycled=1, members=2), 4)]
    sequence, last = read(vlm, BATCHES["padded"])
    with torch.no_grad(), opened(vlm, sequence, last, recorded(stages)) as together:
        logits = vlm.logits(sequence)
    for row in range(3):
        real = sequence.attention_mask[row] > 0
        names = ("attention_mask", "positions", "origin", "slot")
        cut = {name: getattr(sequence, name)[..., row : row + 1, real] for name in names}
        embeds, *streams = (each[row : row + 1, real] for each in (sequence.embeds, *sequence.streams))
        alone = type(sequence)(embeds=embeds, **cut, streams=tuple(streams))
        end = torch.tensor([int(real.sum()) - 1])
        drops = recorded(stages)
        noise = type(noise_of(sequence))(3, (row,))
        with torch.no_grad():
            own, _ = pruned_logits(vlm, alone, end, drops, noise)
        torch.testing.assert_close(logits[row, -own.shape[1] :], own[0], atol=1e-5, rtol=0)
    assert len({tuple(numbers.tolist()) for numbers in together.kept[0]}) == 3  # keyed by row


def test_each_stage_has_its_own_random_numbers():
    vlm = deep("llava")
    sequence, last = read(vlm, [[0]])
    chosen = []
    for layer in (1, 2):
        with torch.no_grad(), opened(vlm, sequence, last, [Drop(layer, Random(), 6)]) as dropped:
            vlm.logits(sequence)
        chosen.append(dropped.kept[0].tolist())
    assert chosen[0] != chosen[1]


def test_a_prompt_that_ends_in_an_image_goes_on_after_the_last_token_left():
    vlm, drops = deep("llava"), recorded([(1, Random(), 6), (3, FastV(), 3)])
    sequence, _ = read(vlm, [[0]])
    stop = int((sequence.slot[0] >= 0).nonzero()[-1]) + 1
    cut = {name: value[:, :stop] for name, value in vars(sequence).items() if torch.is_tensor(value)}
    sequence = type(sequence)(**cut)
    last = torch.tensor([stop - 1])
    with torch.no_grad(), opened(vlm, sequence, last, drops) as dropped:
        logits = vlm.logits(sequence)
    with torch.no_grad(), masking(vlm, sequence, drops, dropped.kept):
        own = vlm.logits(sequence)
    torch.testing.assert_close(logits, own.gather(1, dropped.order[..., None].expand_as(logits)), atol=1e-5, rtol=0)
    assert not gone_of(sequence.slot, dropped.kept[-1])[0, dropped.order[0]].any()


def test_gradients_reach_what_is_left():
    vlm = deep("llava")
    sequence, last = read(vlm, [[0]])
    sequence.embeds.requires_grad_()
    logits, origin = pruned_logits(vlm, sequence, last, [Drop(0, Random(), 5)], noise_of(sequence))
    logits[:, -1].sum().backward()
    reached = sequence.embeds.grad.abs().sum(-1) > 0
    assert set(reached.nonzero()[:, 1].tolist()) == set(origin[0].tolist())


class Broken:
    def __call__(self, view, k):
        raise ZeroDivisionError


class Wrong:
    """Numbers that are given, whatever is asked for."""

    def __init__(self, *numbers):
        self.numbers = numbers

    def __call__(self, view, k):
        return Kept(torch.tensor([self.numbers]))


@each_family
def test_an_exception_leaves_no_hook_and_the_model_as_it_was(family):
    vlm = deep(family)
    sequence, last = read(vlm, [[0]])
    before = {name: value.clone() for name, value in vlm.model.state_dict().items()}
    with torch.no_grad():
        expected = vlm.logits(sequence)
    drops = [Drop(1, FastV(), 6), Drop(2, Broken(), 5)]
    with pytest.raises(GradprobeError, match="ZeroDivisionError"), opened(vlm, sequence, last, drops):
        generated(vlm, sequence, **GREEDY)
    layers = vlm.family.language(vlm.model).layers
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in layers.modules())
    assert all(torch.equal(before[name], value) for name, value in vlm.model.state_dict().items())
    with torch.no_grad():
        assert torch.equal(vlm.logits(sequence), expected)


@pytest.mark.parametrize("numbers", [(1, 2), (2, 1, 3), (0, 1, 16), (-1, 0, 1), (1, 1, 2)])
def test_a_choice_that_is_none_is_an_error(numbers):
    vlm = deep("llava")
    sequence, last = read(vlm, [[0]])
    with pytest.raises(GradprobeError, match="Wrong"), opened(vlm, sequence, last, [Drop(1, Wrong(*numbers), 3)]):
        vlm.logits(sequence)


@each_attention
@pytest.mark.parametrize("positions", ["keep", "compact"])
@pytest.mark.parametrize("rows", [BATCHES["alone"], BATCHES["padded"]], ids=["alone", "padded"])
def test_several_tokens_behind_the_prompt_are_read_as_one_by_one(implementation, positions, rows):
    """An assistant's tokens are checked together."""
    vlm = deep("llava", implementation)
    sequence, last = read(vlm, rows)
    ids = torch.tensor([[3, 9, 4]]).expand(len(rows), -1)
    ends = sequence.positions.amax(1, keepdim=True)
    inputs = {"inputs_embeds": sequence.embeds, "position_ids": sequence.positions}
    logits = []
    for parts in (ids.split(1, 1), ids.split(3, 1), ids.split([1, 2], 1)):
        with torch.no_grad(), opened(vlm, sequence, last, [Drop(1, FastV(), 6), Drop(3, FastV(), 4)], positions):
            out, places, mask = (
                vlm.model(**inputs, attention_mask=sequence.attention_mask),
                ends,
                sequence.attention_mask,
            )
            each = []
            for part in parts:
                mask = torch.cat([mask, torch.ones_like(part)], 1)
                where = places + 1 + torch.arange(part.shape[1])
                name = "cache" if "cache" in out else "past_key_values"
                past = {name: out[name]}
                out = vlm.model(input_ids=part, position_ids=where, attention_mask=mask, **past)
                each.append(out.logits)
                places = where[:, -1:]
        logits.append(torch.cat(each, 1))
    torch.testing.assert_close(logits[1], logits[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(logits[2], logits[0], atol=1e-5, rtol=0)


def test_another_thread_reads_its_prompt_whole():
    vlm, there = deep("llava"), []
    sequence, last = read(vlm, [[0]])

    def elsewhere():
        with torch.no_grad():
            there.append(vlm.logits(sequence))

    with torch.no_grad():
        expected = vlm.logits(sequence)
    with opened(vlm, sequence, last, [Drop(1, FastV(), 6)]):
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    assert torch.equal(there[0], expected)
