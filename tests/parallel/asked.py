"""Questions that are soon answered, a probe whose workers are killed, and what is the same in two stores."""

import json
import zipfile
from pathlib import Path

import pytest

from gradprobe.parallel.driver import Asked
from gradprobe.probes.opened import OpenTasks, answered
from gradprobe.store.results import Store
from gradprobe.training.workers import one_thread

SCENES = {
    "layer": 0, "loss": "ce", "dtype": "float32", "scorer": "mlp:width=8", "k": 20, "backbone": "scenes",
    "weights": "sha256:ec291f87e24113c1", "data": "scenes", "seed": 1,
}  # fmt: skip
COHERENCE = SCENES | {"probe": "coherence", "batches": 3, "batch_size": 4, "draws": 2, "steps": 0}
FIDELITY = SCENES | {
    "probe": "fidelity", "images": 4, "draws": 32, "noise_draws": 3, "scores": "scorer", "sigmas": "1", "held_out": 4,
    "ladder": "0.01",
}  # fmt: skip
RETENTION = SCENES | {
    "probe": "retention", "images": 16, "steps": 2, "batch_size": 4, "learning_rate": 0.001, "weight_decay": 0.01,
    "tau_start": 2.0, "tau_end": 0.1,
}  # fmt: skip
GUMBEL, VPNOISE, SCALE = "gumbel-ste+gather", "lapsum+vpnoise", "lapsum+scale"
ALL = [Asked(q | {"op": op}) for q in (COHERENCE, FIDELITY, RETENTION) for op in (GUMBEL, VPNOISE)]

# A probe that kills the process it runs in, ``deaths`` times, each time after a piece of work that it leaves behind.
MORTAL = """
import os, signal, time
from dataclasses import dataclass
from pathlib import Path
import numpy as np
from gradprobe.probes.contract import Probe, question_of
from gradprobe.probes.environment import environment
from gradprobe.settings import setting

@dataclass(frozen=True, kw_only=True)
class Settings:
    deaths: int = setting(0, "Times that its worker is killed.")
    seconds: float = setting(0.0, "Seconds that it takes.")
    seed: int = setting(0, "Seed.")

@dataclass(frozen=True)
class Result:
    question: dict
    environment: dict
    numbers: np.ndarray
    probe = "mortal"

def measure(subject, settings, resources):
    resources.report(f"{subject.name}: pieces", 0, 2)
    pieces = Path(resources.folder)
    died = len(list(pieces.glob("death-*")))
    if died < settings.deaths:
        (pieces / f"death-{died}").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    end = time.monotonic() + settings.seconds
    while time.monotonic() < end:
        time.sleep(0.05)
        resources.report(f"{subject.name}: pieces", 1, 2)
    numbers = np.arange(3.0) + settings.seed
    return Result(question_of(PROBE, subject, settings), environment(0.0, ()) | {"deaths": died}, numbers)

PROBE = Probe(name="mortal", about="Dies.", settings=Settings, measure=measure, result=Result, view=None)
"""


def mortal(deaths=0, seconds=0.0, seed=0):
    """A question of the probe above, which has to be named first: see the fixture `named`."""
    from gradprobe.operators import registry
    from gradprobe.probes import probe_of

    code = registry.code_of(probe_of("mortal").measure)
    own = {"probe": "mortal", "op": VPNOISE, "deaths": deaths, "seconds": seconds, "seed": seed, "probe_code": code}
    return Asked(SCENES | own)


@pytest.fixture
def named(tmp_path, monkeypatch):
    """Name the probe of a Python file, as a user who works in the folder of that file."""
    from gradprobe import probes

    (tmp_path / "mine.py").write_text(MORTAL)
    monkeypatch.chdir(tmp_path)
    yield probes.probe_of("mine.py:PROBE")
    for table in (probes._named, probes._files):
        table.pop("mortal", None)


def serially(asked, root):
    """Answer questions one after another in this process, with torch on one thread as in a worker."""
    tasks = OpenTasks()
    with one_thread():
        for each in asked:
            answered(each.question, each.where, [Store(root)], tasks)
    return root


def contents(root):
    """All that answers hold but their circumstances, by file and member."""
    found = {}
    for path in sorted(Path(root).rglob("*.npz")):
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        run = json.loads(members.pop("run.json"))
        for name in ("environment", "record"):
            run.pop(name, None)
        found[str(path.relative_to(root))] = members | {"run.json": run}
    return found


def leftovers(root):
    """Hidden and unfinished files in a store."""
    return [str(p.relative_to(root)) for p in Path(root).rglob("*") if p.name.startswith(".") or p.suffix == ".partial"]
