"""Successive halving: the best go on, equals keep their order, and one that fails stops nothing."""

import pytest
from retentions import retained

from gradprobe.advice.candidates import OWN, SHARP, USUAL, Candidate, candidates, words
from gradprobe.advice.halving import halved
from gradprobe.advice.schedule import Rung
from gradprobe.errors import GradprobeError, UsageError
from gradprobe.operators import registry
from gradprobe.operators.temperature import temperature

RUNGS = (Rung(4, 5, 1, 40), Rung(2, 10, 2, 40))


def fields(*names):
    return [Candidate(registry.build(name), USUAL, several=False) for name in names]


FOUR = fields("lapsum+scale", "gumbel-ste+gather", "probit+vpnoise", "lapsum+vpnoise")


def training(right, calls=None):
    """Results of which so many of 36 images stay right, by operator and rung; an error where it says None."""

    def train(rung, some):
        if calls is not None:
            calls.append((rung, [c.op for c in some]))
        made = []
        for c in some:
            number = right[c.op] if isinstance(right[c.op], list) else [right[c.op]] * len(RUNGS)
            count = number[RUNGS.index(rung)]
            error = GradprobeError(f"{c.op} is broken")
            made.append([error if count is None else retained(count, op=c.op, seed=s) for s in range(rung.seeds)])
        return made

    return train


def test_the_better_half_goes_on_and_the_best_comes_first():
    right = {"lapsum+scale": 10, "gumbel-ste+gather": 30, "probit+vpnoise": [20, 34], "lapsum+vpnoise": 5}
    calls = []
    outcome = halved(FOUR, RUNGS, training(right, calls))
    assert [(rung, sorted(ops)) for rung, ops in calls] == [
        (RUNGS[0], sorted(right)),
        (RUNGS[1], ["gumbel-ste+gather", "probit+vpnoise"]),
    ]
    assert list(outcome[0].results) == ["gumbel-ste+gather", "probit+vpnoise", "lapsum+scale", "lapsum+vpnoise"]
    assert list(outcome[1].results) == ["probit+vpnoise", "gumbel-ste+gather"]
    assert outcome[1].retention("probit+vpnoise") == pytest.approx(34 / 36)


def test_equals_keep_their_order():
    outcome = halved(FOUR, RUNGS, training(dict.fromkeys((c.op for c in FOUR), 20)))
    assert [list(each.results) for each in outcome] == [[c.op for c in FOUR], [c.op for c in FOUR[:2]]]


def test_one_that_fails_is_named_and_another_takes_its_place():
    right = {"lapsum+scale": None, "gumbel-ste+gather": 30, "probit+vpnoise": [20, None], "lapsum+vpnoise": 5}
    first, last = halved(FOUR, RUNGS, training(right))
    assert first.failed == {"lapsum+scale": "lapsum+scale is broken"}
    assert list(last.results) == ["gumbel-ste+gather"] and list(last.failed) == ["probit+vpnoise"]
    with pytest.raises(GradprobeError, match="no candidate could be trained for 5 steps; the first: lapsum"):
        halved(FOUR, RUNGS, training(dict.fromkeys(right)))


# --- candidates ---


def test_every_registered_operator_is_a_candidate_and_those_with_a_temperature_twice():
    every = candidates()
    assert list(dict.fromkeys(c.op for c in every)) == registry.registered()
    assert len({c.label for c in every}) == len(every)
    for c in every:
        taus = [other.tau for other in every if other.op == c.op]
        assert taus == ([USUAL, SHARP] if temperature(c.operator) is not None else [USUAL])
        if temperature(c.operator) is not None:
            assert temperature(c.beginning) == c.tau[0]
        else:
            assert c.beginning is c.operator


def test_a_tau_in_a_name_is_kept_and_ones_own_come_first():
    first, second, *_ = candidates(["vpnoise:tau=0.3", "gumbel"])
    assert (first.op, first.tau, words(first.tau)) == ("lapsum:tau=0.3+vpnoise", OWN, "own")
    assert first.beginning is first.operator
    assert second.op == "gumbel-ste+gather"
    assert [c.op for c in candidates(["gumbel"])].count("gumbel-ste+gather") == 1


def test_two_operators_of_one_name_are_refused():
    class Same:
        def __call__(self, patches, scores, k, noise):
            return None  # its name is refused before anybody calls it

    with pytest.raises(UsageError, match="two operators are called"):
        candidates([Same(), Same()])
