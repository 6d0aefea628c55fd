"""Crews that are not possible, and workers that cannot answer: one line each, and nothing is lost."""

import json
import os
import pickle
import socket
import subprocess
import sys

import cloudpickle
import pytest
from asked import ALL, COHERENCE, GUMBEL, SCENES, mortal
from asked import named as named
from typer.testing import CliRunner

import gradprobe as gp
from gradprobe.cli import app
from gradprobe.comparison.experiments import load_experiment, run_experiment
from gradprobe.errors import GradprobeError, Notice, UsageError
from gradprobe.models.own_models import STATE as STATE_OF_MODELS
from gradprobe.parallel import driver, scheme, worker
from gradprobe.parallel.calls import call_of, shipped
from gradprobe.parallel.driver import STATE, Asked, Crew, answer_all
from gradprobe.parallel.heartbeats import run_folder
from gradprobe.parallel.pools import Broken, Pool
from gradprobe.store.results import Store, key_of


@pytest.mark.parametrize(
    ("crew", "words"),
    [
        (Crew(0), "--jobs 0 is not possible; give a whole number of at least 1"),
        (Crew(-2), "--jobs -2 is not possible"),
        (Crew(1.5), "--jobs 1.5 is not possible"),
        (Crew(cluster="spark://here:1"), "give dask://HOST:PORT, ray://HOST:PORT or slurm"),
        (Crew(cluster="dask://here"), "--cluster dask://here is not possible; give dask://HOST:PORT"),
        (Crew(cluster="dask://here:99999"), "--cluster dask://here:99999 is not possible"),
        (Crew(cluster="dask"), "--cluster dask is not possible"),
        (Crew(cluster=""), "--cluster  is not possible"),
    ],
)
def test_a_crew_that_is_not_possible_is_refused_before_any_work(crew, words, tmp_path):
    with pytest.raises(UsageError) as error:
        answer_all(ALL, [Store(tmp_path / "runs")], crew)
    assert words in str(error.value)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("kind", ["dask", "ray"])
def test_an_address_without_a_scheduler_is_told_at_once(kind, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        address = f"{kind}://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(GradprobeError, match=f"there is no scheduler at {address} .*; start one there: {kind}"):
            answer_all(ALL, [Store(tmp_path)], Crew(cluster=address))


@pytest.mark.parametrize("cluster", ["dask://here:1", "ray://here:1", "slurm"])
def test_a_missing_package_is_named_with_what_to_type(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(scheme.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r'needs .*; type: pip install "gradprobe\[cluster\]"'):
        answer_all(ALL, [Store(tmp_path)], Crew(1, cluster))


def test_a_model_that_is_an_object_is_left_to_the_caller(tmp_path):
    assert STATE == STATE_OF_MODELS
    own = Asked(COHERENCE | {"op": GUMBEL, "weights": f"{STATE}0123456789abcdef"})
    assert answer_all([own], [Store(tmp_path)], Crew(2)) == {}
    assert Store(tmp_path).find(own.question) is None


@pytest.fixture
def call(tmp_path, named):
    """A question on its way, while its driver lives."""
    with run_folder(tmp_path / "runs") as folder:
        each = mortal()
        yield call_of(each.question, each.where, [str(tmp_path / "runs")], folder)


def test_a_worker_answers_and_finds_nothing_to_do_the_second_time(call, tmp_path):
    for _ in range(2):
        assert worker.answer(call | {"threads": 1}) == {
            "key": call["key"], "kind": "answered", "reason": "", "notices": [],
        }  # fmt: skip
    assert Store(tmp_path / "runs").find(call["question"]) is not None


def test_a_worker_with_another_version_names_both_and_what_to_install(call):
    outcome = worker.answer(call | {"version": "99.0"})
    assert outcome["kind"] == "refused"
    assert outcome["reason"] == (
        f"the worker on {socket.gethostname()} has gradprobe {gp.__version__}, this is 99.0; install the same there: "
        'pip install "gradprobe[cluster]==99.0"'
    )


def test_a_worker_without_gradprobe_says_so(call, tmp_path):
    code = "import json, pickle, sys; sys.path[:0] = json.loads(sys.argv[2])\n"
    code += "print(json.dumps(pickle.load(open(sys.argv[1], 'rb'))(json.loads(sys.argv[3]))))"
    (tmp_path / "function").write_bytes(cloudpickle.dumps(shipped()))
    for name in ("gradprobe",):  # a package of that name that has nothing in it
        (tmp_path / "empty" / name).mkdir(parents=True)
        (tmp_path / "empty" / name / "__init__.py").touch()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "function", json.dumps([str(tmp_path / "empty")]), json.dumps(call)],
        capture_output=True, text=True, env=environment, cwd=tmp_path, check=True,
    )  # fmt: skip
    outcome = json.loads(done.stdout)
    assert outcome["kind"] == "refused"
    host = socket.gethostname()
    assert outcome["reason"].startswith(f"the worker on {host} cannot import gradprobe {gp.__version__}")
    assert outcome["reason"].endswith(f'pip install "gradprobe[cluster]=={gp.__version__}"')


def test_what_is_sent_needs_nothing_but_python(call):
    assert json.loads(json.dumps(call)) == call
    assert b"gradprobe.parallel.calls" not in pickle.dumps(json.dumps(call))


def test_a_worker_that_does_not_see_the_store_names_host_and_folder(call, tmp_path):
    with run_folder(tmp_path / "elsewhere") as folder:
        pass
    outcome = worker.answer(call | {"run": str(folder)})
    assert outcome["kind"] == "refused"
    assert outcome["reason"] == (
        f"the worker on {socket.gethostname()} cannot see {tmp_path / 'elsewhere'}; give a folder that all machines "
        "share with --results"
    )


def _crew_of(monkeypatch, ask):
    """Let a function take the place of all workers."""
    from contextlib import nullcontext

    monkeypatch.setattr(driver, "opened", lambda *crew: nullcontext(Pool(ask)))
    monkeypatch.setattr(driver, "WAITS", (0.0, 0.0, 0.0))


def _outcome(call, kind, reason=""):
    return {"key": call["key"], "kind": kind, "reason": reason, "notices": []}


def test_a_refusal_stops_everything_and_loses_nothing(named, tmp_path, monkeypatch):
    asked = [mortal(), mortal(seed=1), mortal(seed=2)]

    def ask(calls, lone):
        yield worker.answer(calls[0] | {"threads": 1})
        yield _outcome(calls[1], "refused", "the worker on node3 has gradprobe 0.0")
        raise AssertionError("asked on")

    _crew_of(monkeypatch, ask)
    with pytest.raises(GradprobeError, match=r"the worker on node3 has gradprobe 0\.0"):
        answer_all(asked, [Store(tmp_path / "runs")], Crew(2))
    assert Store(tmp_path / "runs").find(asked[0].question) is not None
    assert not (tmp_path / "runs" / ".workers").exists()


def test_a_full_disk_on_one_worker_leaves_the_question_to_another(named, tmp_path, monkeypatch):
    full, other = mortal(), mortal(seed=1)
    times = []

    def ask(calls, lone):
        for call in calls:
            if call["key"] == key_of(full.question):
                times.append(call)
                yield (
                    _outcome(call, "unwritable", "node3: no space left")
                    if len(times) < 3
                    else worker.answer(call | {"threads": 1})
                )
            else:
                yield _outcome(call, "unwritable", "node3: no space left")

    _crew_of(monkeypatch, ask)
    reasons = answer_all([full, other], [Store(tmp_path / "runs")], Crew(2))
    assert reasons == {key_of(other.question): "node3: no space left"}
    assert Store(tmp_path / "runs").find(full.question) is not None


def test_a_disk_that_is_full_is_told_as_such_by_the_worker(call, tmp_path, monkeypatch):
    from gradprobe.store import results

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(results, "atomic_write", full)
    outcome = worker.answer(call | {"threads": 1})
    assert outcome["kind"] == "unwritable"
    assert outcome["reason"].startswith(f"{socket.gethostname()}: cannot write to ")


def test_workers_that_end_before_they_begin_are_not_asked_for_ever(named, tmp_path, monkeypatch):
    def ask(calls, lone):
        raise Broken("they could not start")
        yield

    _crew_of(monkeypatch, ask)
    with pytest.raises(GradprobeError, match="the workers end before they answer anything: they could not start"):
        answer_all([mortal()], [Store(tmp_path / "runs")], Crew(2))


def test_a_question_that_stays_in_other_hands_is_told_in_the_end(named, tmp_path, monkeypatch):
    _crew_of(monkeypatch, lambda calls, lone: (_outcome(call, "busy", "process 7 is at it") for call in calls))
    reasons = answer_all([mortal()], [Store(tmp_path / "runs")], Crew(2))
    assert list(reasons.values()) == ["process 7 is at it"]


def test_notices_of_workers_are_told_here(named, tmp_path, monkeypatch):
    _crew_of(
        monkeypatch, lambda calls, lone: (_outcome(c, "answered") | {"notices": ["slower on node3"]} for c in calls)
    )
    with pytest.warns(Notice, match="slower on node3"):
        answer_all([mortal()], [Store(tmp_path / "runs")], Crew(2))


PRESET = """
title = "A figure"
figure = "fig1c"
baseline = "gumbel-ste+gather"
claim = "none"
[question]
{question}
[[run]]
op = ["gumbel-ste+gather", "hard+gather"]
[[run]]
op = "lapsum+vpnoise"
where = {{ data = "$GRADPROBE_NOWHERE/images" }}
"""


def test_a_preset_is_answered_by_a_crew_with_reasons_for_what_is_missing(tmp_path, monkeypatch):
    question = SCENES | {
        "probe": "retention", "images": 8, "steps": 1, "batch_size": 4, "learning_rate": 0.001, "weight_decay": 0.01,
        "tau_start": 2.0, "tau_end": 0.1,
    }  # fmt: skip
    monkeypatch.delenv("GRADPROBE_NOWHERE", raising=False)
    lines = "\n".join(f"{name} = {json.dumps(value)}" for name, value in question.items())
    (tmp_path / "preset.toml").write_text(PRESET.format(question=lines))
    experiment = load_experiment(tmp_path / "preset.toml")
    for computed in (True, False):  # now, and from the store
        answers, missing = run_experiment(experiment, [Store(tmp_path / "runs")], crew=Crew(2))
        assert [(a.run.question["op"], a.computed) for a in answers] == [("gumbel-ste+gather", computed)]
        reasons = {gap.run.question["op"]: gap.reason for gap in missing}
        assert "no gradient" in reasons["hard+gather"]
        assert "export GRADPROBE_NOWHERE=FOLDER" in reasons["lapsum+vpnoise"]


@pytest.mark.parametrize("command", ["compare", "leaderboard", "ablation", "figures"])
def test_the_commands_take_and_check_both_options(command):
    needed = ["--op", "vpnoise", "--k", "20"] if command == "compare" else []
    for option, value in (("--jobs", "0"), ("--cluster", "nowhere")):
        result = CliRunner().invoke(app, [command, *needed, option, value, "--results", "nowhere"])
        assert isinstance(result.exception, UsageError)
        assert f"{option} {value} is not possible" in str(result.exception)
