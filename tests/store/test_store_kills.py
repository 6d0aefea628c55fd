"""Killed at any point, a store keeps the older or the newer answer, whole; what kills leave is swept."""

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from stored import asked, result
from test_results import NO_TORCH, names_in, same

from gradprobe.errors import GradprobeError
from gradprobe.files import atomic_write
from gradprobe.store import leftovers
from gradprobe.store.locks import claimed
from gradprobe.store.record import key_of
from gradprobe.store.results import Store

KEY = key_of(asked())
NAME = f"coherence/{KEY}.npz"
# Run a piece of work in one child after another, the n-th of which is killed before its n-th step on the disk.
KILLER = """
import os, shutil
from pathlib import Path
from stored import asked, make_older, result
from gradprobe.store.results import Store

STEPS = ("open", "os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.listdir", "os.scandir", "os.utime", "os.chmod")

def killed(work, n, root):
    "Whether a child that does the work was killed at its n-th step."
    child = os.fork()
    if child == 0:
        count, sync = 0, os.fsync

        def step(event="sync", arguments=()):
            nonlocal count
            if event in STEPS and any(root in str(a) for a in arguments) or event == "sync":
                count += 1
                if count == n:
                    os._exit(9)

        os.fsync = lambda descriptor: (step(), sync(descriptor))
        sys.addaudithook(step)
        work()
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 9), status
    return status == 9
"""
SAVES = """
n = killed_at = 0
while True:
    n += 1
    root = Path(sys.argv[1]) / f"{n}"
    if sys.argv[2] != "first":
        path = Store(root).save(result(seed=1))
    if sys.argv[2] == "older":
        make_older(path)
    keep = Path(sys.argv[1]) / "keep"
    if not killed(lambda: Store(root).save(result(seed=2), keep), n, str(root)):
        break
print(n - 1)
"""
COMPACTS = """
n = 0
while True:
    n += 1
    root = Path(sys.argv[1]) / f"{n}"
    path = Store(root).save(result(seed=1))
    if not killed(lambda: Store(root).compact(path), n, str(root)):
        break
print(n - 1)
"""


def run_python(code, *arguments):
    command = [sys.executable, "-c", NO_TORCH + code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def seed_of(loaded):
    """Which of the two answers it is, byte for byte."""
    for seed in (1, 2):
        if loaded.gram.tobytes() == result(seed=seed).gram.tobytes():
            same(loaded, result(seed=seed))
            return seed
    raise AssertionError("neither the older nor the newer answer")


@pytest.mark.parametrize("kind", ["first", "again", "older"])
def test_a_kill_at_any_step_of_save_keeps_the_older_or_the_newer_answer(tmp_path, kind, monkeypatch):
    (tmp_path / "keep").mkdir()
    (tmp_path / "keep" / "scorer.json").write_text("{}")
    points = int(run_python(KILLER + SAVES, tmp_path, kind))
    assert points >= 6
    seen = []
    for n in range(1, points + 1):
        store = Store(tmp_path / f"{n}")
        path = store.find(asked())
        if kind == "first" and path is None:
            assert store.entries() == ()
        else:
            seen.append(seed_of(store.load(path)))
            assert [entry.problem for entry in store.entries()] == [""]
        with monkeypatch.context() as patch:
            patch.setattr(leftovers.time, "time", lambda: time.monotonic() + 10**10)  # long after
            store.save(result(seed=2))
        assert seed_of(store.load(KEY)) == 2
        assert names_in(tmp_path / f"{n}") == [NAME] and len(list((tmp_path / f"{n}").iterdir())) == 1
    assert seen == sorted(seen) and seen[-1] == 2 and (kind == "first" or seen[0] == 1)


def test_a_kill_at_any_step_of_compact_keeps_the_answer_and_leaves_nothing_for_long(tmp_path, monkeypatch):
    points = int(run_python(KILLER + COMPACTS, tmp_path))
    assert points >= 6
    for n in range(1, points + 1):
        store = Store(tmp_path / f"{n}")
        assert seed_of(store.load(KEY)) == 1 and [entry.problem for entry in store.entries()] == [""]
        with monkeypatch.context() as patch:
            patch.setattr(leftovers.time, "time", lambda: time.monotonic() + 10**10)  # long after
            store.save(result(seed=2))
        assert names_in(tmp_path / f"{n}") == [NAME] and len(list((tmp_path / f"{n}").iterdir())) == 1


def test_an_answer_that_cannot_be_put_in_place_leaves_the_older_one(tmp_path, monkeypatch):
    store = Store(tmp_path)
    store.save(result(seed=1))

    def full(path, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(GradprobeError, match="No space left"):
        patch.setattr(Path, "replace", full)
        store.save(result(seed=2))
    assert names_in(tmp_path) == [NAME]
    assert seed_of(store.load(KEY)) == 1


def test_an_answer_replaced_while_it_is_read_is_the_one_before(tmp_path, monkeypatch):
    import gradprobe.store.archive as module

    store, read = Store(tmp_path), module.read_members
    store.save(result(seed=1))

    def late(*arguments):
        monkeypatch.setattr(module, "read_members", read)
        Store(tmp_path).save(result(seed=2))
        return read(*arguments)

    monkeypatch.setattr(module, "read_members", late)
    assert seed_of(store.load(KEY)) == 1
    assert seed_of(store.load(KEY)) == 2


# --- leftovers ---


def aged(path, days):
    for each in (*path.rglob("*"), path):
        os.utime(each, (time.time() - days * 86_400,) * 2)


def test_leftovers_are_swept_by_age(tmp_path):
    store = Store(tmp_path)
    one, other = store.save(result()), store.save(result(asked(k=20)))
    made = {
        f"coherence/.{KEY}-00000000": 2, f"coherence/.{KEY}-11111111": 0.5, f".{KEY}-33333333": 2,
        f"coherence/{'0' * 12}.partial": 31, f"retention/{'1' * 12}.partial": 29, f"coherence/{other.stem}.partial": 0,
        f"coherence-{'0' * 12}.partial": 31, f"retention-{'1' * 12}.partial": 29, ".hidden": 400, "thesis": 400,
        f"compare-{'2' * 12}.json": 400, f"compare-{'2' * 12}.json.new": 2, ".git-0123": 400,
    }  # fmt: skip
    gone = {
        f"coherence/.{KEY}-00000000", f".{KEY}-33333333", f"coherence/{'0' * 12}.partial",
        f"coherence/{other.stem}.partial", f"coherence-{'0' * 12}.partial", f"compare-{'2' * 12}.json.new",
    }  # fmt: skip
    for name, days in made.items():
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").write_text("")
        aged(tmp_path / name, days)
    new = store.save(result(asked(k=21)))
    left = {f"{name}/file" for name in made.keys() - gone}
    assert names_in(tmp_path) == sorted(left | {f"coherence/{path.name}" for path in (one, other, new)})


def test_work_in_a_process_s_hands_is_not_swept(tmp_path):
    store = Store(tmp_path)
    with store.working(asked()) as partial:
        (partial / "piece").write_text("hours of work")
        aged(partial, 31)
        store.save(result(asked(k=20)))
        store.save(result())
        assert (partial / "piece").exists()
    store.save(result(asked(k=20)))
    assert not partial.exists()  # its answer is stored


# --- the lock on a question, and what --force resumes ---

HOLDER = """
from stored import asked
from gradprobe.store.results import Store

with Store(sys.argv[1]).working(asked()) as partial:
    (partial / "piece").write_text("half")
    print("at work", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    command = [sys.executable, "-c", NO_TORCH + HOLDER, str(tmp_path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "at work\n"
    yield process
    process.kill()
    process.communicate()


def test_a_question_is_in_one_process_s_hands(tmp_path, holder):
    with (
        pytest.raises(GradprobeError, match=rf"{KEY}.*process {holder.pid} on .* since .*kill {holder.pid}") as error,
        Store(tmp_path).working(asked()),
    ):
        pass
    assert len(str(error.value).splitlines()) == 1
    with Store(tmp_path).working(asked(k=20)):
        pass  # another question
    holder.communicate("")
    with Store(tmp_path).working(asked()) as partial:
        assert (partial / "piece").read_text() == "half"


def test_a_killed_process_holds_nothing(tmp_path, holder):
    holder.kill()
    holder.wait()
    with Store(tmp_path).working(asked()) as partial:
        assert (partial / "piece").read_text() == "half"
        assert json.loads((partial / "lock").read_text())["pid"] == os.getpid()
    assert not (partial / "lock").exists() and partial.exists()


def test_work_that_left_nothing_leaves_no_folder(tmp_path):
    with Store(tmp_path / "runs").working(asked()) as partial:
        assert partial.is_dir()
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_folder_that_was_there_stays(tmp_path):
    with claimed(tmp_path, "some work"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_forced_work_begins_anew_and_goes_on_from_its_own_pieces(tmp_path):
    store = Store(tmp_path)
    with store.working(asked()) as partial:
        (partial / "checkpoint").write_text("of the earlier run")
        (partial / "keep").mkdir()
    with store.working(asked(), force=True):
        assert not (partial / "checkpoint").exists() and not (partial / "keep").exists()
        (partial / "checkpoint").write_text("forced")
    with store.working(asked(), force=True):
        assert (partial / "checkpoint").read_text() == "forced"
    (partial / "forced").unlink()  # as before the forced answer is saved: the pieces are of a finished one
    with store.working(asked(), force=True):
        assert not (partial / "checkpoint").exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT])
def test_a_folder_that_cannot_be_written_is_told_before_the_work(tmp_path, monkeypatch, number):
    def refused(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refused)
    with (
        pytest.raises(GradprobeError, match=f"cannot write to .*{os.strerror(number)}.*--results DIR"),
        Store(tmp_path / "runs").working(asked()),
    ):
        raise AssertionError("worked without a place for the answer")
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_link_to_nowhere_is_told(tmp_path):
    (tmp_path / "runs").symlink_to("nowhere")
    with pytest.raises(GradprobeError, match="cannot write to"), Store(tmp_path / "runs").working(asked()):
        pass
    with pytest.raises(GradprobeError, match="cannot write to"):
        Store(tmp_path / "runs").save(result())


def test_a_disk_that_fills_up_during_the_work_is_told_and_other_errors_are_not(tmp_path):
    with pytest.raises(GradprobeError, match="No space left"), Store(tmp_path).working(asked()):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(FileNotFoundError), Store(tmp_path).working(asked()):
        (tmp_path / "an image").read_bytes()


def test_a_whole_file_leaves_the_older_one_and_no_rest_on_a_full_disk(tmp_path, monkeypatch):
    def refused(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "checkpoint"
    atomic_write(path, b"older")
    monkeypatch.setattr(os, "fsync", refused)
    with pytest.raises(OSError, match="No space left"):
        atomic_write(path, b"newer")
    assert path.read_bytes() == b"older" and [p.name for p in tmp_path.iterdir()] == ["checkpoint"]
