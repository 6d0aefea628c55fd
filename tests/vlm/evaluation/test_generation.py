"""Answers to requests are those of the model itself, in batches and one by one; nothing here needs lmms-eval."""

import functools
from typing import ClassVar

import pytest
import torch
from drawn import picture_of
from PIL import Image

from gradprobe.errors import GradprobeError, Notice, UsageError
from gradprobe.operators.registry import part
from gradprobe.vlm.budgets import Budget
from gradprobe.vlm.deploy import batch_of, inputs_of, save
from gradprobe.vlm.evaluation.arguments import ModelArguments
from gradprobe.vlm.evaluation.generation import Answering, Request, cut, generation_options
from gradprobe.vlm.evaluation.log import Log
from gradprobe.vlm.evaluation.run import selection_of
from gradprobe.vlm.model import open_vlm
from gradprobe.vlm.pruner import Pruner

GREEDY = {"max_new_tokens": 2, "temperature": 0, "top_p": 1.0, "num_beams": 1, "do_sample": False}
PROMPTS = ("is there a red seven ?", "is the blue eight above the yellow six ?", "which digit is red ?")


@functools.cache
def vlm():
    return open_vlm("scenes-vlm")


def requests(options=GREEDY):
    return [
        Request(prompt, functools.partial(lambda i: [picture_of(i)], i), options) for i, prompt in enumerate(PROMPTS)
    ]


@pytest.mark.parametrize("plan", [None, "divprune", "fastv@1"])
def test_answers_are_those_of_the_model_alone_or_in_batches(plan):
    model = vlm() if plan is None else Pruner(vlm(), plan, Budget(k=40))
    tokenizer = vlm().processor.tokenizer
    expected = []
    for request in requests():
        inputs = inputs_of(vlm(), request.images(), request.prompt)
        with torch.no_grad():
            if plan is None:
                ids = vlm().model.generate(**inputs, max_new_tokens=2, do_sample=False)
            else:
                ids = model.generate(inputs, max_new_tokens=2, options={"do_sample": False})
        expected.append(tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip())
    assert all(expected)
    for size in (1, 2, 3):
        assert Answering(model, size).answers(requests()) == expected


def test_rows_of_a_batch_are_padded_on_the_left():
    rows = [([picture_of(i)], prompt) for i, prompt in enumerate(PROMPTS)]
    inputs = batch_of(vlm(), rows)
    lengths = [inputs_of(vlm(), *row)["input_ids"].shape[1] for row in rows]
    assert inputs["attention_mask"].sum(1).tolist() == lengths and len(set(lengths)) > 1
    assert (inputs["attention_mask"][:, -1] == 1).all()


def test_neighbours_with_the_same_options_are_answered_together():
    others = [*requests()[:2], *requests({"max_new_tokens": 1}), *requests()[:1]]
    sizes = [len(batch) for batch in Answering(vlm(), 2).batches(others)]
    assert sizes == [2, 2, 1, 1]
    with pytest.raises(UsageError, match="batch_size=0"):
        Answering(vlm(), 0)


def test_beams_and_stops():
    whole = Answering(vlm()).answers(requests({"max_new_tokens": 3, "num_beams": 2}))
    stop = whole[0].split()[-1]
    assert Answering(vlm()).answers(requests({"max_new_tokens": 3, "num_beams": 2, "until": [stop]}))[0] == cut(
        whole[0], stop
    )
    assert cut("a b", ["", "x"]) == "a b"


def test_options_that_are_not_read_are_told_and_wrong_ones_refused():
    with pytest.warns(Notice, match="repetition_penalty"):
        generation_options({"repetition_penalty": 2})
    assert (
        generation_options({"image_aspect_ratio": "pad", "temperature": 1.0, "do_sample": False})["do_sample"] is False
    )
    assert generation_options({"temperature": 0.7, "top_p": 0.9})["top_p"] == 0.9
    with pytest.raises(UsageError, match="not possible"):
        generation_options({"temperature": -1})


class Counting(Answering):
    """Answering that is interrupted after some batches."""

    asked: ClassVar[list] = []
    left: ClassVar[list] = [0]

    def answered(self, batch):
        if self.left[0] == 0:
            raise KeyboardInterrupt
        self.left[0] -= 1
        self.asked.append(len(batch))
        return super().answered(batch)


def test_an_interrupted_evaluation_goes_on_and_answers_nothing_twice(tmp_path):
    plain = Log().answered(Answering(vlm(), 2), requests())
    Counting.asked.clear()
    Counting.left[0] = 1
    with pytest.raises(KeyboardInterrupt):
        Log(tmp_path, {"task": "a"}).answered(Counting(vlm(), 2), requests())
    Counting.left[0] = 10
    seen = []
    log = Log(tmp_path, {"task": "a"}, lambda done, total: seen.append((done, total)))
    assert log.answered(Counting(vlm(), 2), requests()) == plain
    assert Counting.asked == [2, 1] and seen == [(0, 3), (2, 3), (3, 3)]
    Log(tmp_path, {"task": "another"}).answered(Counting(vlm(), 2), requests())
    assert Counting.asked == [2, 1, 2, 1]


def test_a_picture_that_cannot_be_read_is_named_by_its_number():
    def broken():
        raise OSError("image file is truncated")

    wrong = [*requests()[:2], Request("is there a red seven ?", broken, GREEDY)]
    with pytest.raises(GradprobeError, match=r"sample 2 cannot be read \(image file is truncated"):
        Log().answered(Answering(vlm(), 2), wrong)


def test_model_arguments_open_what_they_name():
    whole = ModelArguments.of("pretrained=scenes-vlm,batch_size=4", {"device": "cpu", "max_batch_size": None}).opened()
    assert whole.model is whole.vlm and whole.batch_size == 4
    text = "pretrained=scenes-vlm,plan=pyramiddrop@1,2,3:keep=50,25,12,positions=compact"
    pruned = ModelArguments.of(text).opened().model
    assert pruned.plan.label == "pyramiddrop@1,2,3:keep=50,25,12" and pruned.plan.positions == "compact"
    assert ModelArguments.of("pretrained=scenes-vlm,plan=divprune,k=11").opened().model.budget == Budget(k=11)
    assert ModelArguments.of({"pretrained": "scenes-vlm", "k": "11"}).k == 11


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pretrained=scenes-vlm,keep=5", "no argument 'keep'"),
        ("scenes-vlm", "are no arguments"),
        ("plan=divprune,k=5", "name the model"),
        ("pretrained=scenes-vlm,k=5", "go with a plan or a pruner"),
        ("pretrained=scenes-vlm,plan=divprune,k=5,ratio=0.5", "give one of"),
        ("pretrained=scenes-vlm,plan=divprune,k=five", "k=five is not possible"),
        ("pretrained=scenes-vlm,plan=scored,k=5", "name the trained scorer"),
    ],
)
def test_model_arguments_that_do_not_go_together_are_refused(text, message):
    with pytest.raises(UsageError, match=message):
        ModelArguments.of(text).opened()


def test_pictures_of_the_tests_are_those_of_the_model():
    assert isinstance(picture_of(0), Image.Image) and picture_of(0).size == (80, 80)


def test_a_trained_pruner_is_opened_with_its_model_and_is_part_of_the_question(tmp_path):
    hashes = []
    for seed in (0, 1):
        scorer = part("scorer", "mlp:width=8").make(vlm().dim, seed)
        save(tmp_path / str(seed), scorer, {**vlm().metadata, "scorer": "mlp:width=8", "k": 40})
        opened = ModelArguments.of(f"pruner={tmp_path / str(seed)}").opened()
        assert opened.answers(requests()) == Answering(Pruner(vlm(), scorer, Budget(k=40))).answers(requests())
        chosen = selection_of(opened.model)
        assert chosen["k"] == 40
        hashes.append(chosen["trained"])
    assert hashes[0] != hashes[1]
    assert selection_of(vlm()) == {"op": "unpruned"}
    assert selection_of(Pruner(vlm(), "divprune", Budget(ratio=0.5))) == {"op": "ranked:divprune", "ratio": 0.5}
    joined = ModelArguments.of(f"pruner={tmp_path / '0'},plan=scored:k=40;fastv@2,k=20").opened().model
    assert joined.plan.label == "scored:k=40;fastv@2" and joined.scorer is not None
    with pytest.raises(UsageError, match="does not use the scorer"):
        ModelArguments.of(f"pruner={tmp_path / '0'},plan=divprune,k=20").opened()
