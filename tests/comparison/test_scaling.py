"""Figure A1: points follow from answers alone, verdicts from intervals, and what is missing stays visible."""

from dataclasses import replace

import numpy as np
import pytest
from retentions import retained

from gradprobe.comparison.drawings import drawings
from gradprobe.comparison.experiments import Answer, Run, load_experiment
from gradprobe.comparison.scaling import AVERAGE, scaling
from gradprobe.comparison.scaling_figure import scaling_figure
from gradprobe.comparison.scaling_verdicts import gaps, shape, steps, verdicts
from gradprobe.data.pictures_text import KINDS
from gradprobe.errors import GradprobeError, UsageError
from gradprobe.plotting.style import save_figure
from gradprobe.probes.retention.result import over_seeds
from gradprobe.store.results import Store

BUDGETS, SEEDS = (75, 50, 33, 22, 11), (1, 2, 3, 4, 5)
ASKED = {"task": "captioning", "data": "photos", "denoiser": "token"}
PRESET = """
title = "Sizes"
figure = "scaling"
baseline = "lapsum+vpnoise"
claim = "the fall is smooth"
[[paper]]
tokens = 100
[question]
probe = "retention"
op = "lapsum+vpnoise"
k = [22, 11]
seed = [1, 2]
steps = 10
batch_size = 4
learning_rate = 0.001
weight_decay = 0.01
tau_start = 2.0
tau_end = 0.1
images = 400
scorer = "mlp"
loss = "ce"
layer = 0
data = "photos"
dtype = "float32"
task = "captioning"
[[run]]
panel = "small"
backbone = "photos-vlm-small"
weights = "sha256:01"
[[run]]
panel = "large"
backbone = "photos-vlm-large"
weights = "sha256:02"
"""


def answer(model, k, share, seed=1, unpruned=0.95, images=400, shift=0, **asked):
    """Answer with a share retained of what a model gets right; of kind i it retains 0.01 i less."""
    kind, order = np.arange(images) % 4, np.arange(images) // 4
    known = round(unpruned * images / 4)
    right = np.round(known * (share - 0.01 * np.arange(4)) + shift)
    asked = {**ASKED, "backbone": model, "weights": f"sha256:{model}", "images": images, **asked}
    return replace(
        retained(k=k, seed=seed, **asked),
        correct=(order < right[kind]).astype(np.uint8),
        unpruned=(order < known).astype(np.uint8),
        auc=np.zeros(0, np.float32),
        kind=kind.astype(np.uint8),
    )


def curve(shares, model="small", seeds=SEEDS, noise=1, **more):
    """Answers at every K, seeds an image a kind apart."""
    return [
        answer(model, k, share, seed, shift=noise * (seed % 2), **more)
        for k, share in zip(BUDGETS, shares, strict=True)
        for seed in seeds
    ]


def line(fall):
    """Shares that fall in proportion to the pruning rate, in all by so much at the last."""
    return [1 - fall * (1 - k / 100) / 0.89 for k in BUDGETS]


def made(budgets=BUDGETS, **panels):
    return scaling(panels, budgets, 100)


# --- points ---


def test_rates_follow_from_k_and_the_curve_from_the_largest_k_down():
    found = made(budgets=(11, 75, 33, 50, 22), small=curve(line(0.2)))
    assert list(found.curve("small", AVERAGE)) == list(found.budgets) == [75, 50, 33, 22, 11]
    assert [round(found.rate(k), 4) for k in found.budgets] == [0.25, 0.5, 0.67, 0.78, 0.89]
    assert found.parts == (AVERAGE, *KINDS)


def test_points_are_the_retention_of_the_seeds_pooled():
    results = curve(line(0.2))
    point = made(small=results).points["small", AVERAGE, 33]
    own = [result for result in results if result.question["k"] == 33]
    by_hand = [
        np.mean([r.correct[r.kind == i].sum() / r.unpruned[r.kind == i].sum() for i in range(4)]) for r in own
    ]  # fmt: skip
    assert list(point.by_seed.values()) == pytest.approx(by_hand)
    assert point.retention.value == pytest.approx(np.mean(by_hand))
    row = over_seeds(own)
    assert (point.retention.low, point.retention.high) == (row["low"], row["high"])
    assert point.unpruned == pytest.approx(row["unpruned"])
    for i, kind in enumerate(KINDS):
        mine = made(small=results).points["small", kind, 33]
        assert list(mine.by_seed.values()) == pytest.approx([each[i] for each in row["by_kind"]])
        assert mine.retention.low < mine.retention.value < mine.retention.high


def test_seeds_of_generated_pictures_have_images_of_their_own():
    for data, shared in (("photos", False), ("photos:0a1b2c", False), ("sha256:0a1b", True)):
        assert made(small=curve(line(0.2), data=data)).points["small", AVERAGE, 33].shared is shared


def test_one_kind_of_question_makes_one_part():
    results = [replace(result, kind=np.zeros(0, np.uint8)) for result in curve(line(0.2))]
    assert made(small=results).parts == (AVERAGE,)


def test_answers_that_cannot_stand_in_one_figure_are_refused():
    fine = curve(line(0.2))
    with pytest.raises(UsageError, match="at least one result"):
        made(small=[])
    with pytest.raises(UsageError, match="K = 100 of 100"):
        made(budgets=(100, 50), small=fine)
    with pytest.raises(UsageError, match="differ in backbone, weights, k, seed alone"):
        made(small=fine, large=curve(line(0.2), "large", images=200))
    with pytest.raises(GradprobeError, match="have a seed in common"):
        made(small=[*fine, fine[0]])
    with pytest.raises(GradprobeError, match="differ in more than their seeds"):
        made(small=[*fine, answer("large", 11, 0.8, seed=6)])


# --- smoothness ---


@pytest.mark.parametrize(
    ("shares", "verdict"),
    [
        (line(0.6), "smooth"),  # far down, evenly
        ([0.99, 0.98, 0.97, 0.96, 0.4], "abrupt"),
        ([0.5, 0.49, 0.48, 0.47, 0.46], "abrupt"),  # at the first step, from nothing pruned
        ([0.99, 0.99, 0.99, 0.99, 0.95], "smooth"),  # steep, and too little to be called a collapse
    ],
)
def test_a_collapse_is_called_abrupt_and_a_straight_line_smooth(shares, verdict):
    found = made(small=curve(shares))
    assert [shape(found, "small", part) for part in found.parts] == [verdict] * 5
    assert verdicts(found)[0].startswith(f"small: {verdict}; steepest from")


def test_steps_are_falls_between_neighbouring_rates_and_a_line_is_as_steep_everywhere():
    found = steps(made(small=curve(line(0.6), noise=0)), "small", KINDS[0])
    assert np.ravel([step.rates for step in found]) == pytest.approx(
        [0, 0.25, 0.25, 0.5, 0.5, 0.67, 0.67, 0.78, 0.78, 0.89]
    )
    assert sum(step.drop.value for step in found) == pytest.approx(0.6, abs=0.01)
    assert [step.steepness for step in found] == pytest.approx([1] * 5, abs=0.15)  # accuracies are whole images
    (cliff,) = [s for s in steps(made(small=curve([1, 1, 1, 1, 0.5], noise=0)), "small", KINDS[0]) if s.drop.value]
    assert cliff.drop.value == pytest.approx(0.5, abs=0.01) and cliff.steepness == np.inf


def test_what_the_seeds_do_not_agree_on_is_undecided():
    mixed = curve([0.99, 0.98, 0.97, 0.96, 0.8])
    mixed = [r if r.question["k"] > 11 else answer("small", 11, s, r.question["seed"])
             for r, s in zip(mixed, [0.95, 0.7, 0.95, 0.75, 0.9] * 5, strict=True)]  # fmt: skip
    assert shape(made(small=mixed), "small", AVERAGE) == "undecided"


def test_fewer_than_five_seeds_and_missing_rates_decide_no_shape():
    few = made(small=curve([0.99, 0.98, 0.97, 0.96, 0.4], seeds=(1, 2, 3, 4)))
    assert shape(few, "small", AVERAGE) == "undecided, 4 seeds"
    uneven = curve([0.99, 0.98, 0.97, 0.96, 0.4])[:-1]  # one seed is missing at one rate
    assert shape(made(small=uneven), "small", AVERAGE) == "undecided, 4 seeds"
    gap = [result for result in curve(line(0.2)) if result.question["k"] != 33]
    assert shape(made(small=gap), "small", AVERAGE) == "undecided, no answer at 67 %"
    assert shape(made(small=gap, large=[]), "large", AVERAGE) == "no answers yet"
    alone = made(budgets=(11,), small=[answer("small", 11, 0.4, seed) for seed in SEEDS])
    assert steps(alone, "small", AVERAGE) == [] and shape(alone, "small", AVERAGE) == "undecided"


# --- order of sizes ---


def test_the_larger_keeps_more_where_five_seeds_exclude_zero():
    found = made(small=curve(line(0.3)), large=curve(line(0.1), "large", unpruned=0.98))
    each = gaps(found, "small", "large", AVERAGE)
    assert [gap.verdict for gap in each.values()] == ["more"] * 5
    assert [gap.verdict for gap in gaps(found, "large", "small", AVERAGE).values()] == ["less"] * 5
    for k, gap in each.items():
        ours, theirs = (found.points[model, AVERAGE, k].retention.value for model in ("large", "small"))
        assert gap.difference.value == pytest.approx(ours - theirs)
    assert verdicts(found)[-1].startswith("large less small, points at 25 %: +")


def test_an_order_needs_five_seeds_in_common_and_an_interval_without_zero():
    small = curve(line(0.3))
    few = gaps(made(small=small, large=curve(line(0.1), "large", seeds=(2, 3, 4, 5, 6))), "small", "large", AVERAGE)
    assert {(gap.verdict, gap.count) for gap in few.values()} == {("undecided, 4 seeds", 4)}
    near = made(small=small, large=curve(line(0.3), "large", noise=-1))
    for pair in (("small", "large"), ("large", "small")):
        same = gaps(near, *pair, AVERAGE).values()
        assert {gap.verdict for gap in same} == {"undecided"} and all(gap.difference.value for gap in same)
        assert all(gap.difference.low < 0 < gap.difference.high for gap in same)
    apart = made(small=[r for r in small if r.question["k"] > 30],
                 large=[r for r in curve(line(0.1), "large") if r.question["k"] < 40])  # fmt: skip
    assert list(gaps(apart, "small", "large", AVERAGE)) == [33]


# --- the figure ---


def drawn(figure):
    """Every text of a figure."""
    return [text.get_text().replace("\n", " ") for text in figure.findobj(lambda part: hasattr(part, "get_text"))]


def test_the_figure_draws_what_there_is_and_names_what_is_missing(tmp_path):
    small = [result for result in curve(line(0.3)) if result.question["k"] != 33]
    found = made(small=small, medium=curve(line(0.2), "medium", seeds=(1, 2)), large=[])
    figure = scaling_figure(found, "three sizes", "smooth, it says")
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["average of the kinds", *KINDS, ""]
    texts = drawn(figure)
    assert {"small no answer at 67 %", "medium", "large no answers yet", "three sizes"} <= set(texts)
    (caption,) = [text for text in texts if "Paper: smooth, it says" in text.replace("\xa0", " ")]
    assert "large: no answers yet" in caption and "medium: undecided, 2 seeds" in caption
    lines = [ys for line in figure.axes[0].lines if len(ys := np.asarray(line.get_ydata())) == 6]
    assert len(lines) == 2 and [np.isnan(ys).tolist() for ys in lines] == [
        [False] * 3 + [True] + [False] * 2,
        [False] * 6,
    ]
    one, two = (save_figure(scaling_figure(found, "a", "b"), tmp_path / f"{i}.png") for i in "ab")
    assert one.read_bytes() == two.read_bytes()


def test_a_preset_names_its_tokens_and_keeps_the_place_of_a_size_without_answers(tmp_path):
    preset = tmp_path / "sizes.toml"
    preset.write_text(PRESET)
    experiment = load_experiment(preset)
    run = experiment.runs[-1]
    assert run.panel == "large"
    texts = drawn(drawings()["scaling"](experiment, [Answer(run, _of(run), tmp_path, False)])[0])
    assert {"small no answers yet", "large no answer at 78 %", "Sizes"} <= set(texts)
    with pytest.raises(UsageError, match="write: tokens = 100"):
        drawings()["scaling"](replace(experiment, paper=({"pruned": [50]},)), [Answer(run, _of(run), tmp_path, False)])


def test_the_command_draws_stored_answers_and_says_what_is_missing(run, tmp_path):
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "sizes.toml").write_text(PRESET)
    code, out, err = run("figures", "sizes", "--draw-only")
    assert code == 1 and "no answers for sizes" in err and not (tmp_path / "figures").exists()
    for each in load_experiment(tmp_path / "experiments" / "sizes.toml").runs[:4]:  # all of the small one
        Store(tmp_path / "runs").save(_of(each))
    code, out, err = run("figures", "sizes", "--draw-only")
    assert code == 0 and "4 stored, 0 computed, 4 missing" in out + err and "in large: not stored" in out + err
    assert (tmp_path / "figures" / "sizes.png").stat().st_size and (tmp_path / "figures" / "sizes.svg").stat().st_size


def _of(run: Run):
    """Answer to a preset's run."""
    result = answer(run.question["backbone"], run.question["k"], 0.8, run.question["seed"])
    return replace(result, question=dict(run.question))
