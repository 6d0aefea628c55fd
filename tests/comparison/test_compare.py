"""Compare: all probes on one's own operator and baselines, asked once, stopped and taken up again, told in one page."""

import json
import random
from itertools import pairwise

import numpy as np
import pytest
import rich.style  # noqa: F401  # importing it draws from Python's random numbers
import torch
from compared_sizes import LEAST, shrink
from stored import result

from gradprobe.comparison import run as compare
from gradprobe.comparison.comparison import compared, metrics, rows, to_json
from gradprobe.comparison.sizes import SIZES, Times, estimate
from gradprobe.errors import GradprobeError, UsageError
from gradprobe.operators import registry
from gradprobe.probes import probe_of
from gradprobe.probes.ask import Answer
from gradprobe.probes.coherence import measure
from gradprobe.probes.contract import question_of
from gradprobe.probes.metrics import Plan
from gradprobe.tasks import classification
from gradprobe.training.workers import one_thread

MINE, SCALE = "mine.py:Half", "lapsum+scale"
OPERATORS = """\
from gradprobe import Selection

def Half(patches, scores, k, noise):
    weights = scores.sigmoid()
    return Selection(patches * weights[..., None], weights)

def Raises(patches, scores, k, noise):
    raise ValueError("I am broken")
"""


def only(monkeypatch, *probes):
    """The questions of some probes, and none of rankings."""
    every = compare.questions
    monkeypatch.setattr(
        compare, "questions",
        lambda plan, seeds=None: [
            q for q in every(plan, seeds) if q[0].name in probes and not q[1].name.startswith("ranked:")
        ],
    )  # fmt: skip


def surroundings():
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": repr(np.random.get_state()),  # noqa: NPY002
        "random": random.getstate(),
        "settings": (torch.get_num_threads(), torch.is_grad_enabled(), torch.get_default_dtype()),
    }


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder of its own with a user's file in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(OPERATORS)
    return tmp_path


@pytest.fixture
def asked(monkeypatch):
    """Every answer: the question, and whether it was computed."""
    answers: list[Answer] = []
    ask = compare.ask

    def noted(*given):
        answers.append(ask(*given))
        return answers[-1]

    monkeypatch.setattr(compare, "ask", noted)
    return answers


@pytest.fixture
def clock(monkeypatch):
    """Operators are not timed but said to take a hundredth of a second; gives the names asked for."""
    calls = []

    def timed(task, operator, k, seed, name):
        calls.append(name)
        return Times(gradient=0.01, forward=0.004, deployed=0.001)

    monkeypatch.setattr(compare, "timed", timed)
    return calls


# --- everything, once ---


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """One's own operator and a baseline by every probe; the folder, and what was around it before and after."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "mine.py").write_text(OPERATORS)
    told = []
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        shrink(monkeypatch)
        before = surroundings()
        with one_thread():
            found = compare.compare(
                [MINE], 58, baselines=["scale"], size="tiny", workers=1, progress=lambda *step: told.append(step)
            )
        after = surroundings()
    return found, folder, [name for name, value in after.items() if value != before[name]], told


def test_every_probe_answers_and_the_first_operator_is_what_others_are_compared_with(whole):
    found, *_ = whole
    assert found.missing == ()
    assert (found.ops, found.focus) == ((MINE, SCALE), MINE)
    assert found.settings["size"] == "tiny"
    assert (found.settings["k"], found.settings["tokens"], found.settings["seed"]) == (58, 196, 1)
    assert set(found.results) == set(compared())
    mine, scale, *floors = rows(found)
    assert mine["focus"]
    for metric in metrics():
        assert mine["metrics"][metric.name]["value"] is not None, metric.name
        assert scale["metrics"][metric.name]["value"] is not None, metric.name
        if metric.name == "equivalence":
            continue  # its verdict is of the test against hard top-K
        assert mine["metrics"][metric.name]["difference"] is None, metric.name
        assert scale["metrics"][metric.name]["difference"] is not None, metric.name
    assert {row["op"] for row in floors} == {
        f"ranked:{name}" for name in ("random", "norm", "class-attention", "truth")
    }
    assert "hard+gather" in [result.question["op"] for result in found.results["equivalence"]]


def test_all_operators_are_asked_the_same(whole):
    for probe, results in whole[0].results.items():
        ours = [r.question for r in results if not r.question["op"].startswith("ranked:")]
        shared = [{k: v for k, v in q.items() if k not in ("op", "op_code")} for q in ours]
        assert all(q == shared[0] for q in shared), probe
        assert [q["op"] for q in ours if "op_code" in q] == [MINE], probe


def test_only_the_answers_are_written_and_nothing_else_changes(whole):
    _, folder, changed, told = whole
    assert changed == []
    assert sorted(p.name for p in folder.iterdir() if p.name != "__pycache__") == ["mine.py", "runs"]
    assert (folder / "mine.py").read_text() == OPERATORS
    every = [step for step in told if step[0].startswith("all ")]
    assert [done for _, done, _ in every] == list(range(len(every)))
    assert {total for *_, total in every} == {len(every) - 1}


def test_the_command_says_the_same_from_what_is_stored(whole, run, asked, monkeypatch):
    found, folder, *_ = whole
    shrink(monkeypatch)
    monkeypatch.chdir(folder)
    typed = ["compare", "--op", MINE, "--k", "58", "--baseline", "scale", "--size", "tiny"]
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    code, out, _ = run(*typed, "--json", "--page", "none")
    assert code == 0
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
    assert asked and not any(answer.computed for answer in asked)
    told = json.loads(out)
    assert told["page"] is None
    assert told["command"] == f"gradprobe {' '.join(typed)} --json --page none"
    expected = json.loads(json.dumps(to_json(found)))
    assert {name: told[name] for name in expected if name != "command"} == {
        name: value for name, value in expected.items() if name != "command"
    }


def test_the_command_prints_a_table_and_writes_a_page_where_it_is_asked_to(whole, run, monkeypatch):
    _, folder, *_ = whole
    shrink(monkeypatch)
    monkeypatch.chdir(folder)
    page = folder / "deep" / "page.html"
    code, out, _ = run(
        "compare", "--op", MINE, "--k", "58", "--baseline", "scale", "--size", "tiny", "--page", "deep/page.html"
    )
    assert code == 0
    assert "page: deep/page.html" in out
    for told in (MINE, "retention", "size: tiny", "answers: runs"):
        assert told in out
    text = page.read_text()
    assert MINE in text.replace("<wbr>", "")
    assert text.count("<svg") == len(compared())
    page.unlink()


# --- what goes wrong with one operator ---


def test_an_operator_that_cannot_be_measured_is_missing_and_stops_nothing(place, monkeypatch):
    shrink(monkeypatch)
    only(monkeypatch, "coherence", "retention")
    with one_thread():
        found = compare.compare(["scale"], 58, baselines=["hard", "mine.py:Raises"], size="tiny", workers=1)
    assert [r.question["op"] for r in found.results["coherence"]] == [SCALE, "hard+gather"]
    assert [r.question["op"] for r in found.results["retention"]] == [SCALE]
    gaps = sorted(line.partition(": ")[0] for line in found.missing)
    assert gaps == ["coherence of mine.py:Raises", "retention of hard+gather", "retention of mine.py:Raises"]
    assert sum("ValueError: I am broken" in line for line in found.missing) == 2
    assert not any("\n" in line for line in found.missing)
    table = {row["op"]: row for row in rows(found)}
    assert table["hard+gather"]["gradient"] == "none"
    assert table["hard+gather"]["metrics"]["coherence"]["reason"] == "no gradient"
    assert table["mine.py:Raises"]["metrics"]["coherence"]["reason"] == "not measured"


# --- stopped, and asked again ---


def test_a_stopped_comparison_goes_on_where_it_was(place, monkeypatch, asked, clock):
    probe = probe_of("coherence")
    settings = probe.settings(batches=3, batch_size=1)

    def measured(subject, settings, resources):
        return result(question_of(probe, subject, settings))

    monkeypatch.setattr(measure, "measure", measured)
    monkeypatch.setattr(compare, "questions", lambda plan, seeds=None: [(probe, *each) for each in plan.each(settings)])

    def stops(what, done, total):
        if (what, done) == ("all 2 questions", 1):
            raise KeyboardInterrupt

    def once(progress=None, **changes):
        asked.clear()
        given = {"baselines": [MINE], "workers": 1, "progress": progress} | changes
        return compare.compare(["scale"], 58, **given)

    with pytest.raises(KeyboardInterrupt):
        once(stops)
    assert [answer.computed for answer in asked] == [True]
    assert clock == [SCALE, MINE]
    found = once()
    assert [answer.computed for answer in asked] == [False, True]
    assert clock == [SCALE, MINE]  # the size was kept, not timed again
    again = once()
    assert [answer.computed for answer in asked] == [False, False]
    assert json.dumps(to_json(again)) == json.dumps(to_json(found))
    once(force=True)
    assert [answer.computed for answer in asked] == [True, True]


# --- the size that a budget buys ---


def bought(budget, **changes):
    """The size alone."""
    given = {"baselines": [], "budget": budget, "workers": 1} | changes
    return compare.compare(["scale"], given.pop("k", 58), **given).settings["size"]


@pytest.mark.parametrize("times", [Times(0.01, 0.004, 0.001), Times(1.0, 0.0, 0.0), Times(0.02, 0.02, 0.02)])
def test_a_larger_size_takes_longer_and_more_threads_less(times):
    told = [estimate(size, {"one": times}, 2) for size in SIZES.values()]
    assert all(a < b for a, b in pairwise(told))
    assert estimate(SIZES["small"], {"one": times}, 4) < told[1]
    assert estimate(SIZES["small"], {"one": times, "other": times}, 2) > told[1]


def test_more_time_buys_a_larger_size_that_fits(place, monkeypatch, clock):
    monkeypatch.setattr(compare, "questions", lambda plan, seeds=None: [])
    budgets = (1.0, 30.0, 200.0, 1e3, 1e5)
    found = [bought(budget) for budget in budgets]
    order = list(SIZES)
    assert [order.index(name) for name in found] == sorted(order.index(name) for name in found)
    assert (found[0], found[-1]) == ("tiny", "full")
    assert len(set(found)) > 2
    times = {SCALE: Times(gradient=0.01, forward=0.004, deployed=0.001)}
    for budget, name in zip(budgets, found, strict=True):
        assert name == "tiny" or estimate(SIZES[name], times, 1) <= budget
        larger = order[order.index(name) + 1 :]
        assert all(estimate(SIZES[other], times, 1) > budget for other in larger)


def test_the_size_is_kept_for_the_same_question_only(place, monkeypatch, clock):
    monkeypatch.setattr(compare, "questions", lambda plan, seeds=None: [])
    assert bought(1e5) == "full"
    monkeypatch.setattr(compare, "timed", lambda *asked: clock.append("slow") or Times(10.0, 10.0, 10.0))
    clock.clear()
    assert bought(1e5) == "full"
    assert clock == []
    for changes in ({"k": 57}, {"seed": 2}, {"baselines": ["vpnoise"]}, {"loss": "kl"}, {"results": "elsewhere"}):
        clock.clear()
        assert bought(1e5, **changes) != "full", changes
        assert clock, changes
    clock.clear()
    assert bought(1e5, size="medium") == "medium"
    assert clock == []
    for note in (place / "runs").glob("compare-*.json"):
        note.write_text("{")
    assert bought(1e5) != "full"  # a note that cannot be read is no note


def test_changed_code_is_timed_again(place, monkeypatch, clock):
    monkeypatch.setattr(compare, "questions", lambda plan, seeds=None: [])
    codes = iter("abb")
    monkeypatch.setattr(compare.registry, "code_of", lambda op: next(codes))
    for _ in range(3):
        bought(1e3)
    assert len(clock) == 2


def test_operators_that_cannot_be_timed_leave_the_smallest_size(place, monkeypatch):
    shrink(monkeypatch)
    monkeypatch.setattr(compare, "SIZES", {"tiny": LEAST, "full": SIZES["full"]})
    monkeypatch.setattr(compare, "questions", lambda plan, seeds=None: [])
    assert compare.compare(["mine.py:Raises"], 58, baselines=[], budget=1e9, workers=1).settings["size"] == "tiny"


def test_a_folder_that_cannot_be_written_is_one_line(place, clock):
    (place / "taken").write_text("a file")
    with pytest.raises(GradprobeError, match="--results") as caught:
        compare.compare(["scale"], 58, baselines=[], results="taken/runs", workers=1)
    assert "\n" not in str(caught.value)


# --- several seeds ---


def test_each_probe_that_pools_seeds_is_asked_with_each_of_them_and_the_others_with_the_first():
    task = classification("scenes", seed=3)
    plan = Plan(task, task, {SCALE: registry.build("scale")}, 58, SIZES["full"], 3)
    sharp = "lapsum:tau=0.01+scale"  # its name in equivalence
    asked = {}
    for probe, subject, settings in compare.questions(plan, (3, 5, 9)):
        asked.setdefault((probe.name, subject.name), []).append(settings.seed)
    pooled = {probe: seeds for (probe, name), seeds in asked.items() if name in (SCALE, sharp)}
    first = ("equivalence", "cost")
    assert pooled == {name: [3] if name in first else [3, 5, 9] for name in compared()}
    assert asked["retention", "ranked:norm"] == [3, 5, 9]
    alone = [(settings.seed, subject.name) for probe, subject, settings in compare.questions(plan)
             if probe.name == "coherence" or (probe.name, subject.name) == ("retention", SCALE)]  # fmt: skip
    assert [seed for seed, _ in alone] == [3, *range(3, 8)]  # without them, as many trainings as the size says
    one = compare.questions(plan, (3,))
    assert {question_of(*each)["probe"] for each in one} == set(compared())
    assert all(question_of(*each) in [question_of(*other) for other in compare.questions(plan)] for each in one)


def test_seeds_are_pooled_and_told(place, monkeypatch, run):
    shrink(monkeypatch)
    only(monkeypatch, "coherence", "cost")
    typed = ["--op", "scale", "--k", "58", "--baseline", "gumbel", "--size", "tiny", "--seeds", "2,1"]
    code, out, _ = run("compare", *typed, "--json", "--page", "none")
    assert code == 0
    told = json.loads(out)
    assert (told["settings"]["seed"], told["settings"]["seeds"]) == (1, [1, 2])
    asked = sorted((answer["probe"], answer["seed"]) for answer in told["answers"])
    assert asked == sorted([("coherence", 1), ("coherence", 2), ("cost", 1)] * 2)
    scale, gumbel = (row["metrics"]["coherence"] for row in told["rows"])
    assert len(scale["by_seed"]) == len(gumbel["by_seed"]) == 2 and scale["low"] is None
    assert (gumbel["verdict"], gumbel["seeds"]) == ("undecided", 2)


def test_seeds_take_longer_and_their_size_is_remembered_apart(place, monkeypatch, clock):
    times = {"one": Times(0.01, 0.004, 0.001)}
    size = SIZES["full"]
    told = [estimate(size, times, 2, seeds) for seeds in (1, 3, 5)]
    assert told[0] < told[1] < told[2]
    assert told[0] < estimate(size, times, 2) < told[2]  # one scorer and 5 trainings
    monkeypatch.setattr(compare, "questions", lambda plan, seeds=None: [])
    assert [bought(1e3), bought(1e3, seeds=range(1, 21))] != [bought(1e3)] * 2
    clock.clear()
    assert bought(1e3, seeds=range(1, 21)) and clock == []
    assert bought(1e3, seeds=(1, 2)) and clock


# --- few images ---


def test_a_small_folder_is_asked_for_no_more_than_it_has(monkeypatch):
    operators = {"lapsum+scale": registry.build("scale")}
    task = classification("scenes", seed=1)
    plan = Plan(task, task, operators, 58, SIZES["tiny"], 1)
    for there in (24, 30, 47):
        monkeypatch.setattr(type(task), "available", lambda self, count, there=there: min(count, there))
        for question in (question_of(*each) for each in compare.questions(plan)):
            needed = question.get("images", 0) + question.get("held_out", 0)
            if question["probe"] == "coherence":
                needed = question["batches"] * question["batch_size"]
            assert 0 < needed <= there, question
    monkeypatch.setattr(type(task), "available", lambda self, count: min(count, 23))
    with pytest.raises(UsageError, match=r"23 images are too few .* at least 24"):
        compare.questions(plan)


# --- wrong input ---


def test_python_refuses_what_means_nothing(place):
    with pytest.raises(UsageError, match="--op NAME"):
        compare.compare([], 58)
    with pytest.raises(UsageError, match="--budget 0s is not possible"):
        compare.compare(["scale"], 58, budget=0)
    with pytest.raises(UsageError, match="--budget nans is not possible"):
        compare.compare(["scale"], 58, budget=float("nan"))
    for seeds in ([], "1..5", [1, "a"], [True], [1.5]):
        with pytest.raises(UsageError, match=r"seeds=.* give whole numbers, such as seeds=range\(1, 6\)"):
            compare.compare(["scale"], 58, seeds=seeds)
    with pytest.raises(UsageError, match="seed 2 is named twice"):
        compare.compare(["scale"], 58, seeds=[2, 1, 2])
    with pytest.raises(UsageError, match="--seeds -1 is not possible"):
        compare.compare(["scale"], 58, seeds=[1, -1])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--op", "scale", "--k", "58", "--budget", "10"], "--budget 10 is not possible; give a time such as"),
        (["--op", "scale", "--k", "58", "--budget", "0s"], "--budget 0s"),
        (["--op", "scale", "--k", "58", "--budget", "soon"], "--budget soon"),
        (["--op", "scale", "--k", "58", "--budget", "-5m"], "--budget -5m"),
        (["--op", "scale", "--k", "58", "--size", "tinny"], "no size is called 'tinny'; did you mean 'tiny'"),
        (["--op", "scael", "--k", "58"], "did you mean 'scale'"),
        (["--op", "scale", "--k", "58", "--baseline", "gubmel"], "did you mean 'gumbel'"),
        (["--op", "gone.py:Op", "--k", "58"], "no such file"),
        (["--op", "scale", "--k", "58", "--page", "page.pdf"], "page.pdf"),
        (["--op", "scale", "--k", "58", "--keep", "0.3"], "either --k"),
        (["--op", "scale"], "either --k"),
        (["--k", "58"], "--op"),
        (["--op", "scale", "--k", "0", "--size", "tiny"], "--k 1 to --k 196"),
        (["--op", "scale", "--k", "197"], "--k 1 to --k 196"),
        (["--op", "scale", "--k", "58", "--workers", "0"], "--workers 0"),
        (["--op", "scale", "--k", "58", "--seeds", "1,1"], "seed 1 is named twice"),
        (["--op", "scale", "--k", "58", "--seeds", "5..1"], "a range rises"),
        (["--op", "scale", "--k", "58", "--seeds", "all"], "--seeds all is not possible"),
        (["--op", "scale", "--k", "58", "--seeds", "1..5", "--seed", "3"], "give either --seed 3 or --seeds"),
    ],
)
def test_a_wrong_input_is_one_line_and_leaves_nothing(run, place, arguments, words):
    code, out, err = run("compare", *arguments)
    lines = [line for line in err.splitlines() if line.startswith("gradprobe: ")]
    assert code == 2, err
    assert len(lines) == 1, err
    assert words in lines[0]
    assert "Traceback" not in err + out
    assert not list(place.glob("runs/**/*"))
