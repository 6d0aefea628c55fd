"""The part that runs in a worker: one question at a time, with models that stay open for the questions that follow."""

import os
import signal
import socket
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from gradprobe.errors import GradprobeError, Notice, out_of_memory
from gradprobe.files import FULL
from gradprobe.operators import user_files
from gradprobe.parallel.calls import version
from gradprobe.parallel.heartbeats import Beat, killed, sees
from gradprobe.store.locks import LOCK, Busy, reaches
from gradprobe.store.results import Store, Unwritable

KILLS = 3  # of its workers, after which a question is given up
_one_at_a_time = threading.Lock()  # torch's settings are those of a whole process
_run: dict[str, Any] = {}  # what is open for the run of the last question


def answer(call: Mapping[str, Any]) -> dict[str, Any]:
    """Answer a question in this process, and say how that went.

    Args:
        call: as `gradprobe.parallel.calls.call_of` makes it.

    Returns:
        ``key``, ``kind`` (``answered``, ``failed``, ``busy``, ``unwritable``, ``killed`` or ``refused``), ``reason``
        and ``notices``.

    Raises:
        Exception: an error that would end a program that asks one question after another, too.
    """
    with _one_at_a_time:
        if refusal := _refusal(call):
            return _outcome(call, "refused", refusal)
        if (times := killed(Path(call["run"]), call["key"])) >= KILLS:
            return _outcome(call, "killed", given_up(times))
        notices: list[str] = []
        with _in_folder(call["folder"]), _noted(notices):
            outcome = _answered(call)
        return outcome | {"notices": notices}


def given_up(times: int) -> str:
    """Return the reason for which a question stays without an answer when its workers are killed."""
    return f"its worker was killed {times} times, perhaps for memory: --jobs fewer"


def _answered(call: Mapping[str, Any]) -> dict[str, Any]:
    """Answer a question of a call that is not refused."""
    from gradprobe.probes.contract import Resources
    from gradprobe.probes.opened import answered
    from gradprobe.training.workers import one_thread

    question, label = call["question"], call["label"]
    with Beat(Path(call["run"]), call["key"], label, call["driver"]) as beat:
        op = str(question.get("op"))

        def progress(description: str, done: int, total: int) -> None:
            beat.tell(description.removeprefix(op).lstrip(":, "), done, total)  # the label names it

        try:
            tasks = _opened(call)
            threads = call["threads"] or _threads()
            apart = not reaches(Path(call["run"]) / LOCK)
            stores = [Store(root, apart) for root in call["stores"]]
            resources = Resources(workers=threads, progress=progress)
            with one_thread():  # a probe that does not share its work out rounds by the number of torch's own threads
                answered(question, call["where"], stores, tasks, resources, call["force"])
        except Busy as error:
            return _outcome(call, "busy", str(error))
        except Unwritable as error:
            return _outcome(call, "unwritable", f"{socket.gethostname()}: {error}")
        except GradprobeError as error:
            return _outcome(call, "failed", str(error))
        except Exception as error:
            if isinstance(error, OSError) and error.errno in FULL:
                return _outcome(call, "unwritable", f"{socket.gethostname()}: {error.strerror}; make room there")
            if not out_of_memory(error):
                raise
            return _outcome(call, "failed", f"out of memory on {socket.gethostname()}: --jobs fewer")
    return _outcome(call, "answered")


def _outcome(call: Mapping[str, Any], kind: str, reason: str = "") -> dict[str, Any]:
    return {"key": call["key"], "kind": kind, "reason": reason, "notices": []}


def _refusal(call: Mapping[str, Any]) -> str:
    """Return the reason for which this process answers nothing of the driver's; empty if there is none."""
    host = socket.gethostname()
    if call["version"] != version():
        return (
            f"the worker on {host} has gradprobe {version()}, this is {call['version']}; install the same there: "
            f'pip install "gradprobe[cluster]=={call["version"]}"'
        )
    if not sees(Path(call["run"])):
        folder = Path(call["run"]).parents[1]
        return f"the worker on {host} cannot see {folder}; give a folder that all machines share with --results"
    return ""


def _opened(call: Mapping[str, Any]) -> Any:
    """Return the open tasks of this run; a process that serves several runs looks at files anew for each.

    Raises:
        GradprobeError: a probe of a Python file cannot be loaded.
    """
    from gradprobe.probes import probe_of
    from gradprobe.probes.opened import OpenTasks

    if call["driver"]:
        with suppress(ValueError):  # not in the main thread
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the driver, which stops this process
    if _run.get("run") != call["run"]:
        again = bool(_run) and not call["driver"]
        _run.clear()
        if again:
            user_files.forget()  # as a worker of a cluster may be older than the file
        user_files.trust(call["trust"])
        for name in call["probes"]:
            probe_of(name)
        _run.update(run=call["run"], tasks=OpenTasks())
    return _run["tasks"]


def _threads() -> int:
    """Return the number of threads that this worker was given: those of a Dask worker, else one."""
    import sys

    if "distributed" in sys.modules:
        from distributed import get_worker

        with suppress(ValueError):  # no worker of Dask
            return int(get_worker().state.nthreads)
    return 1


@contextmanager
def _in_folder(folder: str) -> Iterator[None]:
    """Work in the driver's folder, in which relative names of files mean what the user meant."""
    before = Path.cwd()
    with suppress(OSError):  # it is not there on this machine: such files will be missed by name
        os.chdir(folder)
    try:
        yield
    finally:
        with suppress(OSError):
            os.chdir(before)


@contextmanager
def _noted(notices: list[str]) -> Iterator[None]:
    """Collect notices, which the driver tells; other warnings are shown here."""
    with warnings.catch_warnings():
        usual = warnings.showwarning
        warnings.simplefilter("always", Notice)

        def note(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
            if issubclass(category, Notice):
                notices.append(str(message))
            else:
                usual(message, category, *place, **more)

        warnings.showwarning = note
        yield
