"""One store, many writers, on file systems with locks, without them, and with locks that do not reach to others."""

import errno
import os
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager

import pytest
from stored import asked, result

from gradprobe.store import locks
from gradprobe.store.chunk_log import open_chunk_log
from gradprobe.store.leftovers import FORCED, sweep
from gradprobe.store.locks import LOCK, Busy, claimed, reaches
from gradprobe.store.record import key_of
from gradprobe.store.results import Store

KEY = key_of(asked())
WRITER = """
import sys
from stored import asked, result
from gradprobe.store.locks import Busy
from gradprobe.store.results import Store

store, saved = Store(sys.argv[1]), 0
for seed in range(25):
    question = asked(seed=seed)
    try:
        with store.working(question) as partial:
            (partial / "piece").write_text("half")
            if store.find(question) is None:
                store.save(result(question, seed=seed))
                saved += 1
            (partial / "piece").unlink()
    except Busy:
        pass
print(saved)
"""


@pytest.fixture
def no_locks(monkeypatch):
    def refuse(descriptor, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)


@pytest.fixture
def other(monkeypatch):
    """Work in the name of another process that lives: ``with other(): ...``"""

    @contextmanager
    def as_process(pid=None):
        pid = pid or os.getppid()
        with monkeypatch.context() as context:
            context.setattr(locks.os, "getpid", lambda: pid)
            yield

    return as_process


def _dead():
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_with_locks_a_question_is_one_processs_at_a_time(tmp_path):
    store = Store(tmp_path)
    with store.working(asked()) as partial:
        assert partial == store.partial(asked())
        with pytest.raises(Busy), store.working(asked()):
            pass


def test_who_ends_does_not_take_away_the_lock_of_the_next_one(tmp_path):
    folder = tmp_path / "work"
    with ExitStack() as first, ExitStack() as second:
        first.enter_context(claimed(folder, "work"))
        shutil.rmtree(folder)  # as at the end of a question, and by a sweep
        second.enter_context(claimed(folder, "work"))
        first.close()
        with pytest.raises(Busy), claimed(folder, "work"):
            pass


@pytest.mark.parametrize("apart", [True, False])
def test_without_locks_each_process_has_pieces_of_its_own(apart, tmp_path, other, request):
    if not apart:
        request.getfixturevalue("no_locks")
    store = Store(tmp_path, apart)
    with store.working(asked()) as mine:
        (mine / "piece").write_text("mine")
        with other(), store.working(asked()) as theirs:
            assert theirs != mine
            assert not list(theirs.iterdir())
            (theirs / "piece").write_text("theirs")
            store.save(result())  # and sweeps
            assert (theirs / "piece").read_text() == "theirs"
        assert (mine / "piece").read_text() == "mine"
        assert store.find(asked()) is not None


@pytest.mark.usefixtures("no_locks")
def test_without_locks_the_pieces_of_a_process_that_was_killed_are_taken_over(tmp_path, other):
    store = Store(tmp_path)
    with other(_dead()), store.working(asked()) as theirs:
        (theirs / "piece").write_text("half")
    with store.working(asked()) as mine:
        assert (mine / "piece").read_text() == "half"
        assert not theirs.exists()


@pytest.mark.usefixtures("no_locks")
def test_without_locks_forced_work_begins_anew_and_goes_on_from_its_own(tmp_path):
    store = Store(tmp_path)
    with store.working(asked()) as mine:
        (mine / "piece").write_text("old")
    for left in ([FORCED], [FORCED, "piece"]):
        with store.working(asked(), force=True) as mine:
            assert sorted(path.name for path in mine.iterdir()) == left
            (mine / "piece").write_text("new")


def test_what_is_swept_is_nobodys(tmp_path, other):
    store = Store(tmp_path, apart=True)
    store.save(result())
    with store.working(asked()) as mine:
        (mine / "piece").touch()
        with other(_dead()), store.working(asked()) as dead:
            (dead / "piece").touch()
        elsewhere = mine.with_name(f"{KEY}.another-machine-{os.getpid()}.partial")
        old = mine.with_name(f"{KEY}.another-machine-7.partial")
        for folder in (elsewhere, old):
            folder.mkdir()
        week = time.time() - 7 * 86_400
        os.utime(old, (week, week))
        sweep(tmp_path)
        assert mine.exists() and elsewhere.exists()
        assert not dead.exists() and not old.exists()


@pytest.mark.usefixtures("no_locks")
def test_without_locks_work_that_was_touched_today_is_not_swept(tmp_path):
    partial = tmp_path / "coherence" / f"{KEY}.partial"
    partial.mkdir(parents=True)
    (partial / "piece").touch()
    Store(tmp_path).save(result())
    assert (partial / "piece").exists()


@pytest.mark.usefixtures("no_locks")
def test_a_log_of_pieces_needs_no_locks(tmp_path):
    with open_chunk_log(tmp_path, {"question": 1}) as log:
        log.append(0, b"piece")
    with open_chunk_log(tmp_path, {"question": 1}) as log:
        assert log.chunks == {0: b"piece"}


def test_a_lock_that_is_held_elsewhere_is_seen_or_it_does_not_reach(tmp_path, monkeypatch):
    folder = tmp_path / "work"
    with claimed(folder, "work"):
        assert reaches(folder / LOCK)
        code = "import sys; from pathlib import Path; from gradprobe.store.locks import reaches\n"
        code += "print(reaches(Path(sys.argv[1])))"
        done = subprocess.run([sys.executable, "-c", code, folder / LOCK], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "True"
    folder.mkdir()
    (folder / LOCK).touch()  # held by nobody whom this machine sees
    assert not reaches(folder / LOCK)
    assert not reaches(folder / "missing")


def test_many_processes_answer_and_sweep_at_once(tmp_path):
    path = os.pathsep.join(sys.path)
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, tmp_path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=os.environ | {"PYTHONPATH": path},
        )
        for _ in range(4)
    ]  # fmt: skip
    outputs = [writer.communicate() for writer in writers]
    assert [errors for _, errors in outputs] == [""] * 4
    store = Store(tmp_path)
    assert sum(int(saved) for saved, _ in outputs) >= 25
    for seed in range(25):
        question = asked(seed=seed)
        assert store.load(store.find(question)).gram.tobytes() == result(question, seed=seed).gram.tobytes()
    assert [p for p in tmp_path.rglob("*") if p.suffix != ".npz" and p.name != "coherence"] == []
