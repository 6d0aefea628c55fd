"""Searches: reproducible, resumed to the same bytes, within their budgets; wrong input is refused."""

import json
from dataclasses import replace

import pytest
import torch
from searched import FEW, LAYERS, asked, numbers, shared, task

from gradprobe.errors import GradprobeError, UsageError
from gradprobe.selectors.dart import DART
from gradprobe.selectors.fastv import FastV
from gradprobe.selectors.norm import Norm
from gradprobe.selectors.plan import plan_of
from gradprobe.selectors.sparsevlm import SparseVLM
from gradprobe.training.checkpoint import Checkpoint
from gradprobe.vlm.search import run as running
from gradprobe.vlm.search import search as searching
from gradprobe.vlm.search.asked import Search, selector_of
from gradprobe.vlm.search.deployed import deployed
from gradprobe.vlm.search.grid import best, measurements, schedules
from gradprobe.vlm.search.kernels import Free, Steps
from gradprobe.vlm.search.run import front_of

BUDGET = 0.6
each_kernel = pytest.mark.parametrize("kernel", [Steps(1), Steps(2), Free()], ids=lambda kernel: kernel.label)


class Stopped(Exception):
    pass


@each_kernel
def test_the_schedule_is_within_the_budget_and_the_best_of_its_candidates(kernel, tmp_path):
    question = asked(kernel)
    found = searching.search(question, BUDGET, tmp_path / "s")
    spending = question.spending
    assert found.counts[0] == spending.tokens and list(found.counts) == sorted(found.counts, reverse=True)
    assert found.share == spending.share(found.counts) <= BUDGET
    assert BUDGET - found.share <= (LAYERS - 1) / spending.tokens  # a token in each layer
    candidates = {tuple(counts) for iterate in found.iterates for counts in iterate["candidates"]}
    outcomes = {counts: deployed(question.task, FastV(), counts, question.groups, 0) for counts in candidates}
    assert found.deployed == outcomes[found.counts]
    assert found.deployed.loss == min(outcome.loss for outcome in outcomes.values())


def test_a_search_begins_at_its_budget():
    for kernel in (Steps(1), Steps(2), Steps(3), Free()):
        for budget in (0.5, 0.9):
            question = asked(kernel)
            start = searching.start(question, budget)
            shares = kernel.shares(start, LAYERS, searching.STEEPNESS[0])
            assert float(question.spending.share(shares * question.spending.tokens)) == pytest.approx(budget, abs=1e-3)


@pytest.mark.parametrize("stop", [1, 2, 4])
def test_resumed_searches_write_the_same_bytes(stop, tmp_path, monkeypatch):
    monkeypatch.setattr(searching.time, "perf_counter", lambda: 0.0)
    budgets, question = [0.5, 0.7], asked()
    whole = front_of(question, budgets, tmp_path / "whole", grid=[2, 9])
    left = [stop]

    def progress(description, done, total):
        left[0] -= 1
        if left[0] < 0:
            raise Stopped

    with pytest.raises(Stopped):
        front_of(question, budgets, tmp_path / "parts", grid=[2, 9], progress=progress)
    again = front_of(question, budgets, tmp_path / "parts", grid=[2, 9])
    names = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert names == ["0.5.safetensors", "0.7.safetensors", "schedules.json"]
    for name in names[:2]:
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    both = ((whole, "whole"), (again, "parts"))
    first, second = (front.save_plans(tmp_path / name / "plan.json") for front, name in both)
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert [row | {"seconds": 0} for row in whole.rows()] == [row | {"seconds": 0} for row in again.rows()]


def test_a_finished_search_measures_nothing_again(tmp_path, monkeypatch):
    question = asked()
    first = front_of(question, [BUDGET], tmp_path, grid=[2, 9])
    monkeypatch.setattr(running, "search", searching.search)
    monkeypatch.setattr(searching, "deployed", None)
    monkeypatch.setattr(searching, "relaxed_losses", None)
    assert front_of(question, [BUDGET], tmp_path, grid=[2, 9]).rows() == first.rows()


def test_a_plan_that_is_read_back_has_the_same_counts(tmp_path):
    front = front_of(asked(Steps(2)), [0.5, 0.8], tmp_path)
    for path, found in zip(front.save_plans(tmp_path / "plan.json"), front.found, strict=True):
        plan, n = plan_of(path), front.asked.spending.tokens
        assert plan.counts(n, LAYERS).layers == found.counts
        assert {stage.selector for stage in plan.stages} == {FastV()}
        with pytest.raises(UsageError, match="made for"):
            plan.counts(n + 1, LAYERS)


def test_the_grid_holds_all_schedules_within_the_budget_and_its_best(tmp_path):
    question = asked()
    spending = question.spending
    n = spending.tokens
    made = schedules(spending, [n, 4, 1], 1.0)
    assert len(made) == len(set(made)) == 10 and made[0] == (n, 1, 1, 1) and made[-1] == (n,) * LAYERS
    some = schedules(spending, [n, 4, 1], 0.7)
    assert some == [each for each in made if spending.share(each) <= 0.7]
    measured = measurements(question, some, tmp_path / "grid.json")
    losses = {counts: deployed(question.task, FastV(), counts, question.groups, 0).loss for counts in some}
    assert {counts: outcome.loss for counts, outcome in measured.outcomes.items()} == losses
    assert best(measured, spending, 0.7) == min(losses, key=losses.get)
    assert best(measured, spending, 0.0) is None
    for wrong, words in (([0], "from 1 to"), ([n + 1], "from 1 to"), ([n], "smaller ones")):
        with pytest.raises(UsageError, match=words):
            schedules(spending, wrong, 0.7)
    with pytest.raises(UsageError, match="fewer counts"):
        schedules(replace(spending, weights=(9,) * 32), list(range(1, n + 1)), 1.0)


def test_a_selector_that_merges_is_searched_by_its_relevance(tmp_path):
    found = searching.search(asked(selector=SparseVLM()), BUDGET, tmp_path / "s")
    assert found.deployed.images == FEW.validation and found.share <= BUDGET


@pytest.mark.parametrize("budget", [0, -0.1, 1.1, float("nan")])
def test_budgets_outside_the_range_are_refused(budget):
    with pytest.raises(UsageError, match=r"share in \(0, 1\]"):
        asked().check([budget])


def test_what_is_not_possible_is_refused_before_any_work(tmp_path):
    with pytest.raises(UsageError, match="layer 0 reads all"):
        asked().check([0.01])
    with pytest.raises(UsageError, match="scores none"):
        asked(selector=DART(2, 2)).check([BUDGET])
    with pytest.raises(UsageError, match="inside the language model"):
        asked(selector=Norm()).check([BUDGET])
    with pytest.raises(UsageError, match="layers after the first"):
        Search(task(layers=2, count=8), FastV(), Steps(2), FEW).check([BUDGET])
    with pytest.raises(UsageError, match="layer after the first"):
        Search(task(layers=1, count=8), FastV(), Free(), FEW).check([BUDGET])
    with pytest.raises(UsageError, match="--validation 4"):
        asked(settings=replace(FEW, validation=5)).check([BUDGET])
    with pytest.raises(UsageError, match="--batch-size 8"):
        asked(settings=replace(FEW, batch_size=9)).check([BUDGET])
    for wrong in ("fastv@2", "fastv:keep=0.5", "divprune:k=4;fastv@2", "plan.json"):
        with pytest.raises(UsageError, match="selector alone"):
            selector_of(wrong)
    for changes in ({"outer": 0}, {"inner": 0}, {"batch_size": 0}, {"validation": 0}, {"learning_rate": -1.0}):
        with pytest.raises(UsageError, match="not possible"):
            replace(FEW, **changes)
    assert not list(tmp_path.iterdir())


def test_a_folder_of_another_search_is_refused_unless_it_begins_anew(tmp_path):
    front_of(asked(), [BUDGET], tmp_path)
    other = asked(Steps(1))
    with pytest.raises(UsageError, match="another"):
        front_of(other, [BUDGET], tmp_path)
    assert front_of(other, [BUDGET], tmp_path, restart=True).found[0].budget == BUDGET
    with pytest.raises(UsageError, match="another model, selector or images"):
        front_of(asked(selector=SparseVLM()), [BUDGET], tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"schedules": [{"counts": "x"}]}', b"\x80\x04N."])
def test_a_broken_file_is_refused_and_runs_no_code(content, tmp_path):
    (tmp_path / "schedules.json").write_bytes(content)
    with pytest.raises(GradprobeError, match="holds no measured schedules"):
        front_of(asked(), [BUDGET], tmp_path)
    (tmp_path / "schedules.json").unlink()
    (tmp_path / f"{BUDGET}.safetensors").write_bytes(content)
    with pytest.raises(GradprobeError, match="no checkpoint"):
        front_of(asked(), [BUDGET], tmp_path)


def test_a_checkpoint_that_lacks_something_is_refused(tmp_path):
    question, file = asked(), tmp_path / "s"
    searching.search(question, BUDGET, file)
    saved = Checkpoint.read(file)
    Checkpoint(saved.config, {}, saved.progress).write(file)
    with pytest.raises(GradprobeError, match="no checkpoint"):
        searching.search(question, BUDGET, file)
    Checkpoint(saved.config, saved.tensors, {"multiplier": {}}).write(file)
    with pytest.raises(GradprobeError, match="no checkpoint"):
        searching.search(question, BUDGET, file)


def test_a_loss_that_is_no_number_ends_the_search(tmp_path, monkeypatch):
    question = asked()
    bad = numbers(1.0, float("nan"))
    monkeypatch.setattr(searching, "relaxed_losses", lambda *_: bad * _[2].counts.sum())
    with pytest.raises(GradprobeError, match="no finite number at step 1 "):
        searching.search(question, BUDGET, tmp_path / "s")
    one = task(count=8)
    head = one.vlm.model.get_output_embeddings().weight
    with torch.no_grad():
        head.fill_(float("nan"))
    with pytest.raises(GradprobeError, match="4 of 4 held-out images is no finite number"):
        searching.search(Search(one, FastV(), Free(), FEW), BUDGET, tmp_path / "t")


def test_rows_are_ready_for_json(tmp_path):
    front = front_of(asked(), [BUDGET], tmp_path, grid=[])
    rows = json.loads(json.dumps(front.rows()))
    assert [row["schedule"] for row in rows] == ["all tokens", "free", "grid"]
    assert rows[0]["share"] == 1 and rows[1]["plan"].startswith("fastv@")
    assert shared().source.size == rows[0]["images"]
    assert len(front.grid_rows()) >= 1
