"""States inside a language model: attention is its own at every stage, and words are those of the prompt."""

import pytest
import torch
from masked_layers import Recorded, deep, eager, masking, opened, read
from tiny_vlms import ATTENDING, BOS, IMAGE, made, over, tiny
from torch.utils.flop_counter import FlopCounterMode

from gradprobe.errors import UsageError
from gradprobe.selectors.dart import DART
from gradprobe.selectors.fastv import FastV
from gradprobe.selectors.pyramiddrop import PyramidDrop
from gradprobe.selectors.random import Random
from gradprobe.selectors.sparsevlm import SparseVLM
from gradprobe.view import Drop, Sizes, Unavailable
from gradprobe.vlm.families.base import TINY_TEXT
from gradprobe.vlm.families.llava import TINY_CLIP
from gradprobe.vlm.model import VLM

each_family = over(ATTENDING)
ROWS = [[0], [0], [0]]


class Spy:
    """Keep what another selector keeps, and write down what is read."""

    def __init__(self, read, selector=None):
        self.read, self.selector, self.found = read, selector or Random(), []
        self.choices = []

    def __call__(self, view, k):
        self.found.append(self.read(view.inside))
        self.choices.append(self.selector(view, k))
        return self.choices[-1]


def words_of(sequence, last):
    """Places of the prompt's words, written out."""
    rows = zip(sequence.slot.tolist(), sequence.attention_mask.tolist(), last.tolist(), strict=True)
    return [[i for i in range(end + 1) if mask[i] and slot[i] == -1] for slot, mask, end in rows]


def attentions(vlm, sequence):
    with torch.no_grad(), vlm.reading(sequence):
        return vlm.family.language(vlm.model)(
            inputs_embeds=sequence.embeds,
            attention_mask=sequence.attention_mask,
            position_ids=sequence.positions,
            output_attentions=True,
            use_cache=False,
        ).attentions


def checked_scores(vlm, sequence, last, before, at):
    """Compare attention at a layer, of its own and the layer before, of the last token and of some words."""
    words = words_of(sequence, last)
    some = torch.zeros(len(last), max(map(len, words)), dtype=torch.bool)
    for row, places in enumerate(words):
        some[row, [1, len(places) - 3, *range(len(places) - 1 - row, len(places))]] = True  # row by row more

    def asked(inside):
        return {
            (rows, layer): inside.attention(rows=some if rows == "some" else "last", layer=layer)
            for rows in ("last", "some")
            for layer in (-1, 0)
        }

    spy = Spy(asked)
    drops = [*(Drop(layer, Spy(lambda inside: None, selector), k) for layer, selector, k in before), Drop(at, spy, 2)]
    with torch.no_grad(), opened(vlm, sequence, last, drops) as dropped:
        vlm.logits(sequence)
    whole, left = eager(vlm), dropped.kept[-2] if before else None
    with masking(whole, sequence, drops[:-1], dropped.kept[:-1]):
        own = attentions(whole, sequence)
    worst = 0.0
    for (rows, layer), scores in spy.found[0].items():
        for row, places in enumerate(words):
            queries = [places[i] for i in some[row].nonzero()[:, 0]] if rows == "some" else [int(last[row])]
            heads = own[at + layer][row][:, queries].mean((0, 1))
            slot = sequence.slot[row]
            visual = slot >= 0 if left is None else torch.isin(slot, left[row])
            worst = max(worst, float((scores[row] - heads[visual]).abs().max()))
            assert heads[visual].max() > 1e-3  # there is something to be seen
    return worst


@each_family
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize(("pad", "answers"), [("left", 0), ("right", 2)])
@pytest.mark.parametrize(
    ("before", "at"),
    [
        ([], 2),
        ([(1, Random(), 9)], 2),
        ([(1, Random(), 9)], 4),
        ([(0, Random(), 12), (1, SparseVLM(recycled=1, members=2), 7)], 3),
    ],
    ids=["first stage", "stage behind a stage", "later stage", "third stage"],
)
def test_attention_is_that_of_the_eager_model_at_every_stage(family, implementation, pad, answers, before, at):
    vlm = deep(family, implementation)
    sequence, last = read(vlm, ROWS, pad, answers)
    assert checked_scores(vlm, sequence, last, before, at) <= 1e-6


@pytest.mark.parametrize("before", [[], [(1, Random(), 9)]])
def test_attention_with_norms_of_queries_and_keys_is_the_models_own(before):
    from transformers import AutoModelForImageTextToText, CLIPVisionConfig, LlavaConfig, Qwen3Config

    text = Qwen3Config(**TINY_TEXT | {"num_hidden_layers": 4}, head_dim=16)
    config = LlavaConfig(vision_config=CLIPVisionConfig(**TINY_CLIP), text_config=text, image_token_index=IMAGE)
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config).eval()
    for name, parameter in model.named_parameters():
        parameter.data.mul_(4) if "proj" in name else None
        parameter.data.uniform_(0.5, 2) if "q_norm" in name or "k_norm" in name else None
    vlm = VLM.of(model, name="qwen3")
    sequence, last = read(vlm, ROWS)
    assert checked_scores(vlm, sequence, last, before, 2) <= 1e-6


def test_renumbered_positions_are_those_of_the_next_stages_attention():
    vlm = deep("llava")
    sequence, last = read(vlm, [[0]])
    first, spies = Random(), {}
    for positions in ("keep", "compact"):
        spies[positions] = Spy(lambda inside: [inside.attention(layer=layer) for layer in (-1, 0)])
        drops = [Drop(0, first, 6), Drop(2, spies[positions], 3)]
        with torch.no_grad(), opened(vlm, sequence, last, drops, positions) as dropped:
            vlm.logits(sequence)
        if positions == "keep":
            with torch.no_grad(), opened(vlm, sequence, last, drops[:1]) as early:
                vlm.logits(sequence)
    order = early.order
    cut = {"inputs_embeds": sequence.embeds[:, order[0]], "position_ids": torch.arange(order.shape[1])[None]}
    whole = eager(vlm)
    with torch.no_grad():
        own = whole.model.model.language_model(**cut, output_attentions=True, use_cache=False).attentions
    visual = sequence.slot[0, order[0]] >= 0
    assert torch.equal(dropped.kept[0], early.kept[0])
    for layer, scores in zip((1, 2), spies["compact"].found[0], strict=True):
        torch.testing.assert_close(scores[0], own[layer][0, :, -1].mean(0)[visual], atol=1e-5, rtol=0)
    assert (spies["keep"].found[0][1] - spies["compact"].found[0][1]).abs().max() > 1e-4


@each_family
@pytest.mark.parametrize(("pad", "answers"), [("left", 0), ("right", 2)])
def test_words_are_those_of_the_prompt_and_never_of_its_answer(family, pad, answers):
    vlm = deep(family)
    sequence, last = read(vlm, ROWS, pad, answers)
    spy = Spy(lambda inside: (inside.words, inside.first_words, inside.behind, inside.word_keys, inside.keys))
    drops = [Drop(1, Recorded(Random()), 9), Drop(2, spy, 4)]
    with torch.no_grad(), opened(vlm, sequence, last, drops) as dropped:
        vlm.logits(sequence)
    layer, hidden = vlm.family.language(vlm.model).layers[2], []
    with masking(vlm, sequence, drops[:1], dropped.kept[:1]), torch.no_grad():
        note = layer.register_forward_pre_hook(lambda _, args: hidden.append(args[0]))
        vlm.logits(sequence)
        note.remove()
        own = layer.self_attn
        heads = own.k_proj(layer.input_layernorm(hidden[0])).unflatten(-1, (-1, own.head_dim))
        own_keys = (own.k_norm(heads) if hasattr(own, "k_norm") else heads).flatten(2)
    words, first, behind, keys, visual_keys = spy.found[0]
    for row, places in enumerate(words_of(sequence, last)):
        real = words.mask[row]
        assert int(real.sum()) == len(places) and torch.equal(first.mask, words.mask)
        torch.testing.assert_close(words.states[row][real], hidden[0][row, places], atol=1e-5, rtol=0)
        assert torch.equal(first.states[row][real], sequence.embeds[row, places])
        torch.testing.assert_close(keys[row][real], own_keys[row, places], atol=1e-5, rtol=0)
        left = torch.isin(sequence.slot[row], dropped.kept[0][row])
        torch.testing.assert_close(visual_keys[row], own_keys[row, left], atol=1e-5, rtol=0)
        start = int((sequence.slot[row] >= 0).nonzero()[0])
        assert behind[row][real].tolist() == [place > start for place in places]
        assert not behind[row][~real].any()


def test_newlines_are_neither_words_nor_visual_tokens():
    vlm = deep("llava_next")
    sequence, last = read(vlm, [[1]])
    spy = Spy(lambda inside: (inside.words, inside.first))
    with torch.no_grad(), opened(vlm, sequence, last, [Drop(1, spy, 4)]):
        vlm.logits(sequence)
    inputs = made(vlm, [[1]])
    words, first = spy.found[0]
    assert int((sequence.slot == -2).sum()) == 8
    assert int(words.mask.sum()) == int(((inputs["input_ids"] != IMAGE) & (inputs["input_ids"] >= BOS)).sum())
    assert first.shape[1] == int((sequence.slot >= 0).sum())


@each_family
def test_states_that_entered_are_of_all_visual_tokens_at_every_stage(family):
    vlm = deep(family)
    sequence, last = read(vlm, ROWS)
    spy = Spy(lambda inside: (inside.first, inside.hidden.shape[1]))
    with torch.no_grad(), opened(vlm, sequence, last, [Drop(1, Recorded(Random()), 9), Drop(3, spy, 4)]):
        vlm.logits(sequence)
    first, left = spy.found[0]
    assert left == 9
    assert torch.equal(first, sequence.embeds[sequence.slot >= 0].view(3, -1, first.shape[-1]))


@each_family
@pytest.mark.parametrize(
    ("selector", "layers"),
    [(FastV(), (2, 3)), (PyramidDrop(), (1, 3)), (DART(3, 2), (2, 3)), (SparseVLM(recycled=1, members=2), (1, 3))],
    ids=lambda value: type(value).__name__,
)
def test_flops_are_those_of_the_products_that_are_computed(family, selector, layers):
    vlm = deep(family)
    sequence, last = read(vlm, [[0]])
    counted = []

    class Counted:
        def __call__(self, view, k):
            with FlopCounterMode(display=False) as counter:
                kept = selector(view, k)
            counted.append(counter.get_total_flops())
            return kept

    config = vlm.model.config.get_text_config()
    head = config.hidden_size // config.num_attention_heads
    total = int((sequence.slot >= 0).sum())
    rating = isinstance(selector, DART | SparseVLM)  # words; newlines have keys only
    text = int((sequence.slot == -1 if rating else sequence.slot < 0).sum())
    widths = (config.hidden_size, head * config.num_attention_heads, head * config.num_key_value_heads)
    with torch.no_grad(), opened(vlm, sequence, last, [Drop(layers[0], Counted(), 9), Drop(layers[1], Counted(), 4)]):
        vlm.logits(sequence)
    for n, k, flops in zip((total, 9), (9, 4), counted, strict=True):
        sizes = Sizes(n, vlm.dim, widths[0], text=text, query_width=widths[1], key_width=widths[2])
        if isinstance(selector, SparseVLM):  # words are no raters, and a later stage reads all tokens that entered
            assert 0.3 * flops <= selector.flops(sizes, k) <= 1.7 * flops
        else:
            assert selector.flops(sizes, k) == flops


def test_one_row_of_attention_makes_no_square_of_positions(monkeypatch):
    vlm, sizes = deep("llava"), []
    sequence, last = read(vlm, [[0]])
    length = sequence.embeds.shape[1]
    true = torch.Tensor.softmax

    def watched(self, *args, **kwargs):
        sizes.append(self.numel())
        return true(self, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "softmax", watched)
    with torch.no_grad(), opened(vlm, sequence, last, [Drop(1, FastV(), 4)]):
        vlm.logits(sequence)
    assert sizes == [4 * length]


def test_what_is_not_there_is_said():
    vlm = tiny("llava", layers=3)
    sequence, last = read(vlm, [[0]])
    with (
        pytest.raises(Unavailable, match="no layer comes before layer 0"),
        opened(vlm, sequence, last, [Drop(0, FastV(), 4)]),
    ):
        vlm.logits(sequence)
    for read_it, match in ((lambda view: view.features, "leave @LAYER out"), (lambda view: view.words, "no text here")):

        class Reader:
            def __call__(self, view, k, read_it=read_it):
                return read_it(view)

        with pytest.raises(Unavailable, match=match), opened(vlm, sequence, last, [Drop(1, Reader(), 4)]):
            vlm.logits(sequence)
    layer = vlm.family.language(vlm.model).layers[2]
    layer.input_norm = layer.input_layernorm
    del layer.input_layernorm
    unknown = pytest.raises(UsageError, match="keys of a LlamaDecoderLayer cannot be told")
    with unknown, opened(vlm, sequence, last, [Drop(2, PyramidDrop(), 4)]):
        vlm.logits(sequence)
