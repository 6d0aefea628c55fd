"""Tables 1 to 3: methods are ranked at equal average tokens alone, and figures follow from answers and quotations."""

import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from retentions import retained
from rich.console import Console

from gradprobe.comparison.drawings import drawings, reports
from gradprobe.comparison.experiments import Answer, Run, load_experiment
from gradprobe.comparison.pareto import frontier
from gradprobe.comparison.selector_costs import Mismatch, counter_of, spent_by, table_and_costs
from gradprobe.comparison.selector_figure import selector_figure
from gradprobe.comparison.selector_table import INSIDE, OUTSIDE, TRAINED, ranked, selector_table
from gradprobe.comparison.selector_text import terminal_table, text_of
from gradprobe.comparison.selector_verdicts import contest, gap, neighbours, order, verdicts
from gradprobe.errors import UsageError
from gradprobe.plotting.style import save_figure
from gradprobe.selectors.schedule import MARGIN
from gradprobe.settings import RANKED
from gradprobe.store.results import Store

TREE = Path(__file__).parents[2]
TABLES = ("table1_llava15", "table2_llavanext", "table3_qwen")
SEEDS = (1, 2, 3, 4, 5)
FULL = "lapsum+vpnoise"
MODEL = {"task": "captioning", "backbone": "photos-vlm", "weights": "sha256:01", "data": "photos"}
PRESET = """
title = "Toy table"
figure = "selectors"
baseline = "lapsum+vpnoise"
claim = "ours is the best"
[table]
tokens = 100
layers = 4
text_tokens = 12
average = [33, 11]
[[paper]]
model = "Large"
tokens = 576
source = "A paper, Table 9"
rate = [66.7, 88.9]
benchmarks = ["A", "B"]
unpruned = [50.0, 80.0]
[[paper]]
method = "Ours"
op = "lapsum+vpnoise"
denoiser = "token"
retention = [97.0, 94.0]
scores = [[49.0, 76.8], [48.0, 73.6]]
[[paper]]
method = "Late"
loc = "L2"
op = ["ranked:fastv@1", "ranked:fastv@2"]
retention = [90.0, 80.0]
scores = [[45.0, nan], [40.0, nan]]
contested = "see a thread"
[[paper]]
method = "Spread"
op = "ranked:divprune"
retention = [96.0, 95.0]
scores = [[48.0, 76.8], [47.0, 76.8]]
note = "on the tokens behind the projector"
[[paper]]
method = "Whole"
rerun = false
retention = [92.0, 91.0]
scores = [[46.0, 73.6], [45.5, 72.8]]
[question]
probe = "retention"
task = "captioning"
backbone = "photos-vlm"
weights = "sha256:01"
data = "photos"
dtype = "float32"
loss = "ce"
layer = 0
images = 40
[[run]]
panel = "toy"
denoiser = "token"
op = "lapsum+vpnoise"
scorer = "mlp"
steps = 10
batch_size = 4
learning_rate = 0.001
weight_decay = 0.01
tau_start = 2.0
tau_end = 0.1
seed = [1, 2, 3, 4, 5]
k = [33, 11]
[[run]]
panel = "toy"
op = ["ranked:divprune", "ranked:norm"]
steps = 0
seed = [1, 2, 3, 4, 5]
k = [33, 11]
[[run]]
panel = "toy"
op = "ranked:fastv@1"
steps = 0
seed = [1, 2]
k = [11, 33]
"""


@pytest.fixture
def preset(tmp_path):
    def write(old="", new=""):
        assert old in PRESET
        path = tmp_path / "experiments" / "toy.toml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(PRESET.replace(old, new))
        return load_experiment(path)

    return write


def answers(experiment, right=None):
    """Answers of 40 images, ``right[op, k]`` of 36, one image more for odd seeds; all others 30."""
    known = right or {}
    return [Answer(run, _of(run, known.get((run.question["op"], run.question["k"]), 30)), Path("x"), False)
            for run in experiment.runs]  # fmt: skip


def _of(run: Run, right=30):
    asked = run.question
    result = retained(right + asked["seed"] % 2, op=asked["op"], k=asked["k"], seed=asked["seed"], **MODEL)
    return replace(result, question=dict(asked))


def made(experiment, right=None):
    return selector_table(experiment, answers(experiment, right), counter_of(100, 4))


def named(table, average):
    return [line.point.name if line.point else line.method.name for line in table.block(average)]


def printed(part, width=100):
    console = Console(file=io.StringIO(), width=width)
    console.print(part)
    return console.file.getvalue()


# --- rows ---


def test_a_column_holds_the_methods_of_its_average_by_falling_retention_then_what_is_quoted_alone(preset):
    table = made(preset(), {(FULL, 33): 34, ("ranked:divprune", 33): 33, ("ranked:fastv@1", 11): 35})
    assert named(table, 33) == ["Late@1", "Ours", "Spread", "norm", "Whole"]
    late, ours, spread, norm, whole = table.block(33)
    assert [line.point.kind for line in (late, ours, spread, norm)] == [INSIDE, TRAINED, OUTSIDE, OUTSIDE]
    assert (late.point.k, late.point.counts.layers, late.point.average) == (11, (100, 11, 11, 11), 33.25)
    assert (ours.point.counts.layers, ours.point.average) == ((33,) * 4, 33)
    assert [line.paper for line in (late, ours, spread, norm, whole)] == [0.9, 0.97, 0.96, None, 0.92]
    assert whole.point is None and whole.reason == "quoted, not re-run"
    assert ours.point.row["retention"] == pytest.approx(np.mean([35, 34, 35, 34, 35]) / 36)


def test_fewer_than_five_trained_scorers_have_no_interval(preset):
    experiment = preset("seed = [1, 2, 3, 4, 5]\nk = [33, 11]\n[[run]]", "seed = 1\nk = [33, 11]\n[[run]]")
    points = {p.name: p for p in made(experiment).at(33)}
    assert points["Ours"].interval is None and points["Ours"].row["low"] is not None  # over the images of one seed
    assert all(points[name].interval is not None for name in ("Spread", "Late@1"))


def test_what_reads_more_tokens_on_average_stands_apart_though_its_k_is_the_same(preset):
    table = made(preset())
    assert [(p.name, p.k, p.average) for p in table.apart] == [("Late@1", 33, 49.75)]
    assert all(point.k != 33 or point.kind != INSIDE for point in table.at(33))


def test_averages_that_cannot_be_had_and_answers_that_are_not_there_say_so(preset):
    experiment = preset()
    table = made(experiment)
    assert {line.method.name: line.reason for line in table.block(11) if line.point is None} == {
        "Late": "25.75 at least", "Whole": "quoted, not re-run"
    }  # fmt: skip
    few = [a for a in answers(experiment) if a.run.question["op"] == FULL]
    lines = selector_table(experiment, few, counter_of(100, 4)).block(33)
    assert {line.method.name: line.reason for line in lines if line.point is None} == {
        "Late": "no answer yet", "Spread": "no answer yet", "Whole": "quoted, not re-run"
    }  # fmt: skip
    assert any("left out: Late: 25.75 at least" in each for each in verdicts(table, FULL))


def test_the_papers_averages_are_also_those_over_the_benchmarks_that_all_rows_have(preset):
    table = made(preset())
    assert table.benchmarks == ("A",)  # Late has no B
    (ours,) = [line for line in table.block(11) if line.method.name == "Ours"]
    assert (ours.paper, ours.common) == (0.94, pytest.approx(48 / 50))
    told = verdicts(table, FULL)[-1]
    assert "at 11.1 % kept: Ours 96.0, Spread 94.0, Whole 91.0 (as printed: Spread 95.0, Ours 94.0, Whole 91.0)" in told


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("tokens = 100\n", "", r"needs tokens in its \[table\]"),
        ('source = "A paper, Table 9"\n', "", r"needs source in its first \[\[paper\]\]"),
        ("retention = [97.0, 94.0]", "retention = [97.0]", "for each of the 2 rates; see Ours"),
        ("[48.0, 73.6]]", "[48.0]]", "Ours needs a score for each of the 2 benchmarks; write nan"),
        ('method = "Ours"\n', "", "see one without a method"),
    ],
)
def test_a_preset_that_lacks_something_is_told_what(preset, old, new, message):
    with pytest.raises(UsageError, match=message):
        made(preset(old, new))


# --- equal averages alone ---


def test_methods_of_other_averages_are_not_ranked_nor_compared(preset):
    table = made(preset())
    (late,) = table.apart
    with pytest.raises(UsageError, match=r"Late@1 reads 49\.75 tokens a layer on average, not 33: .* averages alone"):
        ranked([*table.at(33), late], 33)
    with pytest.raises(UsageError, match="equal averages alone"):
        gap(table.at(33)[0], late, 33)
    with pytest.raises(UsageError, match="equal averages alone"):
        neighbours([*table.at(11), *table.at(33)], 11)


@pytest.mark.parametrize("name", TABLES)
def test_every_point_of_a_shipped_preset_is_within_half_a_token_of_its_column_or_apart(name):
    experiment = load_experiment(TREE / "experiments" / f"{name}.toml")
    counted = counter_of(experiment.table["tokens"], experiment.table["layers"])
    inside = set()
    for run in experiment.runs:
        counts = counted(run.question["op"], run.question["k"])
        near = [a for a in experiment.table["average"] if abs(a - counts.average) <= MARGIN]
        assert near or counts.inside, run.question  # what is chosen outside has a column
        inside |= {(run.question["op"], near[0])} if near and counts.inside else set()
    assert inside and {average for _, average in inside} == {33}  # the only one that four layers allow


# --- verdicts ---


def test_paired_differences_decide_with_five_seeds_and_two_decide_nothing(preset):
    table = made(preset(), {(FULL, 33): 34, ("ranked:divprune", 33): 20, ("ranked:fastv@1", 11): 26})
    ours, late, spread = (next(p for p in table.at(33) if p.method.name == name) for name in ("Ours", "Late", "Spread"))
    decided = gap(ours, spread, 33)
    assert decided.decided and decided.count == 5 and decided.value == pytest.approx(14 / 36) and decided.low > 0
    few = gap(ours, late, 33)
    assert (few.count, few.decided, few.low, few.doubt) == (2, False, None, "not decided by 2 seeds")
    alone = replace(late, results=late.results[:1])  # over images alone its difference would have an interval
    assert gap(ours, alone, 33).doubt == "not decided by 1 seed" and gap(ours, alone, 33).low is None
    assert gap(ours, replace(late, results=()), 33).text == "no seed in common"
    back = gap(spread, ours, 33)
    assert (back.value, back.low, back.high) == pytest.approx((-decided.value, -decided.high, -decided.low))


def test_the_order_names_the_neighbours_that_are_not_told_apart(preset):
    right = {(FULL, 33): 34, ("ranked:divprune", 33): 20, ("ranked:norm", 33): 20, ("ranked:fastv@1", 11): 26}
    told = order(made(preset(), right), 33)
    assert told.startswith("at an average of 33 tokens: 1. Ours 96.1, 2. Late@1 73.6, 3. ")
    assert told.endswith("not decided against the next: 1 to 3 (2 seeds); 3 to 4 (the interval holds 0)")
    clear = made(preset(), {(FULL, 11): 34, ("ranked:divprune", 11): 20, ("ranked:norm", 11): 10})
    assert order(clear, 11) == "at an average of 11 tokens: 1. Ours 96.1, 2. Spread 57.2, 3. norm 29.4"


@pytest.mark.parametrize(
    ("ours", "spread", "verdict"),
    [(34, 24, ": trained ahead"), (24, 34, ": training-free ahead"), (30, 30, ": not decided: the interval holds 0")],
)
def test_a_training_free_method_that_is_ahead_of_the_trained_scorer_is_said_plainly(preset, ours, spread, verdict):
    table = made(preset(), {(FULL, 11): ours, ("ranked:divprune", 11): spread, ("ranked:norm", 11): 9})
    assert contest(table, 11).startswith("at an average of 11 tokens, the best without training (Spread) less the best")
    assert contest(table, 11).endswith(verdict)


@pytest.mark.parametrize(
    ("spread", "verdicts_"), [(24, ("reproduced", "the other way round")), (35, ("the other way round", "reproduced"))]
)
def test_the_papers_differences_are_reproduced_or_not(preset, spread, verdicts_):
    right = {(FULL, k): 30 for k in (33, 11)} | {("ranked:divprune", k): spread for k in (33, 11)}
    (line,) = [s for s in verdicts(made(preset(), right), FULL) if s.startswith("Ours less Spread")]
    first, second = line.split("; ")
    assert "paper +1.0" in first and first.endswith(verdicts_[0])  # 97 less 96
    assert "paper -1.0" in second and second.endswith(verdicts_[1])  # 94 less 95


# --- FLOPs and the front ---


def test_flops_are_those_of_the_plan_at_its_own_numbers_of_tokens(preset):
    from gradprobe.vlm.costs.plans import plan_cost

    table = made(preset())
    spent = dict(zip([(p.op, p.k) for p in table.points], spent_by(table.points, 100, 4, 12), strict=True))
    for op, k in (("ranked:fastv@1", 11), ("ranked:fastv@1", 33), ("ranked:divprune", 33)):
        whole = plan_cost("photos-vlm", [op.removeprefix(RANKED)], k=[k], text_tokens=12).plans[-1].flops
        assert (spent[op, k].language, spent[op, k].selector) == (whole.prefill, whole.scorer)
    assert spent[FULL, 33].language == spent["ranked:divprune", 33].language  # K in every layer
    assert spent[FULL, 33].selector == spent[FULL, 11].selector > 0  # the scorer reads all tokens
    assert spent["ranked:norm", 11].selector == 0 and spent["ranked:norm", 11].total < spent[FULL, 11].total


def test_flops_of_composed_stages_need_no_budget_that_only_others_have(preset):
    experiment = preset('op = "ranked:fastv@1"\nsteps = 0\nseed = [1, 2]\nk = [11, 33]',
                        'op = "ranked:divprune:k=20;fastv@1"\nsteps = 0\nseed = [1, 2]\nk = 5')  # fmt: skip
    table, spent, _ = table_and_costs(experiment, answers(experiment))
    (both,) = [p for p in table.points if p.counts.inside]
    assert (both.name, both.counts.layers, both.average) == ("divprune;fastv@1", (20, 5, 5, 5), 8.75)
    assert spent is not None and both in table.apart


def test_a_table_about_another_model_than_its_questions_is_refused(preset):
    experiment = preset("tokens = 100\nlayers = 4", "tokens = 100\nlayers = 8")
    with pytest.raises(Mismatch, match=r"has 100 visual tokens and 4 layers, and the preset's \[table\] .* layers = 8"):
        table_and_costs(experiment, answers(experiment))


def test_without_a_known_configuration_average_tokens_stand_in_place_of_flops(preset):
    experiment = preset('backbone = "photos-vlm"', 'backbone = "elsewhere"')
    table, spent, reason = table_and_costs(experiment, answers(experiment))
    assert spent is None and "elsewhere" in reason
    figure = selector_figure(table, spent, "toy", "claim", reason)
    assert any(axes.get_xlabel() == "average tokens" for axes in figure.axes)
    assert any("FLOPs are not known here" in text.get_text() for text in figure.texts)


def test_the_front_is_what_no_cheaper_point_reaches():
    rng = np.random.default_rng(0)
    costs, values = rng.integers(1, 9, 60).astype(float), rng.integers(0, 9, 60).astype(float)
    values[7] = np.nan
    front = frontier(costs, values)
    assert 7 not in front
    for i in range(60):
        better = [(costs[j], values[j]) for j in range(60) if costs[j] <= costs[i] and values[j] >= values[i]]
        beaten = any(each != (costs[i], values[i]) for each in better)
        same = any(costs[j] == costs[i] and values[j] == values[i] for j in front)
        assert i == 7 or beaten or same
        assert i not in front or not beaten
    assert frontier([1.0, 1.0, 1.0], [0.5, np.nan, 0.9]) == [2]


# --- table, figure, command ---


def test_table_and_figure_show_all_of_it_and_follow_from_answers_alone(preset, tmp_path):
    experiment = preset()
    given = answers(experiment, {(FULL, 33): 34})
    table, spent, _ = table_and_costs(experiment, given)
    shown = printed(terminal_table(text_of(table, spent)))
    for wanted in (
        "average of 33 of 100 tokens (paper: 192 of 576)", "(paper: 64 of 576)", "Late@1 a", "Spread b", "norm",
        "97.0 / 98.0", "quoted, not re-run", "100, 11 x3", "33.2", "≈", "not ranked",
    ):  # fmt: skip
        assert wanted in shown, wanted
    figure = drawings()["selectors"](experiment, given)[0]
    words = {text.get_text() for axes in figure.axes for text in axes.texts}
    assert {"Ours", "Late@1 a", "97.0 / 98.0", "100, 11 x3"} <= words
    notes = "\n".join(text.get_text() for text in figure.texts).replace("\n   ", " ")
    assert "a: contested: see a thread" in notes and "Paper: ours is the best" in notes
    one, two = (save_figure(drawings()["selectors"](experiment, given)[0], tmp_path / f"{i}.png") for i in "ab")
    assert one.read_bytes() == two.read_bytes()
    with pytest.raises(UsageError, match="at least one result"):
        selector_figure(replace(table, points=()), None, "toy", "claim")


def test_the_command_draws_prints_the_verdicts_and_says_what_is_missing(run, preset, tmp_path):
    experiment = preset()
    for each in experiment.runs[:-1]:
        Store(tmp_path / "runs").save(_of(each))
    code, out, err = run("figures", "toy", "--draw-only")
    assert code == 0 and "33 stored, 0 computed, 1 missing" in out + err
    assert "at an average of 11 tokens: 1. " in out and "average of 33 of 100 tokens" in out
    assert (tmp_path / "figures" / "toy.svg").stat().st_size
    assert {part if isinstance(part, str) else "" for part in reports()["selectors"](experiment, answers(experiment))}


def test_the_variant_for_llava_in_the_documentation_is_a_preset_with_equal_averages(tmp_path):
    (block,) = re.findall(r"```toml\n(.*?)```", (TREE / "docs" / "tables.md").read_text(encoding="utf-8"), flags=re.S)
    text = (TREE / "experiments" / "table1_llava15.toml").read_text(encoding="utf-8")
    head = re.sub(r"\[table\].*?(?=\n#|\n\[\[)", "", text[: text.index("[question]")], flags=re.S)
    (tmp_path / "llava.toml").write_text(head + block, encoding="utf-8")
    experiment = load_experiment(tmp_path / "llava.toml")
    counted = counter_of(experiment.table["tokens"], experiment.table["layers"])
    for run in experiment.runs:
        average = counted(run.question["op"], run.question["k"]).average
        assert any(abs(average - each) <= MARGIN for each in experiment.table["average"]), run.question
    given = [Answer(run, _of(run), Path("x"), False) for run in experiment.runs]
    table, spent, _ = table_and_costs(experiment, given)  # N and L are those of the configuration
    assert spent is not None and not table.apart
    measured = {line.method.name for line in table.block(192) if line.point}
    assert {"FastV", "HoloV", "PruneSID", "PyramidDrop", "VisionZip", "DiffPrune", "SparseVLM"} <= measured
