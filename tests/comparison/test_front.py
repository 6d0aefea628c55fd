"""The front of schedules: paired rows over seeds, verdicts from intervals, a figure from stored answers."""

import json
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.text import Text
from schedules import schedule, seeds

from gradprobe.comparison.drawings import drawings, reports
from gradprobe.comparison.experiments import Answer, load_experiment
from gradprobe.comparison.front import front_of, verdicts
from gradprobe.comparison.front_figure import front_figure, front_tables
from gradprobe.errors import GradprobeError, UsageError
from gradprobe.plotting.style import save_figure
from gradprobe.statistics.estimates import Estimate
from gradprobe.statistics.nested import nested
from gradprobe.store.results import Store, key_of
from gradprobe.vlm.schedule.result import over_seeds

PRESET = """
title = "Schedules"
figure = "front"
baseline = "grid"
claim = "near the front"
[question]
probe = "schedule"
task = "captioning"
backbone = "photos-vlm"
weights = "sha256:01"
data = "photos"
dtype = "float32"
loss = "ce"
layer = 0
k = 9
validation = 8
images = 40
budget = [0.3, 0.5]
op = ["ranked:fastv", "ranked:pyramiddrop"]
seed = [1, 2]
[[run]]
panel = "grid"
kernel = "grid"
[[run]]
panel = "search"
kernel = ["free", "step"]
constraint = "equal"
outer = 2
inner = 2
batch_size = 4
learning_rate = 0.2
softness = 0.1
"""
FULL = [
    each
    for budget in (0.3, 0.5)
    for kernel, loss in (("grid", 1.2), ("free", 1.0), ("step", 1.5))
    for each in seeds(loss, kernel, budget=budget)
]


def test_a_row_pairs_images_and_pools_seeds():
    ours, theirs = seeds(1.0, "free", noise=0.01), seeds(1.2, "grid", noise=0.02)
    row = json.loads(json.dumps(over_seeds(ours, theirs[::-1])))
    each = [a.losses.astype(float) - b.losses for a, b in zip(ours, theirs, strict=True)]
    assert row["difference_by_seed"] == pytest.approx([d.mean() for d in each])
    halves = [1.96 * d.std(ddof=1) / len(d) ** 0.5 for d in each]
    pooled = nested(
        [Estimate(d.mean(), d.mean() - h, d.mean() + h) for d, h in zip(each, halves, strict=True)], "identity", False
    )
    assert (row["difference_low"], row["difference_high"]) == pytest.approx((pooled.low, pooled.high), abs=2e-3)
    unpaired = row["loss_high"] - row["loss_low"]
    assert row["difference_high"] - row["difference_low"] < 0.5 * unpaired
    assert row["accuracy"] == pytest.approx(0.95) and row["accuracy_difference"] == 0
    alone = over_seeds(ours[:1], theirs[:1])
    assert alone["difference_low"] < alone["difference"] < alone["difference_high"]
    assert ours[0].row(baseline=theirs[0]) == alone
    few = over_seeds(ours[:3], theirs)
    assert few["difference_seeds"] == 3 and few["difference_low"] is None


def test_schedules_on_other_images_are_not_compared():
    for other in ({"seed": 2}, {"validation": 9}, {"weights": "sha256:02"}):
        with pytest.raises(UsageError, match="same fresh images"):
            schedule().difference(schedule(kernel="grid", **other))
    with pytest.raises(GradprobeError, match="seed in common"):
        over_seeds([schedule(), schedule()])
    with pytest.raises(GradprobeError, match="shape"):
        replace(schedule(), losses=np.zeros(3))
    with pytest.raises(UsageError, match="give one answer"):
        front_of([])


@pytest.mark.parametrize(
    ("free", "noise", "verdict"),
    [(1.0, 0.0, "better"), (1.25, 0.0, "near"), (1.4, 0.0, "worse"), (1.2, 0.3, "undecided")],
)
def test_the_verdict_on_a_search_follows_its_interval(free, noise, verdict):
    front = front_of([*seeds(1.2, "grid"), *seeds(free, "free", noise=noise)])
    claim = {"better": "confirmed", "near": "confirmed", "worse": "not confirmed"}.get(verdict)
    words = f"{claim} ({verdict} at all 1)" if claim else "undecided;"
    assert verdicts(front)[0].startswith(f"free approximates the front of the grid: {words}")


def test_one_bad_budget_refutes_a_claim_and_few_seeds_decide_nothing():
    bad = [
        *FULL[:15],
        *seeds(1.2, "grid", budget=0.5),
        *seeds(1.6, "free", budget=0.5),
        *seeds(1.5, "step", budget=0.5),
    ]
    sentences = "\n".join(verdicts(front_of(bad)))
    assert (
        "free approximates the front of the grid: not confirmed (better at fastv 0.3; worse at fastv 0.5)" in sentences
    )
    assert "free is better than one step: not confirmed (better at fastv 0.3; worse at fastv 0.5)" in sentences
    assert "free is better than one step: confirmed (better at all 2)" in "\n".join(verdicts(front_of(FULL)))
    half = verdicts(front_of(FULL, [each.question | {"budget": 0.7} for each in FULL[:1]]))
    assert "undecided (better at fastv 0.3, fastv 0.5; not measured yet at fastv 0.7)" in half[1]
    few = verdicts(front_of([each for each in FULL if each.question["seed"] < 5]))
    assert ": undecided; accuracy" in few[0] and "fewer than 5 seeds decide nothing" in few[-1]


def test_accuracy_is_told_in_points_from_the_grid():
    front = front_of([*seeds(1.2, "grid", right=40), *seeds(1.0, "free", right=38)])
    assert "accuracy -5.0 points from the grid's, decided within 1 at 0 of 1" in verdicts(front)[0]
    none = [replace(each, right=np.zeros(0, bool), whole_right=np.zeros(0, bool)) for each in FULL]
    assert "accuracy" not in "".join(verdicts(front_of(none)))


def test_the_figure_draws_what_there_is_and_the_same_bytes(tmp_path):
    front = front_of(FULL, [each.question | {"op": "ranked:other"} for each in FULL[:1]])
    figure = front_figure(front, "three kernels", "near, it says")
    words = " ".join(text.get_text() for text in figure.findobj(Text)).replace("\xa0", " ")
    assert all(each in words for each in ("fastv", "other", "three kernels", "Paper: near, it says", "all tokens"))
    assert "one-step search approximates the front" in words and "free search is better than one step" in words
    losses = next(axes for axes in figure.axes if axes.get_title(loc="left") == "fastv")
    drawn = {(float(x), float(y)) for line in losses.lines for x, y in zip(*line.get_data(), strict=True)}
    for budget in (0.3, 0.5):
        row = front.row("fastv", "step", budget)
        assert (row["share"], row["loss"]) in drawn
    one, two = (save_figure(front_figure(front, "a", "b"), tmp_path / f"{i}.png") for i in "ab")
    assert one.read_bytes() == two.read_bytes()
    assert [table.row_count for table in front_tables(front)] == [0, 6]


def test_the_command_draws_a_preset_from_stored_answers(run, tmp_path):
    (tmp_path / "experiments").mkdir()
    path = tmp_path / "experiments" / "front.toml"
    path.write_text(PRESET)
    experiment = load_experiment(path)
    assert len(experiment.runs) == 24
    code, out, err = run("figures", "front", "--draw-only")
    assert code == 1 and "no answers for front" in err
    losses = {"grid": 1.2, "free": 1.0, "step": 1.5}
    for each in experiment.runs[:-1]:
        q = each.question
        result = schedule(losses[q["kernel"]], q["kernel"], q["seed"], q["budget"], q["op"])
        assert key_of(result.question) == key_of(q)
        Store(tmp_path / "runs").save(result)
    code, out, err = run("figures", "front", "--draw-only")
    assert code == 0, err
    assert "23 stored, 0 computed, 1 missing" in out + err and "undecided" in out + err
    assert (tmp_path / "figures" / "front.png").stat().st_size and (tmp_path / "figures" / "front.svg").stat().st_size
    answers = [Answer(experiment.runs[0], schedule(kernel="grid", budget=0.3), tmp_path, False)]
    assert drawings()["front"](experiment, answers)[0] and reports()["front"](experiment, answers)
    code, out, err = run("list")
    assert code == 0 and "schedule" in out and "40 images" in out
    code, out, err = run("show", key_of(experiment.runs[2].question), "--json")
    assert code == 0 and json.loads(out)["rows"][0]["kernel"] == "grid"
