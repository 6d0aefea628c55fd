"""Questions answered by processes of this machine: the same bytes as one after another, whatever is killed."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from asked import ALL, COHERENCE, GUMBEL, RETENTION, VPNOISE, contents, leftovers, mortal, serially
from asked import named as named

from gradprobe.errors import Notice
from gradprobe.parallel.driver import Asked, Crew, answer_all
from gradprobe.store.results import Store, key_of

DRIVER = """
import json, sys
from gradprobe.parallel.driver import Asked, Crew, answer_all
from gradprobe.probes import probe_of
from gradprobe.store.results import Store

if __name__ == "__main__":
    probe_of("mine.py:PROBE")
    answer_all([Asked(question) for question in json.loads(sys.argv[1])], [Store("runs")], Crew(2))
"""


@pytest.fixture(scope="module")
def serial(tmp_path_factory):
    return contents(serially(ALL, tmp_path_factory.mktemp("serial")))


@pytest.mark.parametrize("jobs", [1, 2, pytest.param(8, marks=pytest.mark.slow)])
def test_the_same_bytes_with_any_number_of_processes(jobs, serial, tmp_path):
    assert answer_all(ALL, [Store(tmp_path)], Crew(jobs)) == {}
    assert contents(tmp_path) == serial
    assert leftovers(tmp_path) == []


def test_without_a_crew_the_caller_answers(tmp_path):
    asked, lines = [Asked(COHERENCE | {"op": GUMBEL}), Asked(RETENTION | {"op": "hard+gather"})], []
    reasons = answer_all([*asked, asked[0]], [Store(tmp_path)], Crew(), lambda *line: lines.append(line))
    assert list(reasons) == [key_of(asked[1].question)]
    assert Store(tmp_path).find(asked[0].question) is not None
    assert lines[-1] == ("all 2 questions", 2, 2)
    assert not any(hasattr(line[0], "line") for line in lines)


def test_a_killed_worker_is_replaced_and_its_question_goes_on_until_it_has_killed_three(named, tmp_path):
    asked, deadly = [mortal(deaths=1), mortal(seed=1, seconds=1.0), mortal(seed=2)], mortal(deaths=9)
    store = Store(tmp_path / "runs")
    reasons = answer_all([deadly, *asked], [store], Crew(2))
    assert reasons == {key_of(deadly.question): "its worker was killed 3 times, perhaps for memory: --jobs fewer"}
    results = [store.load(store.find(each.question)) for each in asked]
    assert [r.environment["deaths"] for r in results] == [1, 0, 0]  # the file of the first attempt was there
    assert [r.numbers[0] for r in results] == [0, 1, 2]
    assert not (store.root / ".workers").exists()


def test_a_training_whose_worker_is_killed_ends_as_if_nothing_had_happened(tmp_path):
    long = {"op": VPNOISE, "steps": 100}  # seconds, so that its beats are seen on a machine that is slow to look
    asked = [Asked(RETENTION | long), Asked(COHERENCE | {"op": GUMBEL})]
    pids, root = [], tmp_path / "runs"

    def kill_one(description, done, of):
        if "training" in description and not pids:
            pids.append(int(description.line.rpartition(":")[2]))
            os.kill(pids[0], signal.SIGKILL)

    assert answer_all(asked, [Store(root)], Crew(2), kill_one) == {}
    assert pids
    assert contents(root) == contents(serially(asked, tmp_path / "serial"))


def test_progress_says_what_runs_where_and_ends_whole(named, tmp_path):
    lines = []
    asked = [mortal(seconds=2.5), mortal(seconds=2.5, seed=1)]
    answer_all(asked, [Store(tmp_path / "runs")], Crew(2), lambda *line: lines.append(line))
    workers = {line[0].line for line in lines if hasattr(line[0], "line")}
    assert len(workers) == 2
    texts = {str(line[0]) for line in lines}
    assert {f"{worker} mortal of {VPNOISE}: pieces" for worker in workers} <= texts
    assert lines[-1] == ("all 2 questions", 2, 2)
    for worker in workers:  # its line is taken away
        assert [line for line in lines if getattr(line[0], "line", None) == worker][-1][2] == 0


def test_an_interrupted_run_stops_its_workers_and_the_same_call_goes_on(named, tmp_path):
    asked, root = [mortal(seed=1), mortal(seconds=60.0)], tmp_path / "runs"
    pids = set()

    def stop(description, done, of):
        if hasattr(description, "line"):
            pids.add(int(description.line.rpartition(":")[2]))
        if done == 1 and of == 2 and "questions" in description:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        answer_all(asked, [Store(root)], Crew(2), stop)
    assert not any(map(_alive, pids))
    assert not (root / ".workers").exists()
    assert Store(root).find(asked[0].question) is not None
    assert answer_all([asked[0], mortal(seed=2)], [Store(root)], Crew(2)) == {}


def test_a_worker_does_not_outlive_a_driver_that_was_killed(named, tmp_path):
    questions = [mortal(seconds=60.0).question, mortal(seconds=60.0, seed=1).question]
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, json.dumps(questions)])
    pids = _pids(tmp_path / "runs")
    driver.kill()
    driver.wait()
    _until(lambda: not any(map(_alive, pids)))
    assert (tmp_path / "runs" / ".workers").exists()
    assert answer_all([mortal(seed=3)], [Store(tmp_path / "runs")], Crew(2)) == {}
    assert not (tmp_path / "runs" / ".workers").exists()  # what the dead run left is swept


def test_a_question_that_another_process_is_at_is_asked_again(named, tmp_path):
    store, each = Store(tmp_path / "runs"), mortal()
    with ExitStack() as held, pytest.warns(Notice, match="waiting for other processes: .* in the hands of process"):
        held.enter_context(store.working(each.question))
        threading.Timer(6, held.close).start()
        assert answer_all([each], [store], Crew(2)) == {}
    assert store.find(each.question) is not None


def test_force_measures_again_in_the_workers_and_only_once(tmp_path):
    asked, store = [Asked(COHERENCE | {"op": op}) for op in (GUMBEL, VPNOISE)], Store(tmp_path)
    serially(asked, tmp_path)
    before = contents(tmp_path)
    stamps = [store.find(each.question).stat().st_mtime_ns for each in asked]
    assert answer_all(asked, [store], Crew(2), force=True) == {}
    assert all(store.find(e.question).stat().st_mtime_ns > t for e, t in zip(asked, stamps, strict=True))
    assert contents(tmp_path) == before
    assert leftovers(tmp_path) == []


def test_an_error_of_a_question_is_its_reason_and_stops_no_other(tmp_path):
    hopeless, fine = Asked(RETENTION | {"op": "hard+gather"}), Asked(COHERENCE | {"op": GUMBEL})
    reasons = answer_all([hopeless, fine], [Store(tmp_path)], Crew(2))
    assert list(reasons) == [key_of(hopeless.question)] and "gradient" in reasons[key_of(hopeless.question)]
    assert Store(tmp_path).find(fine.question) is not None


def test_an_operator_of_a_python_file_is_built_in_workers_and_an_object_here(tmp_path, monkeypatch):
    from gradprobe.operators import registry

    (tmp_path / "ops.py").write_text(
        "import gradprobe as gp\n\ndef first(patches, scores, k, noise):\n"
        "    return gp.Selection(patches * scores.sigmoid()[..., None], scores.sigmoid())\n"
    )
    monkeypatch.chdir(tmp_path)
    typed = registry.build("ops.py:first")

    def given(patches, scores, k, noise):
        return typed(patches, scores, k, noise)

    asked = []
    for operator in (typed, registry.build(given)):
        question = COHERENCE | {"op": registry.label(operator), "op_code": registry.code_of(operator)}
        asked.append(Asked(question))
    lines = []
    store = Store(tmp_path / "runs")
    assert answer_all(asked, [store], Crew(2), lambda *line: lines.append(line)) == {}
    grams = [store.load(store.find(each.question)).gram for each in asked]
    assert np.allclose(*grams)
    assert any(str(line[0]) == f"{registry.label(given)}: gradients" for line in lines)  # told by this process
    assert not any(str(line[0]).startswith("ops.py:first: ") for line in lines)


def test_timings_are_measured_here_after_all_others(tmp_path, monkeypatch):
    cost = Asked(
        {k: v for k, v in COHERENCE.items() if k not in ("batches", "batch_size", "draws", "steps")}
        | {"probe": "cost", "op": GUMBEL, "images": 2, "rounds": 6, "device": "cpu"}
    )
    other, store, seen = Asked(COHERENCE | {"op": GUMBEL}), Store(tmp_path), []

    def look(description, done, of):
        if "rounds" in description:
            seen.append(store.find(other.question) is not None)

    assert answer_all([cost, other], [store], Crew(2), look) == {}
    assert seen and all(seen)


def _alive(pid):
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def _until(done, seconds=60):
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.1)


def _pids(root):
    """The processes that answer questions, once there are two."""
    found = set()

    def two():
        found.update(int(p.stem.split("-")[-2]) for p in root.glob(".workers/*/*.json"))
        return len(found) == 2

    _until(two)
    return found
