"""Table 4: FLOPs follow from the configuration alone, beside the paper's; a preset that asks nothing is drawn."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from gradprobe.comparison.cost_table import cost_rows, verdicts
from gradprobe.comparison.cost_table_figure import cost_table_figure, terminal_table
from gradprobe.comparison.drawings import drawings
from gradprobe.comparison.experiments import load_experiment, run_experiment
from gradprobe.errors import UsageError
from gradprobe.plotting.style import save_figure
from gradprobe.store.results import Store
from gradprobe.vlm.costs.flops import cost
from gradprobe.vlm.costs.plans import plan_cost

PRESETS = Path(__file__).parents[2] / "experiments"
PRESET = """
title = "What it costs"
figure = "cost_table"
baseline = "whole"
claim = "pruning is cheap"
[table]
model = "photos-vlm"
text_tokens = 12
[[paper]]
method = "whole"
k = 100
flops = 0.5
encoder = 30.0
pruner = 0.0
prefill = 100.0
ttft = 130.0
[[paper]]
method = "trained"
loc = "Pre"
scorer = "mlp"
k = 11
flops = 0.2
encoder = 30.0
pruner = 5.0
prefill = 40.0
ttft = 75.0
[[paper]]
method = "early"
select = "fastv@1"
average = 33
[[paper]]
method = "steps"
select = "random@1,2,3:keep=0.5,0.25,0.1"
k = 11
"""


@pytest.fixture
def preset(tmp_path):
    def write(old="", new="", text=PRESET):
        assert old in text
        path = tmp_path / "experiments" / "costs.toml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text.replace(old, new))
        return load_experiment(path)

    return write


@pytest.fixture(scope="module")
def shipped():
    return {row.method: row for row in cost_rows(load_experiment(PRESETS / "table4_cost.toml"))}


# --- FLOPs ---


def test_rows_have_the_flops_of_their_plan_or_scorer_at_their_numbers_of_tokens(preset):
    whole, trained, early, steps = cost_rows(preset())
    unpruned, scored = cost("photos-vlm", k=[11], text_tokens=12, scorer="mlp").flops
    assert (whole.as_paper, whole.language, whole.selector) == (unpruned.paper, unpruned.prefill, 0)
    assert (trained.language, trained.selector, trained.label) == (scored.prefill, scored.scorer, "mlp")
    plan = plan_cost("photos-vlm", ["fastv@1"], average=[33], text_tokens=12).plans[-1].flops
    assert (early.language, early.selector) == (plan.prefill, plan.scorer)
    assert early.counts.layers == (100, 11, 11, 11)
    assert steps.counts.layers == (100, 50, 25, 10)  # its budget is its own, whatever K the table states
    for row in (whole, trained, early, steps):
        assert row.total == row.around + row.language + row.selector


def test_the_papers_flops_are_reproduced_outside_the_language_model(shipped):
    for name, row in shipped.items():
        if "flops" in row.paper and not row.counts.inside:
            assert row.as_paper / 1e12 == pytest.approx(row.paper["flops"], rel=0.011), name
    assert 4.79 < shipped["PyramidDrop"].as_paper / 1e12 < shipped["PyramidDrop"].paper["flops"]
    assert shipped["PyramidDrop"].counts.layers == (576,) * 8 + (288,) * 8 + (144,) * 8 + (72,) * 8


def test_selectors_own_flops_stand_apart_from_the_language_models(shipped):
    alike = [shipped[name] for name in ("PruneSID", "HoloV", "DiffPrune", "VisionZip", "DivPrune", "ZOO-Prune, exact")]
    assert len({row.language for row in alike}) == 1  # K = 64 in every layer
    assert shipped["ZOO-Prune, 64 draws"].selector > shipped["ZOO-Prune, 64 draws"].language
    assert shipped["ZOO-Prune, exact"].selector < shipped["ZOO-Prune, 64 draws"].selector / 50
    near = shipped["FastV, average 64"]
    assert near.counts.average == pytest.approx(64, abs=0.5)
    assert near.language == pytest.approx(shipped["DiffPrune"].language, rel=0.01)
    assert shipped["FastV, K = 64"].language > 1.15 * near.language


# --- the preset ---


def test_a_preset_of_configurations_alone_asks_nothing(preset, tmp_path):
    experiment = preset()
    assert experiment.runs == () and experiment.table["model"] == "photos-vlm"
    assert run_experiment(experiment, [Store(tmp_path)]) == ([], [])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('figure = "cost_table"', 'figure = "retention"', r"needs 'question' as a \[question\] table"),
        ("[[paper]]\nmethod = \"whole\"", "[[run]]\nk = 1\n[[paper]]\nmethod = \"whole\"", "unknown key 'run'"),
        ('figure = "cost_table"', 'figure = "cost_tables"', r"needs 'question'"),
    ],
)  # fmt: skip
def test_only_figures_of_configurations_alone_go_without_questions(preset, old, new, message):
    with pytest.raises(UsageError, match=message):
        preset(old, new)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('model = "photos-vlm"\n', "", r"needs a \[table\] with model = "),
        ('model = "photos-vlm"', 'model = "photos-vln"', "photos-vln are not known here; did you mean 'photos-vlm'"),
        ("flops = 0.5", "flop = 0.5", "unknown key 'flop'; a .* takes method, loc, select"),
        ('method = "early"\n', "", "a row without a method"),
        ("k = 11\nflops", "flops", "trained: mlp needs k, the tokens that it leaves"),
        ("average = 33\n", "", "early: fastv@1 needs k or average, the tokens that it leaves"),
        ("average = 33", "average = 20", "--average 20 is not possible with fastv@1 in 4 layers: the least is 25.75"),
        ("fastv@1", "fastv@4", "this language model has layers 0 to 3"),
        ('select = "fastv@1"', 'select = "fastw"', "fastw"),
    ],
)
def test_a_wrong_row_is_told(preset, old, new, message):
    experiment = preset(old, new)
    with pytest.raises(UsageError, match=message):
        cost_rows(experiment)


# --- table, figure, command ---


def test_table_figure_and_verdicts_show_ours_beside_the_papers(preset, tmp_path):
    rows = cost_rows(preset())
    console = Console(file=io.StringIO(), width=80)
    console.print(terminal_table(rows))
    shown = console.file.getvalue()
    for wanted in ("whole", "100, 11 x3", "33.2", "100, 50, 25, 10", "130.00", "wait for a GPU"):
        assert wanted in shown, wanted
    figure = cost_table_figure(rows, "a title", "a claim")
    table, bars = figure.axes
    assert {"whole", "early", "0.50", "130.00", "–"} <= {text.get_text() for text in table.texts}
    ends = [sum(patch.get_width() for patch in bars.patches[i :: len(rows)]) for i in range(len(rows))]
    assert ends == pytest.approx([row.total / 1e12 for row in rows])
    lines = verdicts(rows)
    share = 100 * rows[1].selector / rows[1].language
    assert lines[2].endswith(f"trained 12.5 % and {share:.1f} %")  # 5 of 40 ms
    assert lines[-1].startswith("latencies are the paper's; ours wait for a GPU")
    one, two = (save_figure(cost_table_figure(rows, "a", "b"), tmp_path / f"{i}.png") for i in "ab")
    assert one.read_bytes() == two.read_bytes()


def test_the_command_draws_it_without_a_store(run, preset, tmp_path):
    preset()
    code, out, _ = run("figures", "costs", "--draw-only")
    assert code == 0 and "costs: from the configuration alone" in out
    assert (tmp_path / "figures" / "costs.png").stat().st_size and not (tmp_path / "runs").exists()
    assert "all FLOPs up to the first token over those of whole: trained" in " ".join(out.split())
    assert "cost_table" in drawings()
