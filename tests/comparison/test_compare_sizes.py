"""The size of a comparison that a budget buys, and its note beside the answers."""

from itertools import pairwise

import pytest
from compared_sizes import LEAST, shrink
from compared_sizes import clock as clock
from compared_sizes import place as place
from compared_sizes import unasked as unasked

from gradprobe.comparison import run as compare
from gradprobe.comparison.sizes import SIZES, Times, estimate, probe_seconds
from gradprobe.errors import GradprobeError, UsageError

SCALE = "lapsum+scale"


def bought(budget, **changes):
    """The size alone."""
    given = {"baselines": [], "budget": budget, "workers": 1} | changes
    return compare.compare(["scale"], given.pop("k", 58), **given).settings["size"]


@pytest.mark.parametrize("times", [Times(0.01, 0.004, 0.001), Times(1.0, 0.0, 0.0), Times(0.02, 0.02, 0.02)])
def test_a_larger_size_takes_longer_and_more_threads_less(times):
    told = [estimate(size, {"one": times}, 2) for size in SIZES.values()]
    assert all(a < b for a, b in pairwise(told))
    assert estimate(SIZES["small"], {"one": times}, 4) < told[1]
    assert estimate(SIZES["small"], {"one": times, "other": times}, 2) > told[1]


def test_more_time_buys_a_larger_size_that_fits(place, monkeypatch, clock, unasked):
    budgets = (5.0, 10.0, 20.0, 60.0, 1e5)
    found = [bought(budget) for budget in budgets]
    order = list(SIZES)
    assert [order.index(name) for name in found] == sorted(order.index(name) for name in found)
    assert (found[0], found[-1]) == ("tiny", "full")
    assert len(set(found)) > 2
    times = {SCALE: Times(gradient=0.01, forward=0.004, deployed=0.001)}
    for budget, name in zip(budgets, found, strict=True):
        assert name == "tiny" or probe_seconds("coherence", SIZES[name], times, 1) <= budget
        larger = order[order.index(name) + 1 :]
        assert all(probe_seconds("coherence", SIZES[other], times, 1) > 0.89 * budget for other in larger)


def test_the_size_is_kept_for_the_same_question_only(place, monkeypatch, clock, unasked):
    assert bought(1e5) == "full"
    monkeypatch.setattr(compare, "timed", lambda *asked: clock.append("slow") or Times(100.0, 100.0, 100.0))
    clock.clear()
    assert bought(1e5) == "full"
    assert clock == []
    others = {"seed": 2}, {"baselines": ["vpnoise"]}, {"loss": "kl"}, {"results": "elsewhere"}, {"select": ["divprune"]}
    for changes in ({"k": 57}, *others):
        clock.clear()
        assert bought(1e5, **changes) != "full", changes
        assert clock, changes
    clock.clear()
    assert bought(1e5, size="medium") == "medium"
    assert clock == []
    for note in (place / "runs").glob("compare-*.json"):
        note.write_text("{")
    assert bought(1e5) != "full"  # a note that cannot be read is no note


def test_changed_code_is_timed_again(place, monkeypatch, clock, unasked):
    for code in "abb":
        monkeypatch.setattr(compare.registry, "code_of", lambda op, code=code: code)
        bought(1e3)
    assert len(clock) == 2


def test_operators_that_cannot_be_timed_leave_the_smallest_size(place, monkeypatch, unasked):
    shrink(monkeypatch)
    monkeypatch.setattr(compare, "SIZES", {"tiny": LEAST, "full": SIZES["full"]})
    assert compare.compare(["mine.py:Raises"], 58, baselines=[], budget=1e9, workers=1).settings["size"] == "tiny"


def test_too_little_time_for_anything_is_one_line_and_no_note(place, monkeypatch, clock, unasked):
    with pytest.raises(
        UsageError, match=r"--budget 1s is too short: the smallest .* takes about .*; give a longer one"
    ):
        bought(1.0)
    assert not list(place.rglob("compare-*.json"))
    assert bought(1.0, size="tiny") == "tiny"


def test_a_folder_that_cannot_be_written_is_one_line(place, clock):
    (place / "taken").write_text("a file")
    with pytest.raises(GradprobeError, match="--results") as caught:
        compare.compare(["scale"], 58, baselines=[], results="taken/runs", workers=1)
    assert "\n" not in str(caught.value)


def test_seeds_take_longer_and_their_size_is_remembered_apart(place, monkeypatch, clock, unasked):
    times = {"one": Times(0.01, 0.004, 0.001)}
    size = SIZES["full"]
    told = [estimate(size, times, 2, seeds) for seeds in (1, 3, 5)]
    assert told[0] < told[1] < told[2]
    assert told[0] < estimate(size, times, 2) < told[2]  # one scorer and 5 trainings
    assert [bought(1e2), bought(1e2, seeds=range(1, 21))] == ["full", "tiny"]
    clock.clear()
    assert bought(1e2, seeds=range(1, 21)) and clock == []
    assert bought(1e2, seeds=(1, 2)) and clock


def test_time_that_is_reserved_buys_nothing(place, clock, unasked):
    assert [bought(60.0), bought(60.0, reserve=50.0, results="elsewhere")] == ["full", "small"]
    for reserve in (-1.0, 60.0, float("nan"), "1s"):
        with pytest.raises(UsageError, match=r"reserve=.* is not possible; give seconds, less than the budget"):
            bought(60.0, reserve=reserve)
