"""Every family: features and positions of images, and that all of them put together again are the model's answer."""

import copy
import sys
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from tiny_vlms import ATTENDING, BOS, FAMILIES, IMAGE, made, shared, tiny

import gradprobe as gp
from gradprobe.errors import GradprobeError, UsageError
from gradprobe.operators.registry import part
from gradprobe.vlm.families import family_of
from gradprobe.vlm.masks import biased_mask
from gradprobe.vlm.model import VLM, open_vlm
from gradprobe.vlm.sequence import assemble
from gradprobe.vlm.training.need import check_frozen

ROWS = {"one image": [[1]], "several": [[1, 2]], "mixed": [[0], [1, 2], []], "no image": [[], []]}
each_family = pytest.mark.parametrize("family", FAMILIES)
each_attending = pytest.mark.parametrize("family", ATTENDING)


def tokens_of(vlm, prompt, features):
    """The visual tokens of each row."""
    images, none = iter(features.tokens), torch.zeros(0, vlm.dim)
    return [torch.cat([none, *(next(images) for _ in counts)]) for counts in prompt.counts]


def read(vlm, inputs, pad="right"):
    """All tokens of some inputs, assembled."""
    features = vlm.vision_features(inputs)
    prompt = vlm.prompt(inputs, features)
    tokens = tokens_of(vlm, prompt, features)
    return prompt, tokens, assemble(vlm, prompt, tokens, pad=pad)


@each_family
@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize("pad", ["left", "right"])
def test_everything_kept_is_the_models_own_answer(family, rows, pad):
    vlm = shared(family)
    inputs = made(vlm, rows, pad)
    _, _, sequence = read(vlm, inputs, pad)
    with torch.no_grad():
        own = vlm.model(**inputs).logits
    real = inputs["attention_mask"] > 0
    torch.testing.assert_close(vlm.logits(sequence)[real], own[real], atol=1e-5, rtol=0)
    assert torch.equal(sequence.origin[real], torch.arange(real.shape[1]).expand_as(real)[real])
    assert torch.equal(sequence.attention_mask > 0, real)


@each_family
def test_one_row_alone_is_the_models_own_answer_bit_for_bit(family):
    vlm = shared(family)
    inputs = made(vlm, [[1, 2]])
    with torch.no_grad():
        assert torch.equal(vlm.logits(read(vlm, inputs)[2]), vlm.model(**inputs).logits)


@pytest.mark.parametrize("family", [family for family in FAMILIES if "moe" in family])
def test_experts_that_work_in_groups_are_followed_too(family):
    vlm = tiny(family)
    vlm.model.set_experts_implementation("grouped_mm")  # transformers' own choice
    inputs = made(vlm, [[1, 2]])
    with torch.no_grad():
        assert torch.equal(vlm.logits(read(vlm, inputs)[2]), vlm.model(**inputs).logits)


@each_family
def test_positions_are_those_that_generate_uses(family):
    vlm = shared(family)
    inputs = made(vlm, ROWS["mixed"])
    model = copy.deepcopy(vlm.model)  # a Qwen2.5-VL remembers its last positions
    others = {name: value for name, value in inputs.items() if name not in ("input_ids", "pixel_values")}
    own = model._prepare_position_ids_for_generation(inputs["input_ids"], others)
    own = own[1:] if own.ndim == 3 else own  # the first row is for the mask
    prompt = vlm.prompt(inputs, vlm.vision_features(inputs))
    real = inputs["attention_mask"] > 0
    assert torch.equal(prompt.positions[..., real], own[..., real])


@each_family
def test_tokens_are_in_the_order_in_which_the_language_model_reads_them(family):
    vlm = shared(family)
    inputs = made(vlm, [[1, 2, 0]])
    features = vlm.vision_features(inputs)
    images = {name: value for name, value in inputs.items() if name in vlm.family.inputs}
    with torch.no_grad():
        output = vlm.model.model.get_image_features(**images, return_dict=True).pooler_output
        output = torch.cat([*output]).split([len(slots) for slots in features.slots])  # tiles of a picture joined
        for tokens, slots, own in zip(features.tokens, features.slots, output, strict=True):
            assert tokens.shape == (int((slots >= 0).sum()), vlm.dim)
            assert slots[slots >= 0].tolist() == list(range(len(tokens)))
            torch.testing.assert_close(vlm.project(tokens), own[slots >= 0], atol=1e-6, rtol=1e-5)


def test_newlines_end_the_lines_of_the_tiles_and_padding_is_no_token():
    vlm = shared("llava_next")
    features = vlm.vision_features(made(vlm, [[1]]))
    (tokens,), (slots,) = features.tokens, features.slots
    # 56 x 40 pixels go into 2 x 2 tiles of 4 x 4 tokens; of the 8 columns one on each side is padding
    assert len(tokens) == 16 + 8 * 6
    assert slots.tolist()[:16] == list(range(16))
    assert (slots[16:].reshape(8, 7)[:, 6] == -1).all() and (slots == -1).sum() == 8


def test_a_newline_of_zeros_or_row_numbers_is_no_token():
    vlm = tiny("llava_next")
    for value in (0.0, 3.0):
        vlm.model.model.image_newline.data.fill_(value)
        assert (vlm.vision_features(made(vlm, [[1]])).slots[0] == -1).sum() == 8


def test_a_qwen_token_is_a_group_of_four_patches_in_raster_order():
    vlm = shared("qwen2_5_vl")
    inputs = made(vlm, [[1]])
    features = vlm.vision_features(inputs)
    height, width = (inputs["image_grid_thw"][0, 1:] // 2).tolist()
    assert vlm.dim == 4 * 32 and len(features.tokens[0]) == height * width
    changed = inputs["pixel_values"].clone()
    changed[:4] += 1  # the processor hands patches out group by group, in raster order
    moved = (vlm.vision_features(inputs | {"pixel_values": changed}).tokens[0] - features.tokens[0]).abs().sum(1)
    assert moved.argmax() == 0


def test_text_goes_on_from_the_widest_side_of_an_image_even_without_token_types():
    vlm = shared("qwen2_5_vl")
    inputs = made(vlm, [[1]])
    with_types = vlm.prompt(inputs, vlm.vision_features(inputs)).positions
    del inputs["mm_token_type_ids"]
    assert torch.equal(vlm.prompt(inputs, vlm.vision_features(inputs)).positions, with_types)
    assert with_types.shape[0] == 3 and not torch.equal(with_types[1], with_types[2])


@each_family
def test_the_vision_tower_runs_once_and_the_projector_hardly(family):
    vlm = shared(family)
    inputs, calls, read = made(vlm, [[0, 1]]), [], []
    projectors = [projector := vlm.family.projector(vlm.model), *vlm.family.streams(vlm.model)]
    hooks = [vlm.family.tower(vlm.model).register_forward_hook(lambda *_: calls.append(1))]
    hooks += [each.register_forward_hook(lambda _, args, out: read.append(args[0].numel())) for each in projectors]
    try:
        features = vlm.vision_features(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    assert len(calls) == 1 and len(features.tokens) == 2
    assert sum(read) == vlm.dim and len(read) == len(projectors)  # their results are not needed yet
    assert not projector._forward_hooks and not projector._forward_pre_hooks


@each_family
def test_a_failure_leaves_no_hook_and_the_model_as_it_was(family, monkeypatch):
    vlm = tiny(family)
    vlm.model.train()
    projector = vlm.family.projector(vlm.model)
    monkeypatch.setattr(projector, "forward", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        vlm.vision_features(made(shared(family), [[0]]))
    assert not projector._forward_hooks and not projector._forward_pre_hooks
    assert all(module.training for module in vlm.model.modules())
    assert all(p.requires_grad for p in vlm.model.parameters())


@each_family
@pytest.mark.parametrize("asks", [False, True], ids=["frozen", "asking"])
def test_gradients_reach_visual_tokens_and_no_parameter(family, asks):
    vlm = tiny(family)
    vlm.model.requires_grad_(asks)
    before = {name: p.clone() for name, p in vlm.model.state_dict().items()}
    inputs = made(vlm, [[0], [1, 2]])
    features = vlm.vision_features(inputs)
    prompt = vlm.prompt(inputs, features)
    tokens = [t.clone().requires_grad_() for t in tokens_of(vlm, prompt, features)]
    vlm.logits(assemble(vlm, prompt, tokens))[:, -1].logsumexp(-1).sum().backward()
    assert all((t.grad.abs().sum(1) > 0).all() for t in tokens)
    assert all(p.grad is None for p in vlm.model.parameters())
    assert all(p.requires_grad is asks for p in vlm.model.parameters())
    assert all(torch.equal(before[name], p) for name, p in vlm.model.state_dict().items())


LEARNED = [
    (family, op)
    for op in ("vpnoise", "scale", "softtopk", "gumbel", "lapsum+zero", "lapsum+mean")
    for family in (ATTENDING if op == "softtopk" else FAMILIES)  # soft top-K puts biases on keys
]


@pytest.mark.parametrize(("family", "op"), LEARNED)
def test_a_scorer_learns_through_every_throttle_and_keeps_k_of_each_image(family, op):
    vlm = shared(family)
    inputs = made(vlm, [[1, 2]])
    features = vlm.vision_features(inputs)
    prompt = vlm.prompt(inputs, features)
    scorer = part("scorer", "mlp:width=8").make(vlm.dim, 0)
    tokens, index, bias, first = [], [], [], 0
    for number, image in enumerate(features.tokens):
        chosen = gp.build(op)(image[None], scorer(image[None]), 5, noise=gp.Noise(0, (number,)))
        assert chosen.weights.sum().item() == pytest.approx(5, abs=1e-4)
        tokens.append(chosen.tokens[0])
        index.append(first + (torch.arange(len(image)) if chosen.index is None else chosen.index[0]))
        bias.append(torch.zeros(len(chosen.tokens[0])) if chosen.key_bias is None else chosen.key_bias[0])
        first += len(image)
    sequence = assemble(vlm, prompt, [torch.cat(tokens)], [torch.cat(index)])
    visual = prompt.slot.gather(1, sequence.origin) >= 0
    keys = torch.zeros(visual.shape).masked_scatter(visual, torch.cat(bias)) if "soft" in op else None
    vlm.logits(sequence, keys)[0, -1].log_softmax(-1)[7].backward()
    assert all(p.grad.abs().sum() > 0 for p in scorer.parameters() if p is not scorer.out.bias)
    assert all(p.grad.isfinite().all() for p in scorer.parameters())
    assert all(p.grad is None for p in vlm.model.parameters())


@each_attending
def test_minus_infinity_is_exactly_absent_and_zero_exactly_present(family):
    vlm = shared(family)
    inputs = made(vlm, [[1], [2]])
    prompt, tokens, sequence = read(vlm, inputs)
    kept = [torch.arange(0, len(t), 3) for t in tokens]
    few = assemble(vlm, prompt, [t[i] for t, i in zip(tokens, kept, strict=True)], kept)
    bias = torch.zeros(sequence.origin.shape)
    for row, index in enumerate(kept):
        slot = prompt.slot[row][sequence.origin[row]]
        bias[row] = torch.where((slot >= 0) & ~torch.isin(slot, index), -torch.inf, 0.0)
    with torch.no_grad():
        own, throttled = vlm.logits(few), vlm.logits(sequence, bias)
        gone = vlm.logits(sequence, bias, torch.zeros_like(bias))  # an absent token that sees itself: nobody else does
        assert torch.equal(vlm.logits(sequence, torch.zeros_like(bias)), vlm.logits(sequence))
    for row in range(2):
        here = bias[row].isfinite() & (sequence.origin[row] >= 0)
        there = few.origin[row] >= 0
        torch.testing.assert_close(throttled[row][here], own[row][there], atol=1e-5, rtol=0)
        torch.testing.assert_close(gone[row][here], own[row][there], atol=1e-5, rtol=0)
        assert (vlm.logits(sequence)[row][here][-1] - own[row][there][-1]).abs().max() > 1e-2  # dropping matters


@each_attending
def test_the_same_bias_on_all_keys_changes_nothing(family):
    vlm = shared(family)
    _, _, sequence = read(vlm, made(vlm, [[1], [0]]))
    with torch.no_grad():
        own, shifted = vlm.logits(sequence), vlm.logits(sequence, torch.full(sequence.origin.shape, -1.5))
    real = sequence.attention_mask > 0
    torch.testing.assert_close(shifted[real], own[real], atol=2e-5, rtol=0)


def test_the_gradient_of_a_bias_is_its_slope():
    vlm = shared("llava")
    _, _, sequence = read(vlm, made(vlm, [[1]]))
    bias = torch.full(sequence.origin.shape, -0.5, requires_grad=True)
    loss = lambda b: vlm.logits(sequence, b)[0, -1].log_softmax(-1)[7]  # noqa: E731
    (slope,) = torch.autograd.grad(loss(bias), bias)
    place, step = int(slope.abs().argmax()), 1e-2
    shift = torch.zeros_like(bias).index_fill_(1, torch.tensor([place]), step)
    with torch.no_grad():
        measured = (loss(bias + shift) - loss(bias - shift)) / (2 * step)
    assert measured.item() == pytest.approx(slope[0, place].item(), rel=2e-2)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_absent_tokens_before_all_text_give_no_nan(attention):
    vlm = tiny("llava")
    vlm.model.set_attn_implementation(attention)
    inputs = made(vlm, [[0]])
    ids = torch.tensor([[IMAGE] * 16 + [BOS, 5, 9]])
    inputs |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    prompt, tokens, sequence = read(vlm, inputs)
    bias = torch.where(prompt.slot >= 0, -torch.inf, 0.0).requires_grad_()
    none = assemble(vlm, prompt, [tokens[0][:0]], [torch.arange(0)])
    out = vlm.logits(sequence, bias)
    torch.testing.assert_close(out[:, 16:], vlm.logits(none), atol=1e-5, rtol=0)
    out[:, 16:].sum().backward()
    assert out.isfinite().all() and bias.grad.isfinite().all()


def test_a_bias_on_itself_stands_on_the_diagonal_only():
    mask = biased_mask(torch.ones(1, 3).long(), torch.tensor([[-1.0, -2.0, -3.0]]), torch.tensor([[0.0, 0.5, 1.0]]))
    assert mask[0, 0].tolist() == [[0, -torch.inf, -torch.inf], [-1, 0.5, -torch.inf], [-1, -2, 1]]


@each_family
def test_tokens_of_other_images_in_the_batch_do_not_matter(family):
    vlm = shared(family)
    rows = [[1], [2]]
    prompt, tokens, sequence = read(vlm, made(vlm, rows))
    other = assemble(vlm, prompt, [tokens[0], torch.zeros_like(tokens[1])])
    assert torch.equal(vlm.logits(other)[0], vlm.logits(sequence)[0])
    assert not torch.equal(vlm.logits(other)[1], vlm.logits(sequence)[1])


def test_images_and_placeholders_that_do_not_fit_are_refused():
    vlm = shared("llava")
    one, two = made(vlm, [[0]]), made(vlm, [[0, 1]])
    with pytest.raises(UsageError, match="32 places for image tokens, its images fill 16"):
        vlm.prompt(two, vlm.vision_features(one))
    with pytest.raises(UsageError, match="2 images, but places in the prompt for 1"):
        vlm.prompt(one, vlm.vision_features(two))


@pytest.mark.parametrize("index", [[1, 0, 2], [0, 1, 16], [0, 1], [0, 0, 1]])
def test_tokens_that_do_not_stand_anywhere_are_refused(index):
    vlm = shared("llava")
    prompt, tokens, _ = read(vlm, made(vlm, [[0]]))
    with pytest.raises(UsageError, match="row 0 has 16 visual tokens"):
        assemble(vlm, prompt, [tokens[0][:3]], [torch.tensor(index)])


def test_biases_that_an_attention_cannot_take_are_refused():
    vlm = tiny("llava_next")
    _, _, sequence = read(vlm, made(vlm, [[0]]))
    bias = torch.zeros(sequence.origin.shape)
    vlm.model.config.text_config.sliding_window = 8
    with pytest.raises(UsageError, match="last 8 of"):
        vlm.logits(sequence, bias)
    vlm.model.config.text_config._attn_implementation = "flash_attention_2"
    with pytest.raises(UsageError, match="sdpa"):
        vlm.logits(sequence, bias)


def test_unknown_models_are_refused_by_name():
    import transformers

    other = transformers.BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=9)
    with pytest.raises(UsageError, match=r"'bert'.*llava, llava_next, .*qwen2_5_vl, "):
        VLM.of(transformers.BertModel(other))
    with pytest.raises(UsageError, match="no language head"):
        VLM.of(shared("llava").model.model)
    with pytest.raises(UsageError, match=r"possible: llava, llava_next, .*qwen2_5_vl, "):
        family_of(None, "mine")


def test_videos_are_refused():
    vlm = shared("qwen2_5_vl")
    with pytest.raises(UsageError, match="videos"):
        vlm.prompt(made(vlm, [[]]) | {"pixel_values_videos": torch.zeros(1)}, vlm.vision_features({}))


def test_what_cannot_be_opened_is_said(tmp_path, monkeypatch):
    import transformers

    with pytest.raises(UsageError, match="no folder"):
        open_vlm(str(tmp_path / "nothing"))
    with pytest.raises(UsageError, match="did you mean 'float32'"):
        open_vlm("x", dtype="float23")
    with pytest.raises(UsageError, match="--device gpu"):
        open_vlm("x", device="gpu")
    with pytest.raises(GradprobeError, match="cannot be opened from the folder"):
        open_vlm(str(tmp_path))
    transformers.BertConfig().save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="'bert'"):
        open_vlm(str(tmp_path))
    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", _no_network)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.utils, "get_session", lambda: SimpleNamespace(head=lambda url, timeout: None))
    with pytest.raises(GradprobeError, match=r"some/model cannot be opened from the hub \(is the id right\?\)"):
        open_vlm("some/model")
    monkeypatch.setattr(transformers, "__version__", "4.57.1")
    with pytest.raises(GradprobeError, match=r"4\.57\.1 is too old, 5\.17 .*gradprobe\[vlm\]"):
        open_vlm("some/model")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(GradprobeError, match=r"need transformers; type: pip install"):
        open_vlm("some/model")


def _no_network(name):
    raise OSError(f"We couldn't connect to 'https://huggingface.co' to load {name}")


def test_a_hub_out_of_reach_is_asked_once_and_its_cache_taken_at_once(monkeypatch, tmp_path):
    """The hub's client tries five times, with pauses that grow, for each of the files of a model."""

    def unreachable():
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub.utils, "get_session", unreachable)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("it waits for the hub"))
    with pytest.raises(GradprobeError, match=r"from the cache of the hub, which could not be reached \(is there a net"):
        open_vlm("some/model")
    check_frozen("some/model", "float32", "cpu")  # leaves the refusal to who opens the model
    assert constants.HF_HUB_OFFLINE is False
