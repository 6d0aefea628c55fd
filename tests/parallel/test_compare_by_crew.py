"""A comparison whose questions other processes answer."""

import pytest
from asked import contents
from compared_sizes import shrink

import gradprobe as gp
from gradprobe.comparison import run as comparison
from gradprobe.errors import Notice, UsageError
from gradprobe.training.workers import one_thread


@pytest.fixture(autouse=True)
def small(monkeypatch):
    shrink(monkeypatch)


def asked(root, **words):
    own = {"baselines": ["gumbel"], "size": "tiny", "scorer": "mlp:width=8", "results": root}
    return gp.compare("vpnoise", 20, **own | words)


def numbers(root):
    """All but the timings."""
    return {name: each for name, each in contents(root).items() if not name.startswith("cost/")}


def test_a_comparison_is_the_same_by_a_crew_and_forced_once(tmp_path, monkeypatch):
    with one_thread():
        ours = asked(tmp_path / "serial")
    theirs = asked(tmp_path / "crew", jobs=2)
    assert numbers(tmp_path / "crew") == numbers(tmp_path / "serial")
    assert theirs.missing == ours.missing == ()
    assert {probe: len(each) for probe, each in theirs.results.items()} == {
        probe: len(each) for probe, each in ours.results.items()
    }
    assert [r.question["op"] for r in theirs.results["fidelity"]] == [
        r.question["op"] for r in ours.results["fidelity"]
    ]

    before = {
        path: path.stat().st_mtime_ns for path in (tmp_path / "crew").rglob("*.npz") if path.parent.name != "reference"
    }
    by_crew, forced = comparison.answer_all, []

    def answer_all(*arguments):
        by_crew(*arguments)
        forced.extend(path for path, time in before.items() if path.stat().st_mtime_ns > time)
        before.update({path: path.stat().st_mtime_ns for path in before})
        return {}

    monkeypatch.setattr(comparison, "answer_all", answer_all)
    asked(tmp_path / "crew", jobs=2, force=True)
    assert sorted(forced) == sorted(before)
    assert {path: path.stat().st_mtime_ns for path in before} == before  # and not again by the comparison


def test_an_open_task_is_known_to_its_process_only(tmp_path):
    task = gp.classification("scenes", scorer="mlp:width=8")
    with pytest.warns(Notice, match="no other process has the open task that was given"):
        answers = gp.compare("vpnoise", 20, baselines=[], size="tiny", task=task, results=tmp_path, jobs=2)
    assert answers.missing == ()


def test_a_crew_that_is_not_possible_is_refused_before_anything_is_opened(tmp_path, monkeypatch):
    monkeypatch.setattr(comparison, "_opened", None)
    for words in ({"jobs": 0}, {"cluster": "nowhere"}):
        with pytest.raises(UsageError, match="is not possible"):
            asked(tmp_path, **words)
