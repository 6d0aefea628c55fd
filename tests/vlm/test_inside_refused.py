"""Refusals inside a language model, with the reason and what to type."""

import pytest
import torch
from masked_layers import deep, generated, noise_of, opened, read
from tiny_vlms import ATTENDING, made, over, tiny

from gradprobe.errors import UsageError
from gradprobe.selectors.dart import DART
from gradprobe.selectors.fastv import FastV
from gradprobe.selectors.pyramiddrop import PyramidDrop
from gradprobe.selectors.random import Random
from gradprobe.view import Drop
from gradprobe.vlm.inside import dropping, pruned_logits

GREEDY = {"max_new_tokens": 3, "do_sample": False}
each_family = over(ATTENDING)


@each_family
@pytest.mark.parametrize(
    ("drops", "match"),
    [
        ([Drop(5, FastV(), 3)], "fastv@5 .* has the layers 0 to 4; type one of them behind the @"),
        ([Drop(-1, FastV(), 3)], "fastv@-1 .* 0 to 4"),
        ([Drop(3, FastV(), 5), Drop(2, DART(), 4)], "dart@2 comes behind layer 3.*ascending order"),
        ([Drop(3, FastV(), 5), Drop(3, DART(), 4)], "dart@3 comes behind layer 3"),
        ([Drop(1, FastV(), 4), Drop(3, PyramidDrop(), 5)], "pyramiddrop@3 is to keep 5 .* of the 4 .* give 1 to 4"),
        ([Drop(1, FastV(), 0)], "fastv@1 is to keep 0 .* give 1 to"),
        ([Drop(1, FastV(), 1000)], "fastv@1 is to keep 1000 visual tokens of the"),
    ],
)
def test_stages_that_make_no_plan(family, drops, match):
    vlm = deep(family)
    sequence, last = read(vlm, [[0]])
    with pytest.raises(UsageError, match=match), opened(vlm, sequence, last, drops):
        pass


@each_family
def test_rows_with_different_numbers_of_visual_tokens(family):
    vlm = deep(family)
    for rows in ([[0], [0, 0]], [[0], []]):
        sequence, last = read(vlm, rows)
        with pytest.raises(UsageError, match=r"the rows have .*equal numbers: give the rows one by one"):
            pruned_logits(vlm, sequence, last, [Drop(1, FastV(), 3)], noise_of(sequence))


def test_windows_shorter_than_the_sequence():
    vlm = tiny("llava_next")
    sequence, last = read(vlm, [[0]])
    length = sequence.embeds.shape[1]
    vlm.model.config.text_config.sliding_window = length - 1
    refused = pytest.raises(UsageError, match=f"last {length - 1} of {length} tokens only.*leave @LAYER out")
    with refused, opened(vlm, sequence, last, [Drop(1, FastV(), 3)]):
        pass
    vlm.model.config.text_config.sliding_window = length + 1
    refused = pytest.raises(UsageError, match=f"last {length + 1} of {length + 2} tokens only")
    with refused, opened(vlm, sequence, last, [Drop(1, FastV(), 3)]):
        generated(vlm, sequence, **GREEDY)


def test_layers_without_attention():
    vlm = tiny("qwen2_5_vl")
    sequence, last = read(vlm, [[0]])
    vlm.model.config.text_config.layer_types = ["linear_attention", "full_attention"]
    refused = pytest.raises(UsageError, match=r"has linear_attention, .*leave @LAYER out")
    with refused, opened(vlm, sequence, last, [Drop(1, FastV(), 3)]):
        pass


def test_flash_attention_of_padded_rows():
    vlm = tiny("llava")
    vlm.model.config.text_config._attn_implementation = "flash_attention_2"
    sequence, last = read(vlm, [[0], [0]])
    refused = pytest.raises(UsageError, match=r"flash_attention_2, which takes no mask of padded rows.*sdpa")
    with refused, opened(vlm, sequence, last, [Drop(1, FastV(), 3)]):
        pass
    sequence, last = read(vlm, [[0]])  # without padding there is no mask
    with opened(vlm, sequence, last, [Drop(1, FastV(), 3)]):
        pass


def test_an_attention_without_masks_is_right_where_there_is_no_padding():
    """As flash attention does: no mask, and gaps in position ids are the ends of packed sequences."""
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    gaps = []

    def flash(module, query, key, value, attention_mask, position_ids=None, **options):
        gaps.append(position_ids is not None and bool((position_ids.diff() != 1).any()))
        assert attention_mask is None
        return sdpa_attention_forward(module, query, key, value, None, **options)

    vlm = deep("llava")
    sequence, last = read(vlm, [[0]])
    drops = [Drop(1, FastV(), 7), Drop(3, PyramidDrop(), 4)]
    with torch.no_grad(), opened(vlm, sequence, last, drops):
        expected, new = vlm.logits(sequence), generated(vlm, sequence, **GREEDY)
    AttentionInterface.register("unmasked", flash)
    like = tiny("llava", layers=5)
    like.model.set_attn_implementation("unmasked")
    with torch.no_grad(), opened(like, sequence, last, drops):
        torch.testing.assert_close(like.logits(sequence), expected, atol=1e-5, rtol=0)
        assert torch.equal(generated(like, sequence, **GREEDY), new)
    assert gaps and not any(gaps)


def test_positions_of_three_axes_are_not_renumbered():
    vlm = deep("qwen2_5_vl")
    sequence, last = read(vlm, [[0]])
    refused = pytest.raises(UsageError, match=r"three axes \(time, height, width\).*leave --positions compact out")
    with refused, opened(vlm, sequence, last, [Drop(1, Random(), 3)], "compact"):
        pass


@each_family
def test_calls_that_cannot_be_followed(family):
    vlm = deep(family)
    sequence, last = read(vlm, [[0]])
    embeds = {"inputs_embeds": sequence.embeds, "position_ids": sequence.positions}
    calls = [
        (made(vlm, [[0]]) | {"use_cache": False}, "leave use_cache=False and prefill_chunk_size out"),
        (embeds | {"cache_implementation": "static"}, "static cache .*leave cache_implementation out"),
    ]
    if vlm.family.streams(vlm.model):  # its own forward adds them to all tokens
        del calls[0]
    for inputs, match in calls:
        with (
            torch.no_grad(),
            pytest.raises(UsageError, match=match),
            opened(vlm, sequence, last, [Drop(1, FastV(), 3)]),
        ):
            vlm.model.generate(**{"attention_mask": sequence.attention_mask} | GREEDY | inputs)
    other, _ = read(vlm, [[0, 0]])
    refused = pytest.raises(UsageError, match=r"reads 1 x \d+ positions, the prompt has 1 x")
    with torch.no_grad(), refused, opened(vlm, sequence, last, [Drop(1, FastV(), 3)]):
        vlm.logits(other)


def test_a_batch_that_is_not_the_prompts():
    vlm = deep("llava")
    sequence, last = read(vlm, [[0], [0]])
    one = {name: value[:1] for name, value in vars(sequence).items() if torch.is_tensor(value)}
    mask, noise = sequence.attention_mask, noise_of(sequence)
    with dropping(vlm, sequence.slot, mask, last, [Drop(1, FastV(), 3)], noise), pytest.raises(UsageError, match="1 x"):
        vlm.logits(type(sequence)(**one))
