"""A pruner that is saved comes back as it was: scorer, plan, budget; what cannot be saved is said."""

import json
import warnings
from dataclasses import replace

import pytest
import torch
from tiny_vlms import SPEC, made, pruner, shared

from gradprobe.errors import GradprobeError, Notice, UsageError
from gradprobe.models.scorer_file import load_scorer
from gradprobe.operators.registry import part
from gradprobe.selectors.plan import Plan, Stage, plan_of
from gradprobe.view import Kept
from gradprobe.vlm.budgets import Budget
from gradprobe.vlm.deploy import load, save, with_scorer
from gradprobe.vlm.pruner import Pruner

ROWS = [[1], [0]]


def scorer_of(vlm):
    return part("scorer", SPEC).make(vlm.dim, 3)


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_files_of_a_training_are_written_again_byte_by_byte(tmp_path):
    vlm = shared("llava")
    metadata = {**vlm.metadata, "scorer": SPEC, "op": "vpnoise", "training": {"steps": 4}}
    for budget in ({"k": 5}, {"ratio": 0.4}):
        folder = save(tmp_path / "a", scorer_of(vlm), {**metadata, **budget})
        load(folder, vlm).save_pretrained(tmp_path / "b")
        for name in ("scorer.json", "scorer.safetensors"):
            assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
        assert names_in(tmp_path / "b") == ["README.md", "scorer.json", "scorer.safetensors"]


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
@pytest.mark.parametrize(
    ("plan", "budget"),
    [
        ("divprune", Budget(k=5)),
        ("random", Budget(ratio=0.3)),
        ("divprune:k=6;random@1", Budget(k=2)),
        ("random:k=7;random@1:keep=3", None),
    ],
    ids=str,
)
def test_a_plan_comes_back(family, plan, budget, tmp_path):
    vlm = shared(family)
    for positions in ("keep", "compact") if family == "llava" else ("keep",):  # three axes cannot be renumbered
        pruned = Pruner(vlm, plan_of(plan, positions), budget)
        folder = pruned.save_pretrained(tmp_path / positions)
        files = ["README.md", "budget.json", "plan.json"] if budget else ["README.md", "plan.json"]
        assert names_in(folder) == files
        again = Pruner.from_pretrained(folder, vlm)
        assert again.budget == budget and again.plan.positions == positions and again.plan.label == pruned.plan.label
        inputs = made(vlm, ROWS[:1])
        assert torch.equal(again.logits(inputs), pruned.logits(inputs))


def test_a_scorer_in_a_plan_comes_back(tmp_path):
    vlm = shared("llava")
    scorer, inputs = scorer_of(vlm), made(vlm, ROWS)
    for text, budget in (("scored:k=6;random@1", Budget(k=2)), ("scored:k=4", None)):
        pruned = Pruner(vlm, with_scorer(plan_of(text), scorer), budget, {"scorer": SPEC})
        folder = pruned.save_pretrained(tmp_path / str(budget))
        assert "plan.json" in names_in(folder) and "scorer.safetensors" in names_in(folder)
        again = load(folder, vlm)
        assert again.plan.label == text and again.budget == budget
        assert torch.equal(again.logits(inputs), pruned.logits(inputs))
        assert len(again.left(inputs)[0]) == (2 if budget else 4)
    compact = Pruner(vlm, Plan((Stage(pruner("llava").scored[0]),), "compact"), Budget(k=3), {"scorer": SPEC})
    assert load(compact.save_pretrained(tmp_path / "compact"), vlm).plan.positions == "compact"


def test_a_scorer_that_was_loaded_alone_has_its_name(tmp_path):
    vlm = shared("llava")
    folder = save(tmp_path / "a", scorer_of(vlm), {**vlm.metadata, "scorer": SPEC, "k": 5})
    pruned = Pruner(vlm, load_scorer(folder), Budget(average=4))
    again = load(pruned.save_pretrained(tmp_path / "b"), vlm)
    inputs = made(vlm, ROWS)
    assert again.budget == Budget(average=4) and torch.equal(again.logits(inputs), pruned.logits(inputs))


def test_a_plan_beside_a_scorer_that_it_does_not_use_is_no_part_of_the_pruner(tmp_path):
    vlm = shared("llava")
    folder = save(tmp_path, scorer_of(vlm), {**vlm.metadata, "scorer": SPEC, "k": 5})
    Pruner(vlm, "divprune", Budget(k=2)).save_pretrained(tmp_path / "plan")
    (folder / "plan.json").write_bytes((tmp_path / "plan" / "plan.json").read_bytes())
    assert load(folder, vlm).plan.label == "scored" and load(folder, vlm).budget == Budget(k=5)


def keep_first(view, k: int) -> Kept:
    return Kept(torch.arange(k).expand(len(view.features), k))


def test_what_cannot_be_saved_is_said(tmp_path):
    vlm = shared("llava")
    scorer = scorer_of(vlm)
    for pruned, message in (
        (Pruner(vlm, scorer, Budget(k=5)), r"the scorer has no name .*metadata=\{\"scorer\": \"mlp:width=8\"\}"),
        (Pruner(vlm, scorer, Budget(k=5), {"scorer": "mlp:width=9"}), "not the one that 'mlp:width=9' makes"),
        (Pruner(vlm, scorer, None, {"scorer": SPEC}), "says nowhere how many tokens"),
        (Pruner(vlm, keep_first, Budget(k=5)), "has no name that a file could hold"),
    ):
        with pytest.raises(UsageError, match=message):
            pruned.save_pretrained(tmp_path / "new")
        assert not (tmp_path / "new").exists()
    named = Pruner(vlm, scorer, Budget(k=5), {"scorer": SPEC})
    named.save_pretrained(tmp_path / "old")
    with pytest.raises(UsageError, match=r"old holds another pruner \(scorer.safetensors, scorer.json\); name another"):
        Pruner(vlm, "divprune", Budget(k=2)).save_pretrained(tmp_path / "old")
    two = Plan((Stage(named.scored[0], keep=6), Stage(Pruner(vlm, scorer_of(vlm)).scored[0], 1)))
    with pytest.raises(UsageError, match="two scorers cannot be saved"):
        replace(named, selector=two).save_pretrained(tmp_path / "new")
    (tmp_path / "file").write_text("")
    with pytest.raises(GradprobeError, match="cannot write"):
        named.save_pretrained(tmp_path / "file")


@pytest.mark.parametrize("use", [lambda pruned: pruned.save_pretrained(""), lambda pruned: load("", pruned.vlm)])
def test_an_empty_text_is_not_the_working_folder(use, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pruned = Pruner(shared("llava"), "divprune", Budget(k=5))
    pruned.save_pretrained(".")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UsageError, match="an empty text names no"):
        use(replace(pruned, budget=Budget(k=6)))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_pruner_of_other_types_is_refused():
    pruned = Pruner(shared("llava"), "divprune", Budget(k=5))
    for wrong, match in (
        ({"vlm": pruned.vlm.model}, r"is no VLM; give gp.vlm.VLM.of\(model"),
        ({"budget": 5}, r"5 is no budget; give gp.vlm.Budget\(k=64\)"),
    ):
        with pytest.raises(UsageError, match=match):
            replace(pruned, **wrong)


def test_a_card_with_words_of_ones_own_stays(tmp_path):
    vlm = shared("llava")
    card, five, six = tmp_path / "README.md", *(Pruner(vlm, "divprune", Budget(k=k)) for k in (5, 6))
    card.write_text("mine\n")
    for pruned in (five, five):  # nothing of a card is wrong
        pruned.save_pretrained(tmp_path)
    with pytest.warns(Notice, match="describes the pruner that was there"):
        six.save_pretrained(tmp_path)
    assert card.read_text() == "mine\n" and load(tmp_path, vlm).budget == Budget(k=6)


def test_a_card_that_was_not_touched_describes_what_is_saved_last(tmp_path):
    vlm, home = shared("llava"), tmp_path / "mine"
    for number, (plan, k, licence) in enumerate([("divprune", 5, "mit"), ("divprune", 6, "mit"), ("norm", 6, "mit")]):
        pruned = Pruner(vlm, plan, Budget(k=k))
        texts = [
            (pruned.save_pretrained(folder, license=licence) / "README.md").read_text()
            for folder in (home, tmp_path / str(number) / "mine")
        ]
        assert texts[0] == texts[1] and f"{k} tokens" in texts[0] and plan in texts[0]
    (home / "plan.json").write_text("{")  # what cannot be read has no card
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pruned.save_pretrained(home)
    assert load(home, vlm).budget == Budget(k=6)


def test_broken_files_are_said(tmp_path):
    vlm = shared("llava")
    folder = Pruner(vlm, "divprune", Budget(k=5)).save_pretrained(tmp_path)
    for name, content in (
        ("budget.json", "{"), ("budget.json", "[]"), ("budget.json", "{}"), ("budget.json", '{"k": 0}'),
        ("budget.json", '{"tokens": 3}'), ("plan.json", "{"), ("plan.json", '{"format": 1}'),
    ):  # fmt: skip
        before = (folder / name).read_text()
        (folder / name).write_text(content)
        with pytest.raises(GradprobeError, match=name.replace(".", r"\.")):
            load(folder, vlm)
        (folder / name).write_text(before)
    plan = json.loads((folder / "plan.json").read_text())
    (folder / "plan.json").write_text(json.dumps(plan | {"model": None}))
    with pytest.raises(UsageError, match="names no model; give --model"):
        load(folder)
    Pruner(shared("llava"), "random:k=6;random@1", Budget(k=5)).save_pretrained(tmp_path / "inside")
    plan = json.loads((tmp_path / "inside/plan.json").read_text())
    (tmp_path / "inside/plan.json").write_text(json.dumps(plan | {"layers": 32}))
    with pytest.raises(UsageError, match="was made for tiny-llava with 32 layers"):
        load(tmp_path / "inside", vlm).logits(made(vlm, ROWS))
