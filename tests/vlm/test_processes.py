"""Signals, which end a command as Ctrl-C does, locks between processes, and full disks."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gradprobe.cli.stopping import Stopped, stoppable
from gradprobe.store.results import Store

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
RETENTION = (
    "retention", "--op", "vpnoise", "--k", "20", "--images", "20", "--batch-size", "2", "--seeds", "1",
    "--rankings", "none", "--baseline", "none",
)  # fmt: skip
LINES = (
    "landscape", "--op", "vpnoise", "--baseline", "none", "--k", "20", "--grid", "5", "--images", "4",
    "--steps", "3", "--batch-size", "2",
)  # fmt: skip


@pytest.fixture
def command(tmp_path):
    """Start a gradprobe command; what is still at work when the test ends is killed."""
    started = []

    def start(*arguments, **options):
        process = subprocess.Popen(
            [sys.executable, "-m", "gradprobe", *map(str, arguments)], cwd=tmp_path, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, **options,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def until(there, process):
    """Wait for a file that the process makes while it works."""
    while not there():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def at_work(folder):
    return lambda: list(Path(folder).glob("*/*.partial/checkpoint.lock"))


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_ends_a_command_as_ctrl_c_does(tmp_path, command, name):
    number = getattr(signal, name)  # its default, also where the tests themselves run under nohup
    process = command(*RETENTION, "--steps", "100000", preexec_fn=lambda: signal.signal(number, signal.SIG_DFL))
    until(at_work(tmp_path / "runs"), process)
    process.send_signal(number)
    _, err = process.communicate()
    assert process.returncode == 128 + number
    assert "Traceback" not in err
    assert err.splitlines()[-1] == "gradprobe: stopped; what was stored stays, and the same command goes on from it"
    assert Store(tmp_path / "runs").entries() == ()
    assert not list(tmp_path.glob("runs/*/*.partial/*lock"))


def test_nohup_is_heeded(tmp_path, command):
    process = command(*RETENTION, "--steps", "1", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    until(at_work(tmp_path / "runs"), process)
    process.send_signal(signal.SIGHUP)
    out, err = process.communicate()
    assert process.returncode == 0, out + err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_handlers_are_put_back_and_the_second_signal_is_the_system_s(number, request):
    before = signal.signal(number, signal.SIG_DFL)  # another where the tests run under nohup
    request.addfinalizer(lambda: signal.signal(number, before))
    with pytest.raises(Stopped) as stopped, stoppable() as received:
        signal.raise_signal(number)
    assert stopped.value.code == 128 + number and received == [stopped.value]
    assert signal.getsignal(number) == signal.SIG_DFL
    with pytest.raises(Stopped), stoppable():
        try:
            signal.raise_signal(number)
        finally:
            assert signal.getsignal(number) == signal.SIG_DFL


def test_two_trainings_of_one_question_do_not_share_a_checkpoint(tmp_path, command):
    first = command(*RETENTION, "--steps", "100000")
    until(at_work(tmp_path / "runs"), first)
    second = command(*RETENTION, "--steps", "100000")
    _, err = second.communicate()
    assert second.returncode == 1
    assert len(err.splitlines()) == 1 and f"process {first.pid} on" in err and f"kill {first.pid}" in err
    first.kill()
    first.communicate()
    third = command(*RETENTION, "--steps", "100000")  # who was killed holds nothing
    until(lambda: f'"pid": {third.pid}' in "".join(p.read_text() for p in at_work(tmp_path / "runs")()), third)


def test_two_scene_trainings_do_not_share_a_folder(tmp_path, command):
    first = command("train-scenes", "--out", "out")
    until(lambda: (tmp_path / "out" / "lock").exists(), first)
    second = command("train-scenes", "--out", "out")
    _, err = second.communicate()
    assert second.returncode == 1 and len(err.splitlines()) == 1 and f"process {first.pid}" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ("coherence", "--op", "vpnoise", "--k", "20", "--batches", "3", "--batch-size", "2"),
        ("compare", "--op", "vpnoise", "--k", "20", "--page", "none"),
        ("train-scenes", "--out", "runs/out"),
        LINES,
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_folder_that_cannot_be_written_is_told_before_the_work(tmp_path, command, arguments):
    (tmp_path / "runs").write_text("a file, where a folder is meant to be")
    started = command(*arguments)
    _, err = started.communicate()
    assert started.returncode == 1
    (line,) = err.splitlines()
    reason = "File exists" if arguments[0] == "compare" else "Not a directory"
    assert line.startswith("gradprobe: cannot write to runs")
    assert reason in line


@pytest.mark.parametrize("size", [3000, 60_000])
def test_a_disk_that_is_full_is_one_line_and_the_same_command_goes_on(tmp_path, command, size):
    """A limit on the size of files stands for the end of a disk; the scorer's checkpoint has more bytes than that."""
    full = command(*LINES, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)))
    out, err = full.communicate()
    assert full.returncode == 1, out
    (line,) = [line for line in err.splitlines() if line.startswith("gradprobe:")]
    assert "Traceback" not in err and "File too large" in line
    again = command(*LINES)
    out, err = again.communicate()
    assert again.returncode == 0, err
    assert [entry.problem for entry in Store(tmp_path / "runs").entries()] == [""]
