"""Qwen3.5, whose layers of linear attention cannot mask a key: a dropped token is absent from the sequence."""

import pytest
import torch
from tiny_vlms import made, pruner, row_of, shared

from gradprobe.errors import UsageError
from gradprobe.vlm.budgets import Budget
from gradprobe.vlm.pruner import Pruner
from gradprobe.vlm.sequence import assemble

FAMILY = "qwen3_5"
ROWS = [[1], [0, 2], []]


def closed(pruned, inputs):
    """The model's own embeddings and positions of one row without the dropped tokens, through its own forward."""
    vlm, model = pruned.vlm, pruned.vlm.model
    places = inputs["input_ids"][0] == model.config.image_token_id
    with torch.no_grad():
        embeds = model.get_input_embeddings()(inputs["input_ids"])
        if places.any():
            images = {name: inputs[name] for name in vlm.family.inputs}
            embeds[0, places] = torch.cat(model.model.get_image_features(**images, return_dict=True).pooler_output)
    keep, numbers = ~places, places.nonzero()[:, 0]
    first = 0
    for kept, tokens in zip(pruned.kept(inputs)[0], vlm.vision_features(inputs).tokens, strict=True):
        keep[numbers[first + kept]] = True
        first += len(tokens)
    positions = vlm.prompt(inputs, vlm.vision_features(inputs)).positions
    return {"inputs_embeds": embeds[:, keep], "position_ids": positions[..., keep]}


@pytest.mark.parametrize("row", range(3), ids=["one image", "two images", "no image"])
def test_pruned_rows_are_the_models_own_forward_without_the_dropped(row):
    pruned = pruner(FAMILY)
    assert set(pruned.vlm.model.config.text_config.layer_types) == {"linear_attention", "full_attention"}
    inputs = row_of(made(pruned.vlm, ROWS), ROWS, pruned.vlm, row)
    with torch.no_grad():
        own = pruned.vlm.model(**closed(pruned, inputs), use_cache=True).logits
    torch.testing.assert_close(pruned.logits(inputs), own, atol=1e-5, rtol=0)


@pytest.mark.parametrize("pad", ["left", "right"])
def test_rows_of_a_batch_are_the_rows_alone(pad):
    pruned = pruner(FAMILY)
    inputs = made(pruned.vlm, ROWS, pad)
    together = pruned.logits(inputs)
    for row in range(3):
        alone = pruned.logits(row_of(inputs, ROWS, pruned.vlm, row))[0]
        torch.testing.assert_close(together[row, -len(alone) :], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=["greedy", "beams"])
def test_generation_is_the_models_own_without_the_dropped(options):
    pruned = pruner(FAMILY)
    inputs = row_of(made(pruned.vlm, ROWS), ROWS, pruned.vlm, 1)
    out = pruned.generate(inputs, max_new_tokens=5, options={"do_sample": False, **options})
    own = pruned.vlm.model.generate(**closed(pruned, inputs), max_new_tokens=5, do_sample=False, **options)
    assert torch.equal(out[:, -5:], own)


def test_what_needs_a_mask_is_refused():
    vlm = shared(FAMILY)
    inputs = made(vlm, [[1]])
    with pytest.raises(UsageError, match=r"has linear_attention, .*leave @LAYER out"):
        Pruner(vlm, "fastv@1", Budget(k=3)).generate(inputs)
    features = vlm.vision_features(inputs)
    sequence = assemble(vlm, vlm.prompt(inputs, features), list(features.tokens))
    with pytest.raises(UsageError, match=r"linear attention, .*another throttle"):
        vlm.logits(sequence, torch.zeros(sequence.slot.shape))
    assert Pruner(vlm, "norm", Budget(k=3)).generate(inputs, max_new_tokens=1).shape[0] == 1
