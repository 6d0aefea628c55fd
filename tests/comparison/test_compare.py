"""Compare: all probes on one's own operator and baselines, asked once, stopped and taken up again, told in one page."""

import json
import random

import numpy as np
import pytest
import rich.style  # noqa: F401  # importing it draws from Python's random numbers
import torch
from compared_sizes import OPERATORS, shrink
from compared_sizes import clock as clock
from compared_sizes import place as place
from stored import result

from gradprobe.comparison import run as compare
from gradprobe.comparison.comparison import compared, metrics, rows, to_json
from gradprobe.comparison.sizes import SIZES
from gradprobe.comparison.verdict import report_json
from gradprobe.errors import UsageError
from gradprobe.operators import registry
from gradprobe.probes import probe_of
from gradprobe.probes.ask import Answer
from gradprobe.probes.coherence import measure
from gradprobe.probes.contract import question_of
from gradprobe.probes.metrics import Plan
from gradprobe.tasks import classification
from gradprobe.training.workers import one_thread

MINE, SCALE = "mine.py:Half", "lapsum+scale"


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
def asked(monkeypatch):
    """Every answer: the question, and whether it was computed."""
    answers: list[Answer] = []
    ask = compare.ask

    def noted(*given):
        answers.append(ask(*given))
        return answers[-1]

    monkeypatch.setattr(compare, "ask", noted)
    return answers


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
        f"ranked:{name}" for name in ("random", "norm", "class-attention", "mean-attention", "divprune", "truth")
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
    verdict = report_json(whole[0])["verdict"]["sentence"]
    assert out.startswith(f"{verdict}\n") and verdict.startswith("Do not conclude: ")  # one seed
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
