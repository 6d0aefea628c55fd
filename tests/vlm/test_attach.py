"""A model with a pruner inside is the pruner, however it is called, and afterwards the model that it was."""

import copy
import io
import pickle

import pytest
import torch
from attached_calls import BOTH, GREEDY, INSIDE, OPTIONS, OUTSIDE, each_plan
from tiny_vlms import FAMILIES, IMAGE, made, over, shared, tiny

import gradprobe as gp
from gradprobe.errors import UsageError
from gradprobe.vlm.attaching import attach, attached, detach
from gradprobe.vlm.budgets import Budget
from gradprobe.vlm.pruner import Pruner

ROWS = {"alone": [[1]], "two images": [[1, 2]], "batch": [[1], [1]]}
DEEPLY = ("llava_next", "qwen3_vl", "idefics3")  # a newline, three axes and streams, another place of the layers
each_family = over()
some_families = pytest.mark.parametrize("family", [family for family in DEEPLY if family in FAMILIES])
each_rows = pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)


def possible(family: str, plan: str) -> bool:
    """Return whether tokens can be dropped between the layers of the family's language model."""
    return "@" not in plan or family != "qwen3_5"


def state_of(model):
    """Everything of a model that calls may look at: attributes, hooks, methods and parameters of all its modules."""
    parts = []
    for module in model.modules():
        own = {name: value for name, value in vars(module).items() if name != "rope_deltas"}
        parts.append({name: dict(value) if isinstance(value, dict) else value for name, value in own.items()})
    return parts


@each_family
@each_rows
@each_plan
def test_text_is_that_of_the_pruner(family, rows, plan):
    vlm = shared(family)
    if not possible(family, plan):
        with pytest.raises(UsageError, match="leave @LAYER out"), attached(vlm.model, plan, k=4):
            vlm.model.generate(**made(vlm, rows), **GREEDY)
        return
    inputs, pruner = made(vlm, rows), Pruner(vlm, plan, Budget(k=4))
    with attached(vlm.model, plan, k=4) as model:
        greedy, beams = (model.generate(**inputs, **GREEDY, num_beams=n) for n in (1, 3))
        whole = model.generate(**inputs, **GREEDY, use_cache=False)
    assert torch.equal(greedy, pruner.generate(inputs, max_new_tokens=4, options=OPTIONS))
    assert torch.equal(beams, pruner.generate(inputs, max_new_tokens=4, options=OPTIONS | {"num_beams": 3}))
    assert torch.equal(greedy[:, : inputs["input_ids"].shape[1]], inputs["input_ids"])
    assert torch.equal(whole, greedy)


@pytest.mark.parametrize("family", ["llava", "qwen3_vl"])
@pytest.mark.parametrize("plan", [OUTSIDE, INSIDE, "dart@0", "norm:k=9;dart@0"])
@pytest.mark.parametrize("pad", ["left", "right"])
def test_without_a_cache_or_with_one_at_any_layer_the_text_is_the_same(family, plan, pad):
    """Each copy of a row reads its own words, and a cache counts by its first layer, which may have dropped some."""
    vlm = shared(family)
    inputs, pruner = made(vlm, [[1, 2], [2, 1]], pad), Pruner(vlm, plan, Budget(k=4))
    sampled = {"do_sample": True, "num_return_sequences": 3, "max_new_tokens": 6}
    with attached(vlm.model, plan, k=4) as model:
        for options in (GREEDY, GREEDY | {"num_beams": 3}, GREEDY | sampled):
            texts = []
            for use_cache in (True, False):
                torch.manual_seed(0)
                texts.append(model.generate(**inputs, **options, use_cache=use_cache))
            assert torch.equal(*texts)
            torch.manual_seed(0)
            others = {name: value for name, value in options.items() if name != "max_new_tokens"}
            read = pruner.generate(inputs, max_new_tokens=options["max_new_tokens"], options=others)
            assert torch.equal(texts[0], read)


@some_families
@each_plan
def test_keeping_all_is_the_model_bit_for_bit(family, plan):
    vlm = shared(family)
    if not possible(family, plan):
        return
    inputs = made(vlm, [[1]])
    n = len(vlm.vision_features(inputs).tokens[0])
    with torch.no_grad():
        own = vlm.model.generate(**inputs, **GREEDY), vlm.model(**inputs).logits
        with attached(vlm.model, plan.replace("k=9", f"k={n}"), k=n) as model:
            assert torch.equal(model.generate(**inputs, **GREEDY), own[0])
            assert torch.equal(model(**inputs).logits, own[1])


@some_families
@pytest.mark.parametrize("pad", ["left", "right"])
def test_logits_have_the_whole_length_and_predict_what_is_read_next(family, pad):
    """At a token kept they are the pruner's, at a dropped one those of the last token kept before it."""
    vlm = shared(family)
    inputs, pruner = made(vlm, [[1], [2]], pad), Pruner(vlm, OUTSIDE, Budget(k=4))
    sequence, own = pruner.sequence(inputs), pruner.logits(inputs)
    with attached(vlm.model, OUTSIDE, k=4) as model, torch.no_grad():
        logits = model(**inputs).logits
        pair = model(**inputs, return_dict=False)
    assert logits.shape[:2] == inputs["input_ids"].shape and torch.equal(pair[0], logits)
    for row, origin in enumerate(sequence.origin.tolist()):
        kept = [place for place in origin if place >= 0]
        for place in range(kept[0], kept[-1] + 1):
            before = origin.index(max(each for each in kept if each <= place))
            torch.testing.assert_close(logits[row, place], own[row, before], atol=1e-6, rtol=0)


@some_families
@pytest.mark.parametrize("plan", [OUTSIDE, INSIDE])
def test_loss_of_labels_is_that_of_the_tokens_read(family, plan):
    if not possible(family, plan):
        return
    vlm = shared(family)
    inputs = made(vlm, [[1], [1]], "right")
    ids = inputs["input_ids"]
    labels = torch.where((ids != IMAGE) & (inputs["attention_mask"] > 0), ids, -100)
    labels[:, :3] = -100
    with attached(vlm.model, plan, k=4) as model, torch.no_grad():
        out = model(**inputs, labels=labels)
    logits, behind = out.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    expected = torch.nn.functional.cross_entropy(logits, behind, ignore_index=-100)
    torch.testing.assert_close(out.loss, expected)
    with torch.no_grad():
        assert float(out.loss) != float(vlm.model(**inputs, labels=labels).loss)


@pytest.mark.parametrize("plan", ["cdpruner", "fastv@1", "sparsevlm@1"])
def test_answers_do_not_change_what_is_chosen(plan):
    """Selectors that read words, or the last of them, read those of the prompt."""
    vlm = shared("llava")
    prompt = made(vlm, [[1]])
    answer = torch.tensor([[5, 6, 7]])
    both = {**prompt, "input_ids": torch.cat([prompt["input_ids"], answer], 1)}
    both["attention_mask"] = torch.ones_like(both["input_ids"])
    labels = torch.full_like(both["input_ids"], -100)
    labels[:, -3:] = answer
    length = prompt["input_ids"].shape[1]
    with attached(vlm.model, plan, k=4) as model, torch.no_grad():
        alone, answered = model(**prompt).logits, model(**both, labels=labels).logits
    torch.testing.assert_close(answered[:, :length], alone, atol=1e-5, rtol=0)


@each_plan
def test_options_of_generate(plan):
    vlm = shared("qwen2_5_vl")
    inputs, pruner = made(vlm, [[1]]), Pruner(vlm, plan, Budget(k=4))
    expected = pruner.generate(inputs, max_new_tokens=4, options=OPTIONS)
    sampled = OPTIONS | {"do_sample": True, "num_return_sequences": 3, "top_p": 0.9}
    torch.manual_seed(0)
    several = pruner.generate(inputs, max_new_tokens=4, options=sampled)
    other = tiny("qwen2_5_vl", seed=0)  # the same parameters, whole
    with attached(vlm.model, plan, k=4) as model:
        torch.manual_seed(0)
        assert torch.equal(model.generate(**inputs, max_new_tokens=4, **sampled), several)
        assert torch.equal(model.generate(**inputs, **GREEDY, prompt_lookup_num_tokens=2), expected)
        assert torch.equal(model.generate(**inputs, **GREEDY, assistant_model=other.model), expected)
        out = model.generate(**inputs, **GREEDY, return_dict_in_generate=True, output_scores=True, output_logits=True)
        assert torch.equal(out.sequences, expected) and len(out.scores) == len(out.logits) == 4
        assert torch.equal(torch.stack(out.logits, 1).argmax(-1), expected[:, -4:])
        streamed = []

        class Streamer:
            def put(self, ids):
                streamed.append(ids.flatten())

            def end(self):
                pass

        model.generate(**inputs, **GREEDY, streamer=Streamer())
    assert torch.equal(torch.cat(streamed), expected[0])


@each_family
@pytest.mark.parametrize("plan", [OUTSIDE, INSIDE, BOTH, "dart@0"])
def test_a_chat_goes_on_with_its_cache(family, plan):
    """The second question and its answer are those of the whole conversation; ``generate`` may be given all of it."""
    if not possible(family, plan):
        return
    vlm = shared(family)
    inputs = made(vlm, [[1]])
    question = torch.tensor([[11, 12, 13]])
    with attached(vlm.model, plan, k=4) as model, torch.no_grad():
        first = model.generate(**inputs, **GREEDY, return_dict_in_generate=True)
        talk = torch.cat([first.sequences, question], 1)
        kinds = {"mm_token_type_ids": (talk == IMAGE).int()} if "mm_token_type_ids" in inputs else {}
        name = "cache" if "cache" in first else "past_key_values"
        cache = copy.deepcopy(first[name])
        on = model.generate(input_ids=talk, attention_mask=torch.ones_like(talk), **kinds, **GREEDY, **{name: cache})
        labels = torch.where(
            torch.arange(talk.shape[1]) < inputs["input_ids"].shape[1], -100, talk
        )  # choose as at first
        mask = torch.ones_like(talk)
        for _ in range(4):
            logits = model(**inputs | kinds | {"input_ids": talk, "attention_mask": mask}, labels=labels).logits
            logits[..., IMAGE] = -torch.inf
            talk = torch.cat([talk, logits[:, -1:].argmax(-1)], 1)
            labels = torch.cat([labels, talk[:, -1:]], 1)
            mask = torch.ones_like(talk)
            if kinds:
                kinds = {"mm_token_type_ids": (talk == IMAGE).int()}
    assert torch.equal(on, talk)


def test_prompts_without_images_are_the_models():
    vlm = shared("llava")
    inputs = made(vlm, [[]])
    own = vlm.model.generate(**inputs, **GREEDY)
    with attached(vlm.model, INSIDE, k=4) as model:
        assert torch.equal(model.generate(**inputs, **GREEDY), own)
    mixed = made(vlm, [[1], []])
    expected = Pruner(vlm, OUTSIDE, Budget(k=4)).generate(mixed, max_new_tokens=4, options=OPTIONS)
    with attached(vlm.model, OUTSIDE, k=4) as model:
        assert torch.equal(model.generate(**mixed, **GREEDY), expected)


@some_families
def test_position_ids_of_a_call_are_read(family):
    """Also in the shapes that the model itself takes; what is generated goes on from them."""
    vlm = shared(family)
    inputs = made(vlm, [[1], [1]])
    features = vlm.vision_features(inputs)
    own = vlm.prompt(inputs, features).positions
    places = own.clone()
    places[..., -3:] += 5  # a gap before the last words
    given = [places] if own.ndim == 2 else [places, places[0], torch.cat([places[:1], places])]
    most = max(map(len, features.tokens))
    for each in given:
        with torch.no_grad():
            whole = vlm.model(**inputs, position_ids=each).logits
            with attached(vlm.model, OUTSIDE, k=most) as model:
                assert torch.equal(model(**inputs, position_ids=each).logits, whole)
    beams = GREEDY | {"num_beams": 2, "position_ids": given[-1]}
    answers = vlm.model.generate(**inputs, **beams)
    with attached(vlm.model, OUTSIDE, k=most) as model:
        assert torch.equal(model.generate(**inputs, **beams), answers)


def test_position_ids_may_be_compact():
    vlm = shared("llava")
    inputs, plan = made(vlm, [[1]]), gp.plan_of(OUTSIDE, "compact")
    expected = Pruner(vlm, plan, Budget(k=4)).generate(inputs, max_new_tokens=4, options=OPTIONS)
    with attached(vlm.model, plan, k=4) as model:
        assert torch.equal(model.generate(**inputs, **GREEDY), expected)


@some_families
@each_plan
def test_detached_the_model_is_what_it_was(family, plan):
    vlm = tiny(family)
    inputs = made(vlm, [[1]])
    vlm.model(**inputs)  # transformers installs hooks of its own in some towers at their first call
    before = state_of(vlm.model)
    assert attach(vlm.model, plan, k=4) is vlm.model
    assert state_of(vlm.model) != before
    if possible(family, plan):
        vlm.model.generate(**inputs, **GREEDY)
    assert detach(vlm.model) is vlm.model
    assert state_of(vlm.model) == before
    with pytest.raises(UsageError, match="has no pruner inside"):
        detach(vlm.model)


class Broken:
    def __call__(self, view, k):
        raise ZeroDivisionError


@pytest.mark.parametrize("stage", ["outside", "inside"])
def test_an_exception_leaves_nothing_behind(stage):
    vlm = shared("llava")
    inputs = made(vlm, [[1]])
    vlm.model.generate(**inputs, **GREEDY)
    before = state_of(vlm.model)
    plan = gp.plan_of(Broken()) if stage == "outside" else gp.plan_of("fastv@1")
    with pytest.raises(gp.GradprobeError), attached(vlm.model, plan, k=4) as model:
        if stage == "inside":
            inputs["pixel_values"] = inputs["pixel_values"][:, :1]
            try:
                model.generate(**inputs, **GREEDY)
            except (RuntimeError, ValueError) as error:
                raise gp.GradprobeError("as expected") from error
        model.generate(**inputs, **GREEDY)
    assert state_of(vlm.model) == before
    with attached(vlm.model, OUTSIDE, k=4) as model:  # and a call after a failed one is as ever
        with pytest.raises((RuntimeError, ValueError)):
            model.generate(**made(vlm, [[1]]) | {"pixel_values": torch.zeros(1, 1, 28, 28)}, **GREEDY)
        text = made(vlm, [[]])
        assert torch.equal(model.generate(**text, **GREEDY), copy_free(vlm, text))


def copy_free(vlm, inputs):
    """Text of the model that has no pruner: another object with the same parameters."""
    return tiny("llava").model.generate(**inputs, **GREEDY)


def test_an_image_with_fewer_tokens_than_k_keeps_all():
    vlm = shared("llava")
    inputs = made(vlm, [[1]])
    own = vlm.model.generate(**inputs, **GREEDY)
    with attached(vlm.model, OUTSIDE, k=10_000) as model:
        assert torch.equal(model.generate(**inputs, **GREEDY), own)


def test_bad_input():
    vlm = shared("llava")
    model, inputs = vlm.model, made(vlm, [[1]])
    with pytest.raises(UsageError, match="does not say how many tokens are left; give k=64"):
        attach(model, OUTSIDE)
    with pytest.raises(UsageError, match="give one of --k"):
        attach(model, OUTSIDE, k=4, ratio=0.5)
    with pytest.raises(UsageError, match="layers 0 to 1"):
        attach(model, "fastv@9", k=4)
    with pytest.raises(UsageError, match="no adapter"):
        attach(torch.nn.Linear(2, 2), OUTSIDE, k=4)
    with torch.device("meta"):
        nowhere = type(model)(model.config)
    with pytest.raises(UsageError, match="meta device"):
        attach(nowhere, OUTSIDE, k=4)
    with pytest.raises(UsageError, match="another model object"):
        attach(model, Pruner(tiny("llava"), OUTSIDE, Budget(k=4)))
    with pytest.raises(UsageError, match="scored and no scorer; give the folder"):
        attach(model, "scored:k=8;fastv@1", k=4)
    square = torch.zeros(1, 1, 9, 9)
    with attached(model, OUTSIDE, k=4):
        for refused, match in (
            (lambda: attach(model, OUTSIDE, k=4), "detach"),
            (lambda: copy.deepcopy(model), "detach"),
            (lambda: pickle.dumps(model), r"detach\(model\) first, or write its weights"),
            (lambda: torch.save(model, io.BytesIO()), r"detach\(model\) first, or write its weights"),
            (lambda: model(**inputs | {"attention_mask": square}), r"attention mask \(B, S\) is needed"),
            (
                lambda: model.generate(**inputs, **GREEDY, cache_implementation="static"),
                "leave cache_implementation out",
            ),
            (lambda: model(**inputs | {"input_ids": None}, inputs_embeds=torch.zeros(1, 9, 48)), "give input_ids"),
            (lambda: model.generate(**inputs, **GREEDY, prefill_chunk_size=4), "leave prefill_chunk_size out"),
        ):
            with pytest.raises(UsageError, match=match):
                refused()
        first = model.generate(**inputs, **GREEDY, return_dict_in_generate=True)
        name = "cache" if "cache" in first else "past_key_values"
        with pytest.raises(UsageError, match="in the cache already"):
            model.generate(**inputs | {"input_ids": first.sequences}, max_new_tokens=2, **{name: first[name]})
    assert not any(module._forward_pre_hooks for module in model.modules())
