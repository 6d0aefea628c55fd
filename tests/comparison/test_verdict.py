"""The verdict: the words of the grid, and one sentence, from the same statistics as the numbers beside them."""

import json
from dataclasses import replace

import numpy as np
import pytest
from compared import MINE, OPS, REFERENCE, comparison
from landscapes import GUMBEL, VPNOISE
from retentions import retained

from gradprobe.comparison.comparison import Comparison, metrics, rows
from gradprobe.comparison.verdict import (
    DIRECTIONS,
    FEWEST_IMAGES,
    MARGIN,
    RATIO,
    floors_line,
    measures,
    report_json,
    standing,
    turned,
    verdict,
    verdict_of,
)

BY_NAME = {metric.name: metric for metric in metrics()}
LEFT_OUT = {name for name, metric in BY_NAME.items() if metric.better is None}
WORD = {"better": "better than", "worse": "worse than", "same": "the same as", "undecided": "undecided against"}


def cell(low, high, ratio=False, seeds=5):
    """A cell with this interval of the difference from the focus, decided as the probes decide."""
    equal, enough = (1 if ratio else 0), seeds is None or seeds >= 5
    decided = "higher" if low > equal else "lower" if high < equal else "undecided"
    ends = {"difference": (low + high) / 2, "difference_low": low, "difference_high": high}
    return {**ends, "seeds": seeds, "verdict": decided if enough else "undecided", "reason": None, "value": 0.5}


def table(cells, focus=MINE):
    """Rows of a focus and of others, each with cells by metric."""
    own = {"op": focus, "focus": True, "floor": False, "metrics": {}}
    return [own, *({"op": op, "focus": False, "floor": False, "metrics": found} for op, found in cells.items())]


def planted(seeds, better, images=120, noise=6, stream=0):
    """Two operators' retentions under so many seeds: one keeps more images by ``better`` on average."""
    random, ops = np.random.default_rng(stream), (MINE, GUMBEL)
    results = []
    for seed in range(1, seeds + 1):
        level = int(random.normal(70, noise))
        for op, more in zip(ops, (better, 0), strict=True):
            right = int(np.clip(level + more + random.normal(0, noise), 0, 100))
            results.append(graded(right, images, op, seed))
    return Comparison("planted", ops, MINE, {"retention": results}, {})


def graded(right, images, op, seed):
    result = retained(1, op=op, seed=seed)
    correct = np.zeros(images, bool)
    correct[np.random.default_rng(seed).permutation(images)[:right]] = True
    return replace(result, correct=correct, unpruned=np.ones(images, bool), auc=np.zeros(0))


# --- standings ---


@pytest.mark.parametrize("name", ["retention", "cost"])
def test_a_standing_is_what_the_interval_says(name):
    metric, ratio = BY_NAME[name], BY_NAME[name].ratio
    equal, far, near = (1, 1.5, 1 + 0.9 * (RATIO - 1)) if ratio else (0, 0.3, 0.9 * MARGIN)
    back = (lambda x: 1 / x) if ratio else (lambda x: -x)
    more = cell(near if ratio else near / 2, far, ratio)
    less = cell(back(far), back(near if ratio else near / 2), ratio)
    up, down = ("better", "worse") if metric.better == "higher" else ("worse", "better")
    assert (standing(metric, more), standing(metric, less)) == (up, down)
    assert standing(metric, cell(back(near), near, ratio)) == "same"
    assert standing(metric, cell(back(far), near, ratio)) == "undecided"
    for seeds in (1, 2, 4):
        assert standing(metric, cell(near, far, ratio, seeds)) == "undecided"
        assert standing(metric, cell(back(near), near, ratio, seeds)) == "undecided"
    assert standing(metric, {**more, "verdict": None}) is None
    assert standing(metric, cell(equal, equal, ratio)) == "same"


def test_a_metric_that_neither_way_is_better_has_no_standing():
    assert "equivalence" in LEFT_OUT
    for name in LEFT_OUT:
        assert standing(BY_NAME[name], cell(0.5, 0.6)) is None
    assert LEFT_OUT.isdisjoint(line.metric.name for line in measures(rows(comparison())))


def test_no_margin_is_small_where_the_size_of_a_metric_is_unknown():
    assert BY_NAME["descent"].figures and not BY_NAME["descent"].ratio
    assert standing(BY_NAME["descent"], cell(-1e-6, 1e-6)) == "undecided"
    assert standing(BY_NAME["fidelity"], cell(-1e-6, 1e-6)) == "same"


def test_standings_and_outcomes_turn_round_when_mine_and_a_baseline_are_swapped():
    seen = set()
    for one, two in ((MINE, GUMBEL), (VPNOISE, MINE)):
        ours, theirs = (comparison((one, two), focus=focus) for focus in (one, two))
        here = {line.metric.name: line.against[two] for line in measures(rows(ours))}
        there = {line.metric.name: line.against[one] for line in measures(rows(theirs))}
        assert here == {name: turned(word) for name, word in there.items()}
        assert verdict_of(ours).outcome == turned(verdict_of(theirs).outcome)
        seen |= {*here.values(), *there.values()}
    assert {"better", "worse"} <= seen


@pytest.mark.parametrize("better", [-30, 0, 30])
def test_planted_verdicts_turn_round_as_well(better):
    for stream in range(2):
        ours = planted(6, better, stream=stream)
        theirs = replace(ours, focus=GUMBEL)
        assert verdict_of(ours).outcome == turned(verdict_of(theirs).outcome)


# --- the verdict ---


@pytest.mark.parametrize("better", [-25, 25])
def test_more_seeds_never_decide_wrongly_on_planted_data(better):
    right, wrong = ("better", "worse") if better > 0 else ("worse", "better")
    for stream in range(2):
        found = [verdict_of(planted(seeds, better, stream=stream)).outcome for seeds in (1, 4, 5, 6, 9, 12)]
        assert wrong not in found
        assert found[:2] == ["undecided"] * 2
        assert found[-1] == right


def test_nothing_planted_is_hardly_ever_decided():
    found = [verdict_of(planted(6, 0, stream=stream)).outcome for stream in range(12)]
    assert sum(word in ("better", "worse") for word in found) <= 3  # of 12 at 95 %, more in 0.2 % of all cases


def test_one_seed_concludes_nothing_however_large_the_difference():
    for count in (1, 2, 4):
        found = verdict_of(planted(count, 60, noise=0))
        assert (found.outcome, found.seeds) == ("undecided", count)
        assert found.sentence.startswith("Do not conclude: retention rests on ")
        assert f"{count} seed{'s' if count > 1 else ''} (5 decide)" in found.sentence
    enough = verdict_of(planted(5, 60, noise=0))
    assert (enough.outcome, enough.images) == ("better", 120)
    assert "decided by 5 seeds of 120 test images" in enough.sentence


def test_few_images_conclude_nothing():
    few = verdict_of(planted(6, 60, images=FEWEST_IMAGES - 1, noise=0))
    assert few.outcome == "undecided" and few.sentence.startswith("Do not conclude: ")
    assert f"on {FEWEST_IMAGES - 1} test images ({FEWEST_IMAGES} at least)" in few.sentence
    assert verdict_of(planted(6, 60, images=FEWEST_IMAGES, noise=0)).outcome == "better"
    both = verdict_of(planted(1, 10, images=20, noise=0)).sentence
    assert "on 1 seed (5 decide) and on 20 test images" in both


def test_the_sentence_has_retention_first_then_fidelity_then_cost():
    up, down, same, wide = cell(0.1, 0.2), cell(-0.2, -0.1), cell(-0.01, 0.01), cell(-0.5, 0.5)
    dear = cell(1.5, 2.0, ratio=True, seeds=None)
    found = table({
        "a+zero": {"cost": dear, "fidelity": {**up, "seeds": None}, "retention": down},
        "b+zero": {"cost": dear, "fidelity": {**up, "seeds": None}, "retention": same},
        "c+zero": {"cost": dear, "fidelity": {**wide, "seeds": None}, "retention": up},
    })  # fmt: skip
    told = verdict(found, MINE, 512)
    assert told.outcome == "mixed"
    assert told.sentence == (
        f"{MINE} is better than a+zero, the same as b+zero and worse than c+zero by retention (decided by 5 seeds of "
        "512 test images); worse than a+zero and b+zero and undecided against c+zero by fidelity of one scorer; better "
        "than all 3 operators by cost."
    )
    assert verdict(found[:2], MINE, 512).outcome == "better"
    assert verdict([*found[:1], found[3]], MINE, 512).outcome == "worse"
    assert verdict([*found[:1], found[2]], MINE, 512).outcome == "same"
    open_ = verdict(table({"a+zero": {"retention": wide}}), MINE, 512)
    assert (open_.outcome, "undecided with 5 seeds" in open_.sentence) == ("undecided", True)
    many = table({f"op{i}": {"retention": down if i else up} for i in range(6)})
    assert "better than 5 of 6 operators and worse than op0 by retention" in verdict(many, MINE, 512).sentence


def test_it_is_one_sentence_whatever_is_missing():
    for found in (
        comparison(), comparison((MINE,)), comparison((MINE, GUMBEL), probes=("cost",)),
        comparison((MINE, GUMBEL), probes=()), comparison((MINE, REFERENCE)), comparison(focus=GUMBEL),
    ):  # fmt: skip
        told = verdict_of(found)
        assert told.sentence.endswith(".") and told.sentence.count(". ") == 0
        assert found.focus in told.sentence
    assert (
        "retention of my_op.py:MyOp is missing (not measured)"
        in verdict_of(comparison((MINE, GUMBEL), probes=("cost",))).sentence
    )


# --- where it is said ---


def test_grid_and_verdict_are_in_the_json_and_say_what_its_rows_say():
    full = comparison()
    told = json.loads(json.dumps(report_json(full), allow_nan=False))
    found = verdict_of(full)
    assert list(told)[:2] == ["verdict", "grid"]
    assert {name: told["verdict"][name] for name in ("outcome", "sentence", "seeds", "images")} == {
        "outcome": found.outcome, "sentence": found.sentence, "seeds": found.seeds, "images": found.images
    }  # fmt: skip
    assert [line["measure"] for line in told["grid"]][:3] == ["retention", "fidelity", "cost"]
    better = {metric["name"]: metric["better"] for metric in told["metrics"]}
    for line in told["grid"]:
        for row in told["rows"]:
            if row["op"] not in line["against"]:
                assert row["focus"] or row["floor"]
                continue
            decided, word = row["metrics"][line["measure"]]["verdict"], line["against"][row["op"]]
            assert (decided == "undecided") == (word in ("same", "undecided"))
            if decided != "undecided":  # the row's operator is higher or lower; the word is of the focus
                assert (decided == better[line["measure"]]) == (word == "worse")
            assert line["better"] == better[line["measure"]]


def test_rankings_are_told_apart_from_operators():
    found = rows(comparison())
    assert floors_line(found, MINE) == f"By retention {MINE} is better than by random without training."
    assert floors_line(rows(comparison(floors=())), MINE) == ""
    assert all(not op.startswith("ranked:") for line in measures(found) for op in line.against)


def test_every_direction_has_words():
    assert {metric.better for metric in metrics()} <= set(DIRECTIONS)
    assert len(OPS) == len(measures(rows(comparison()))[0].against) + 1
    assert set(WORD) == {"better", "worse", "same", "undecided"}
