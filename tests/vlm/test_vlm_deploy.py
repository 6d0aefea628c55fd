"""A pruned model is the whole model with the dropped keys masked."""

import copy

import pytest
import torch
from tiny_vlms import ATTENDING, IMAGE, SPEC, made, over, pruner, row_of, shared, tiny, types_of

from gradprobe.core import top_k
from gradprobe.errors import GradprobeError, UsageError
from gradprobe.operators.registry import part
from gradprobe.vlm.budgets import Budget
from gradprobe.vlm.pruner import Pruner

ROWS = [[1], [0, 2], []]
GREEDY = {"do_sample": False}
each_family = over()
each_attending = over(ATTENDING)


def visual_places(pruned, inputs):
    """Positions of the prompt that hold visual tokens, newlines left out ``(B, S)``."""
    places = inputs["input_ids"] == IMAGE
    vlm, newline = pruned.vlm, pruned.vlm.family.newline(pruned.vlm.model)
    images = {name: inputs[name] for name in vlm.family.inputs if name in inputs}
    if newline is None or not images:
        return places
    with torch.no_grad():
        features = vlm.model.model.get_image_features(**images, return_dict=True)
    real = [(feature != newline).any(1) for feature in features.pooler_output]
    return places.masked_scatter(places, torch.cat(real))


def masked(pruned, inputs):
    """Attention mask of the prompt with 0 at dropped tokens, made from what `kept` says."""
    mask = inputs["attention_mask"].clone()
    for row, (images, places) in enumerate(zip(pruned.kept(inputs), visual_places(pruned, inputs), strict=True)):
        where, alone = places.nonzero()[:, 0], row_of(inputs, ROWS, pruned.vlm, row)
        for kept, tokens in zip(images, pruned.vlm.vision_features(alone).tokens, strict=True):
            here, where = where[: len(tokens)], where[len(tokens) :]
            dropped = torch.ones(len(tokens), dtype=torch.bool)
            dropped[kept] = False
            mask[row, here[dropped]] = 0
        assert len(where) == 0
    return mask


def reference(pruned, inputs, mask):
    """Logits of the model's own full-length forward with these keys masked, at the unpruned positions."""
    model = copy.deepcopy(pruned.vlm.model)
    attended, positions = inputs["attention_mask"], None
    if "image_grid_thw" in inputs:  # positions of three axes
        grid, types = inputs["image_grid_thw"], inputs["mm_token_type_ids"]
        positions, _ = model.model.get_rope_index(
            inputs["input_ids"], types, image_grid_thw=grid, attention_mask=attended
        )
    with torch.no_grad():
        return model(**{**inputs, "attention_mask": mask}, position_ids=positions).logits


def greedy(pruned, inputs, steps):
    """Tokens chosen one by one from the masked full-length model of one row, without a cache."""
    mask, new = masked(pruned, inputs), []
    for _ in range(steps):
        logits = reference(pruned, inputs, mask)[0, -1]
        logits[IMAGE] = -torch.inf  # a placeholder would ask for another image
        new.append(logits.argmax().item())
        one, word = torch.ones(1, 1, dtype=torch.long), torch.tensor([new[-1:]])
        inputs = {**inputs, "input_ids": torch.cat([inputs["input_ids"], word], 1)}
        inputs["attention_mask"] = torch.cat([inputs["attention_mask"], one], 1)
        inputs |= types_of(pruned.vlm, inputs["input_ids"])
        mask = torch.cat([mask, one], 1)
    return new


@pytest.fixture(autouse=True)
def same_rows(monkeypatch):
    """`masked` reads ROWS; tests with other rows set them."""
    return lambda rows: monkeypatch.setitem(globals(), "ROWS", rows)


@each_attending
@pytest.mark.parametrize("row", range(3), ids=["one image", "two images", "no image"])
@pytest.mark.parametrize("budget", [Budget(k=5), Budget(ratio=0.4)], ids=["k", "ratio"])
def test_equals_the_whole_model_with_dropped_keys_masked(family, row, budget, same_rows):
    pruned, rows = pruner(family, budget), [ROWS[row]]
    same_rows(rows)
    inputs = made(pruned.vlm, rows)
    mask = masked(pruned, inputs)
    own = reference(pruned, inputs, mask)[0][mask[0] > 0]
    torch.testing.assert_close(pruned.logits(inputs)[0], own, atol=1e-5, rtol=0)
    if rows[0]:  # and the mask matters
        assert (reference(pruned, inputs, inputs["attention_mask"])[0, -1] - own[-1]).abs().max() > 1e-2


@each_attending
@pytest.mark.parametrize("pad", ["left", "right"])
def test_a_batch_of_mixed_rows_equals_the_masked_model_and_its_rows_alone(family, pad):
    pruned = pruner(family)
    inputs = made(pruned.vlm, ROWS, pad)
    mask, together = masked(pruned, inputs), pruned.logits(inputs)
    own = reference(pruned, inputs, mask)
    for row in range(3):
        length = int(mask[row].sum())
        torch.testing.assert_close(together[row, -length:], own[row][mask[row] > 0], atol=1e-5, rtol=0)
        alone = pruned.logits(row_of(inputs, ROWS, pruned.vlm, row))
        torch.testing.assert_close(together[row, -length:], alone[0], atol=1e-5, rtol=0)


@each_attending
@pytest.mark.parametrize("row", range(3), ids=["one image", "two images", "no image"])
def test_generate_equals_greedy_on_the_masked_model(family, row, same_rows):
    pruned, rows = pruner(family), [ROWS[row]]
    inputs = row_of(made(pruned.vlm, ROWS), ROWS, pruned.vlm, row)
    same_rows(rows)
    out = pruned.generate(inputs, max_new_tokens=6, options=GREEDY | {"suppress_tokens": [IMAGE]})
    assert out[0].tolist() == inputs["input_ids"][0].tolist() + greedy(pruned, inputs, 6)


@each_family
@pytest.mark.parametrize("pad", ["left", "right"])
def test_generate_in_a_batch_is_generate_alone_after_the_prompt(family, pad):
    pruned = pruner(family)
    inputs = made(pruned.vlm, ROWS, pad)
    out = pruned.generate(inputs, max_new_tokens=5, options=GREEDY)
    assert torch.equal(out[:, : inputs["input_ids"].shape[1]], inputs["input_ids"])
    for row in range(3):
        alone = pruned.generate(row_of(inputs, ROWS, pruned.vlm, row), max_new_tokens=5, options=GREEDY)
        assert out[row, -5:].tolist() == alone[0, -5:].tolist()


@each_family
def test_keeping_everything_is_the_models_own_logits_and_text(family):
    pruned = pruner(family, Budget(k=1000))
    inputs = made(pruned.vlm, [[1, 2]])
    model = copy.deepcopy(pruned.vlm.model)
    with torch.no_grad():
        assert torch.equal(pruned.logits(inputs), model(**inputs).logits)
    own = model.generate(**inputs, max_new_tokens=5, do_sample=False)
    assert torch.equal(pruned.generate(inputs, max_new_tokens=5, options=GREEDY), own)


@each_family
def test_an_image_with_fewer_tokens_than_k_keeps_all_and_others_k(family):
    inputs = made(shared(family), [[0, 1, 2]])
    sizes = [len(tokens) for tokens in shared(family).vision_features(inputs).tokens]
    for k in (min(sizes) - 1, sorted(sizes)[1], max(sizes) + 1):
        (kept,) = pruner(family, Budget(k=k)).kept(inputs)
        assert [len(index) for index in kept] == [min(k, n) for n in sizes]


@each_family
def test_the_kept_are_those_of_the_highest_scores_in_order(family):
    pruned = pruner(family)
    inputs = made(pruned.vlm, ROWS)
    tokens = iter(pruned.vlm.vision_features(inputs).tokens)
    for images in pruned.kept(inputs):
        for index in images:
            scores = pruned.scorer(next(tokens)[None])
            assert index.tolist() == top_k(scores, 5)[0].tolist() == sorted(index.tolist())


@each_family
def test_text_and_newlines_stay_and_the_language_model_reads_no_more_than_what_is_kept(family):
    pruned = pruner(family)
    inputs = made(pruned.vlm, ROWS)
    lengths = []
    hook = pruned.vlm.family.language(pruned.vlm.model).register_forward_pre_hook(
        lambda _, args, given: lengths.append(given["inputs_embeds"].shape[1]), with_kwargs=True
    )
    try:
        pruned.generate(inputs, max_new_tokens=2, options=GREEDY)
    finally:
        hook.remove()
    text = (inputs["attention_mask"] > 0) & ~visual_places(pruned, inputs)
    assert lengths[0] == max(int(text[row].sum()) + 5 * len(ROWS[row]) for row in range(3))
    origin = pruned.sequence(inputs).origin
    for row in range(3):
        assert set(text[row].nonzero()[:, 0].tolist()) <= set(origin[row].tolist())


@each_family
def test_gaps_in_positions_are_not_taken_for_packed_sequences(family, same_rows):
    """Without a mask and a cache, transformers reads a gap in position ids as the start of another sequence."""
    pruned = pruner(family)
    same_rows([[1]])
    inputs = made(pruned.vlm, ROWS)
    sequence = pruned.sequence(inputs)
    assert (sequence.positions.flatten(0, -2)[0].diff() > 1).any()
    with torch.no_grad():
        fallen = pruned.vlm.family.language(pruned.vlm.model)(
            inputs_embeds=sequence.embeds, position_ids=sequence.positions, use_cache=False
        ).last_hidden_state
        fallen = pruned.vlm.model.get_output_embeddings()(fallen)
    if sequence.positions.ndim == 2:  # the trap is there: positions of three axes are exempt
        assert (fallen - pruned.logits(inputs))[0].abs().max() > 1e-3
    with pytest.raises(UsageError, match="use_cache=False"):
        pruned.generate(inputs, options={"use_cache": False})


def test_what_generate_returns_begins_with_the_prompt_for_each_of_several_answers():
    pruned = pruner("llava")
    inputs = made(pruned.vlm, ROWS)
    options = {"do_sample": False, "num_beams": 2, "num_return_sequences": 2}
    out = pruned.generate(inputs, max_new_tokens=3, options=options)
    assert torch.equal(out[:, :-3], inputs["input_ids"].repeat_interleave(2, 0))
    with pytest.raises(UsageError, match="return_dict_in_generate"):
        pruned.generate(inputs, options={"return_dict_in_generate": True})
    for name in ("input_ids", "attention_mask", "position_ids", "pixel_values"):
        with pytest.raises(UsageError, match=f"{name} is no option here"):
            pruned.generate(inputs, options={name: inputs.get(name)})
    with pytest.raises(UsageError, match="give it as an argument"):
        pruned.generate(inputs, options={"max_new_tokens": 3})


def test_remembered_positions_of_another_prompt_are_not_used():
    pruned = pruner("qwen2_5_vl")
    inputs, other = made(pruned.vlm, [[1]]), made(pruned.vlm, [[2, 2]], seed=1)
    before = pruned.generate(inputs, max_new_tokens=4, options=GREEDY)
    pruned.vlm.model.generate(**other, max_new_tokens=2, do_sample=False)
    assert torch.equal(pruned.generate(inputs, max_new_tokens=4, options=GREEDY), before)


@each_family
def test_the_model_is_left_as_it_was(family):
    vlm = tiny(family)
    vlm.model.train()
    before = {name: value.clone() for name, value in vlm.model.state_dict().items()}
    random = torch.get_rng_state()
    pruned = Pruner(vlm, part("scorer", SPEC).make(vlm.dim, 3).train(), Budget(k=3))
    pruned.generate(made(shared(family), [[0]]), max_new_tokens=2, options=GREEDY)
    assert all(module.training for module in [*vlm.model.modules(), *pruned.scorer.modules()])
    assert all(p.requires_grad and p.grad is None for p in [*vlm.model.parameters(), *pruned.scorer.parameters()])
    assert all(torch.equal(before[name], value) for name, value in vlm.model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)


def test_a_scorer_in_training_mode_is_run_without_dropout():
    vlm = shared("llava")
    noisy = torch.nn.Sequential(torch.nn.Dropout(0.9), torch.nn.Linear(vlm.dim, 1), torch.nn.Flatten(1)).train()
    inputs = made(vlm, [[0]])
    first, second = (Pruner(vlm, noisy, Budget(k=5)).kept(inputs)[0][0].tolist() for _ in range(2))
    assert first == second and noisy[0].training


def test_a_budget_is_a_number_or_a_share():
    assert [Budget(ratio=0.25).of(n) for n in (1, 2, 10, 100)] == [1, 1, 2, 25]
    for wrong in ({}, {"k": 3, "ratio": 0.1}, {"k": 0}, {"ratio": 0.0}, {"ratio": 1.5}):
        with pytest.raises(UsageError, match=r"--k|--ratio"):
            Budget(**wrong)


def test_scores_that_are_no_numbers_are_an_error():
    pruned = pruner("llava")
    pruned.scorer.out.weight.data.fill_(torch.nan)
    with pytest.raises(GradprobeError, match="no numbers"):
        pruned.kept(made(pruned.vlm, [[0]]))
