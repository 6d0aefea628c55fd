"""The smallest comparison, a folder to make it in, and a clock, for tests."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from gradprobe.comparison import run as compare
from gradprobe.comparison.sizes import Size, Times
from gradprobe.probes import probe_of
from gradprobe.probes.ask import Answer
from gradprobe.probes.cost import compared as cost
from gradprobe.probes.fidelity import compared as fidelity

OPERATORS = """\
from gradprobe import Selection

def Half(patches, scores, k, noise):
    weights = scores.sigmoid()
    return Selection(patches * weights[..., None], weights)

def Raises(patches, scores, k, noise):
    raise ValueError("I am broken")
"""
LEAST = Size(
    batches=3, batch_size=1, points=5, line_images=2, fidelity_images=3, draws=32, held_out=3, equivalence_images=4,
    steps=2, test_images=8, seeds=1, rounds=6,
)  # fmt: skip


def shrink(monkeypatch):
    monkeypatch.setattr(compare, "SIZES", {"tiny": LEAST})
    monkeypatch.setattr(compare, "GROUP", 2)
    monkeypatch.setattr(cost, "GROUP", 2)
    monkeypatch.setattr(fidelity, "SIGMAS", (1.0,))
    monkeypatch.setattr(fidelity, "LADDER", (1e-3,))


@pytest.fixture
def unasked(monkeypatch):
    """One question of coherence an operator, which takes no time and has no result."""
    probe = probe_of("coherence")

    def questions(plan, seeds=None):
        return [(probe, *each) for each in plan.each(probe.settings(seed=plan.seed))]

    monkeypatch.setattr(compare, "questions", questions)
    monkeypatch.setattr(compare, "ask", lambda *asked: Answer(SimpleNamespace(), Path("none"), computed=True))
    monkeypatch.setattr(compare.schedule, "clock", lambda: 0.0)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder of its own with a user's file in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(OPERATORS)
    return tmp_path


@pytest.fixture
def clock(monkeypatch):
    """Operators are not timed but said to take a hundredth of a second; gives the names asked for."""
    calls = []

    def timed(task, operator, k, seed, name, group):
        calls.append(name)
        return Times(gradient=0.01, forward=0.004, deployed=0.001)

    monkeypatch.setattr(compare, "timed", timed)
    return calls
