"""Advise: the operator that trains is named by any measure; stopped, it goes on; asked again, nothing is asked."""

import io
import json
import re
from html.parser import HTMLParser

import pytest
from needle import RIGHT, SMALL, Away, Needle, few, without_gradient

from gradprobe.advice import asking, costs, measures, plan, run
from gradprobe.advice.page import write_advice
from gradprobe.advice.run import advise
from gradprobe.advice.tables import by_seed, candidate_table
from gradprobe.cli.screen import Screen
from gradprobe.errors import GradprobeError, UsageError
from gradprobe.store.results import Store

AWAY = [Away(sharpness) for sharpness in (1.0, 4.0)]
BEHAVIOURS = ["fidelity", "descent", None]


@pytest.fixture
def answered(monkeypatch):
    """Every answer of an advice."""
    answers, ask = [], asking.ask

    def noted(*given):
        answers.append(ask(*given))
        return answers[-1]

    monkeypatch.setattr(asking, "ask", noted)
    return answers


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder of its own, one registered operator, and the smallest measure."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(measures, "SIZES", measures.SIZES[:1])
    few(monkeypatch, RIGHT)
    return tmp_path


@pytest.fixture(scope="module", params=BEHAVIOURS)
def told(request, tmp_path_factory):
    """An advice by each measure, and by none."""
    folder = tmp_path_factory.mktemp("advice")
    with pytest.MonkeyPatch.context() as monkeypatch:
        few(monkeypatch, RIGHT)
        monkeypatch.setattr(measures, "SIZES", measures.SIZES[:1])
        confirmed(monkeypatch, request.param)
        return asked(results=folder)


def confirmed(monkeypatch, measure):
    monkeypatch.setattr(measures, "CONFIRMED", measure)


def asked(**changes):
    return advise(task=Needle(), **{"ops": AWAY, **SMALL, **changes})


# --- the planted operator ---


def test_the_operator_that_trains_is_named(told):
    advice = told
    assert advice.op == RIGHT
    assert advice.verdict[0].startswith(f"Use {RIGHT}")
    assert (measures.UNCONFIRMED in advice.verdict) == (advice.measure is None)
    first, *others = advice.candidates
    assert first["op"] == RIGHT and first["retention"] > 0.9
    assert first["rung"] == len(advice.rungs) > 1
    assert all(row["retention"] < 0.6 for row in others if row["op"] != RIGHT)
    assert [row["rung"] for row in advice.candidates] == sorted((r["rung"] for r in advice.candidates), reverse=True)
    assert {row["label"] for row in advice.rungs[0]["trained"]} == {row["label"] for row in advice.candidates}
    assert advice.price["step"] > 0 and advice.price["relative"] >= 1
    assert advice.seconds["planned"] <= SMALL["budget"]


@pytest.mark.parametrize("measure", ["fidelity", "descent"])
def test_a_confirmed_measure_ranks_first_and_tells_apart(place, monkeypatch, measure, answered):
    confirmed(monkeypatch, measure)
    advice = asked(confirm=False)
    probes = [answer.result.probe for answer in answered]
    assert probes == ["reference", *["fidelity"] * len(advice.candidates)]
    assert advice.op == RIGHT and advice.expected is None and advice.rungs == ()
    rows = {row["label"]: row for row in advice.candidates}
    away = [row for label, row in rows.items() if "Away" in label]
    assert len(away) == len(AWAY) and all(row["behind"] > 0 for row in away)
    assert measure == "descent" or all(row["apart"] for row in away)
    assert set(advice.runners_up) == {label for label, row in rows.items() if row["apart"] is False}
    assert "nothing was trained" in advice.verdict[0]
    questions = [answer.result.question for answer in answered[1:]]
    assert len({(q["seed"], q["images"], q["sigmas"], q["ladder"]) for q in questions}) == 1
    assert sorted(q["op"] for q in questions if "lapsum" in q["op"]) == ["lapsum:tau=0.5+scale", "lapsum:tau=2+scale"]


def test_only_the_best_by_a_confirmed_measure_are_trained(place, monkeypatch):
    confirmed(monkeypatch, "descent")
    monkeypatch.setattr(plan, "ENTER", 3)
    advice = asked()
    assert len(advice.rungs) == 1 and len(advice.rungs[0]["trained"]) == 3
    trained = {row["label"] for row in advice.rungs[0]["trained"]}
    by_measure = sorted(advice.candidates, key=lambda row: -row["value"])
    assert trained == {row["label"] for row in by_measure[:3]}
    assert all(row["retention"] is None for row in by_measure[3:])
    for row in by_measure:
        assert row["value_low"] <= row["value"] <= row["value_high"]


def test_seeds_decide_from_five_on(place):
    advice = asked(seeds=(1, 2))
    assert advice.expected["seeds"] == [1, 2]
    for trained in (advice.expected, advice.rungs[0]["trained"][0]):
        assert trained["low"] is None and trained["high"] is None and trained["retention"] is not None
    assert "2 seeds decide nothing" in advice.verdict[0]
    (line,) = [line for line in advice.changes if "too high" in line]
    assert line.startswith("Other seeds and test images:")
    page = write_advice(advice, place / "two.html").read_text()
    assert all(by_seed(row) in page for row in advice.rankings)
    assert page.count(by_seed(advice.candidates[0])) >= 2  # among the candidates and in its rung
    advice = asked(seeds=range(1, 6))
    assert advice.expected["low"] < advice.expected["high"] and advice.expected["retention"] > 0.9
    assert "over 5 seeds" in advice.verdict[0]
    assert len(advice.expected["by_seed"]) == 5


def test_a_ranking_that_is_as_good_is_named(told):
    rankings = {row["ranking"]: row for row in told.rankings}
    assert set(rankings) == {"random", "norm"}
    assert rankings["norm"]["as_good"] and not rankings["random"]["as_good"]
    assert any("Training may not be worth it" in line and "by norm" in line for line in told.verdict)


def test_an_operator_that_cannot_be_trained_is_missing_and_stops_nothing(place, monkeypatch):
    advice = asked(ops=[without_gradient, AWAY[0]])
    assert advice.op == RIGHT
    (reason,) = [why for name, why in advice.missing.items() if "without_gradient" in name]
    assert "no gradient" in reason
    few(monkeypatch)
    with pytest.raises(GradprobeError, match="no operator can be trained"):
        asked(ops=[without_gradient])


# --- stopped, and asked again ---


@pytest.mark.parametrize("measure", BEHAVIOURS)
def test_the_same_call_goes_on_and_then_asks_nothing(place, monkeypatch, answered, measure):
    confirmed(monkeypatch, measure)

    def stops(what, done, total):
        if what.startswith("rung 2") and done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        asked(progress=stops, seeds=(1,))
    before = {answer.path for answer in answered if answer.computed}
    answered.clear()
    advice = asked(seeds=(1,))
    now = {answer.path for answer in answered if answer.computed}
    assert before and now and not before & now
    answered.clear()
    monkeypatch.setattr(run, "timed", None)  # nor is anything timed
    again = asked(seeds=(1,))
    assert answered and not any(answer.computed for answer in answered)
    assert again.to_json() == advice.to_json()
    pages = [write_advice(each, place / f"{i}.html").read_bytes() for i, each in enumerate((advice, again))]
    assert pages[0] == pages[1]


def test_a_note_that_cannot_be_read_is_no_note(place, monkeypatch):
    noted = asked(seeds=(1,))
    for note in (place / "runs").glob("advise-*.json"):
        note.write_text("{")
    again = asked(seeds=(1,))
    assert again.seconds["timing"] != noted.seconds["timing"]


# --- what is told ---


class Text(HTMLParser):
    def __init__(self):
        super().__init__()
        self.words, self.open = [], []

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            assert name not in ("src", "srcset", "onclick"), (tag, name)
            assert name != "href" or value.startswith(("#", "data:"))

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_shows_all_and_asks_the_network_nothing(told, tmp_path):
    advice = told
    text = write_advice(advice, tmp_path / "deep" / "page.html").read_text()
    assert not re.search(r"https?://", text)
    parser = Text()
    parser.feed(text)
    words = "".join(parser.words)
    for sentence in (*advice.verdict, *advice.changes, advice.command, advice.title):
        assert sentence in words
    first = words.index(advice.verdict[0])
    assert first < words.index(advice.candidates[-1]["op"], words.index("cost"))
    for row in advice.candidates:
        assert row["op"] in words
    with pytest.raises(UsageError, match=r"page\.pdf"):
        write_advice(advice, tmp_path / "page.pdf")


def test_json_holds_all_of_it_and_the_table_fits_a_terminal(told):
    plain = json.loads(json.dumps(told.to_json(), allow_nan=False))
    assert plain == told.to_json()
    assert plain["op"] == RIGHT and len(plain["candidates"]) == len(told.candidates)
    console = Screen(width=80, record=True, file=io.StringIO())
    console.print(candidate_table(told))
    lines = console.export_text().splitlines()
    assert all(len(line.rstrip()) <= 80 for line in lines)
    assert not any("…" in line for line in lines)


def test_an_open_task_is_trained_in_python(told):
    import gradprobe as gp

    recipe = re.search(r"recipe=(gp\.Recipe\(.*?\))", told.command)[1]
    made = eval(recipe, {"gp": gp})
    assert (made.steps, made.batch_size) == (SMALL["steps"], SMALL["batch_size"])
    assert f'gp.retention(task, "{RIGHT}", k={SMALL["k"]}' in told.command


# --- budgets ---


def slow(monkeypatch, seconds):
    """Training steps are said to take so long."""

    def timed(task, operators, *rest):
        every = dict.fromkeys(operators, seconds)
        return costs.Costs(every, dict.fromkeys(operators, seconds / 3), 1e-4, 1e-3, 2.0, {})

    monkeypatch.setattr(run, "timed", timed)


def test_a_budget_that_is_too_short_says_the_least_and_the_least_works(place, monkeypatch, answered):
    slow(monkeypatch, 1.0)
    with pytest.raises(UsageError, match="is too short: here the timing of training steps takes 2 s") as caught:
        asked(budget=20.0)
    assert not answered
    least = int(re.search(r"at least --budget (\d+)s", str(caught.value))[1])
    advice = asked(budget=float(least))
    assert advice.seconds["planned"] <= least
    assert advice.rungs[-1]["steps"] < SMALL["steps"]
    assert any(f"of {SMALL['steps']} steps" in line for line in advice.verdict)


def test_a_timing_that_is_kept_is_named_where_it_leaves_a_budget_too_short(place, monkeypatch, answered):
    slow(monkeypatch, 1.0)
    with pytest.raises(UsageError, match="is too short") as first:
        asked(budget=20.0)
    assert "remove" not in str(first.value)
    slow(monkeypatch, 1e-3)  # the machine is quiet now
    with pytest.raises(UsageError, match=r"is too short.*or remove .*advise-") as again:
        asked(budget=20.0)
    (place / re.search(r"or remove (\S+),", str(again.value))[1]).unlink()
    assert not answered and asked(budget=20.0).op == RIGHT
    assert len(list((place / "runs").glob("advise-*.json"))) == 1
    asked(budget=20.0, workers=2)  # takes another time
    assert len(list((place / "runs").glob("advise-*.json"))) == 2


def test_a_training_of_two_rungs_is_paid_for_once(place):
    """A budget that is ample trains at full length from the first rung on."""
    advice = asked(seeds=(1, 2))
    assert len(advice.rungs) > 1 and {row["steps"] for row in advice.rungs} == {SMALL["steps"]}
    answers = [Store("runs").load(path) for path in Store("runs").paths().values()]
    trained = [each for each in answers if each.question.get("steps")]
    assert advice.seconds["trainings"] == pytest.approx(sum(each.environment["seconds"] for each in trained))
    for row in advice.rungs:
        assert row["spent"] == pytest.approx(sum(each["spent"] for each in row["trained"]))


def test_few_test_images_are_all_that_is_asked_for(place, answered):
    advice = advise(task=Needle(there=50), ops=AWAY[:2], **SMALL)
    assert advice.op == RIGHT
    assert {answer.result.question["images"] for answer in answered} == {50}


# --- wrong input ---


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"k": 0}, "--k 1 to --k 10"),
        ({"k": 11}, "--k 1 to --k 10"),
        ({"k": 10}, "nothing to choose; give --k 1 to --k 9"),
        ({"keep": 0.3}, "either --k"),
        ({"k": None}, "either --k"),
        ({"budget": 0}, "--budget 0s"),
        ({"budget": float("nan")}, "--budget nans"),
        ({"budget": "15m"}, "give seconds"),
        ({"seeds": (1, 1)}, "--seeds 1,1"),
        ({"seeds": ()}, "name at least one"),
        ({"seeds": (-1,)}, "--seeds -1"),
        ({"steps": 0}, "--steps 0"),
        ({"batch_size": 0}, "--batch-size 0"),
        ({"ops": "vpnose"}, "did you mean 'vpnoise'"),
        ({"confirm": False}, "nothing to go by"),
        ({"backbone": "vit"}, "either task="),
        ({"jobs": 0}, "--jobs 0"),
        ({"jobs": 2}, "workers open models by name"),
        ({"cluster": "nowhere"}, "nowhere"),
        ({"workers": 0}, "--workers 0"),
    ],
)
def test_what_means_nothing_is_refused_before_any_work(place, answered, changes, words):
    with pytest.raises(UsageError, match=words):
        asked(**changes)
    assert not answered and not (place / "runs").exists()
