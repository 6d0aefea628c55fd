"""The cost of plans: each layer at its own number of tokens, equal to what torch counts where tokens are dropped."""

import json

import numpy as np
import pytest
import torch
import typer
from masked_layers import LAYERS, deep, noise_of, read
from matplotlib.container import BarContainer
from rich.console import Console
from tiny_vlms import ATTENDING, FAMILIES, SIZES, made, not_told, over
from typer.testing import CliRunner

from gradprobe.cli.vlm_cost import cost as command
from gradprobe.errors import GradprobeError, UsageError
from gradprobe.operators import registry
from gradprobe.probes.cost import measure as probe
from gradprobe.selectors.plan import Plan, Stage, plan_of, save_plan
from gradprobe.view import Drop, Unavailable
from gradprobe.vlm.choosing import Images
from gradprobe.vlm.costs.figure import cost_lines, cost_tables, vlm_cost_figure
from gradprobe.vlm.costs.flops import cost
from gradprobe.vlm.costs.plans import plan_cost
from gradprobe.vlm.inside import pruned_logits

LLAVA, NEXT = "llava-hf/llava-1.5-7b-hf", "llava-hf/llava-v1.6-vicuna-7b-hf"
PAPERS = "pyramiddrop@8,16,24:keep=0.5,0.25,0.125"
EVERYWHERE = ("random", "projected-norm", "divprune", "zoo:draws=4", "cdpruner")
OUTSIDE = (*EVERYWHERE, "class-attention", "mean-attention", "visionzip", "holov", "prunesid:query=mean", "hired")
app = typer.Typer()
app.command()(command)
run = CliRunner().invoke


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder with the configuration of each model of five layers, and nothing else."""
    saved = {}
    for family in FAMILIES:
        saved[family] = str(tmp_path_factory.mktemp(family))
        deep(family).model.config.save_pretrained(saved[family])
    return saved


def counted(call):
    with torch.no_grad(), probe.counted() as counter:
        call()
    return counter.get_total_flops()


class Silent:
    """A selector that does not tell its FLOPs."""

    def __call__(self, view, k):
        raise AssertionError("counting asks no selector to choose")


class Telling(Silent):
    """A selector that writes down what it is asked."""

    def __init__(self):
        self.asked = []

    def flops(self, sizes, k):
        self.asked.append((sizes, k))
        return 10


class Failing(Silent):
    def flops(self, sizes, k):
        return sizes.weight


# --- numbers of the field ---


def test_pyramiddrop_costs_what_fits_table_4():
    paper = plan_cost(LLAVA, [PAPERS]).rows()[1]
    assert f"{paper['paper'] / 1e12:.2f}" == "4.80"  # the paper has 4.89, with queries and keys computed twice
    assert paper["counts"] == [*[576] * 8, *[288] * 8, *[144] * 8, *[72] * 8] and paper["average"] == 270
    per_token = (cost(LLAVA, k=[64]).flops[0].linear) / (576 + 97)
    lengths = (673, 385, 241, 169)
    assert paper["linear"] == pytest.approx(per_token * sum(lengths) / 4)
    assert paper["total"] - paper["selector"] == sum(
        paper[name] for name in ("vision", "projector", "linear", "attention", "head")
    )


@pytest.mark.parametrize(("average", "k"), [(192, 166), (128, 98), (64, 30)])
def test_equal_averages_cost_about_the_same_inside_and_outside(average, k):
    _, fastv, divprune = plan_cost(LLAVA, ["fastv@2", "divprune"], average=[average]).rows()
    assert fastv["counts"] == [576, 576, *[k] * 30] and divprune["counts"] == [average] * 32
    assert abs(fastv["average"] - average) <= 0.5
    assert fastv["linear"] * (average + 97) == pytest.approx(divprune["linear"] * (fastv["average"] + 97))
    assert fastv["projector"] * average == divprune["projector"] * 576


def test_a_plan_inside_projects_all_that_the_tower_makes_padding_too():
    whole, fastv, divprune = plan_cost(NEXT, ["fastv@2", "divprune"], k=[320], image_size=(480, 640)).rows()
    assert whole["kept"] == 2304 and fastv["projector"] == whole["projector"] > 2304 * divprune["projector"] / 320


def test_a_plan_outside_costs_what_a_pruner_does_but_for_its_scorer():
    pruner = cost(NEXT, k=[320], ratio=[0.5]).rows()
    plans = plan_cost(NEXT, ["divprune"], k=[320], ratio=[0.5]).rows()
    for own, other in zip(plans, pruner, strict=True):
        same = set(other) - {"scorer", "scorer_share", "total", "paper_table_4", "measured"}
        assert {name: own[name] for name in same} == {name: other[name] for name in same}
        assert own["total"] - own["selector"] == other["total"] - other["scorer"]
    assert plans[0]["plan"] is None and plans[0]["selector"] == 0


# --- what torch counts ---


@pytest.mark.parametrize(
    "text", ["fastv@2:keep=0.5", "random@0,3:keep=0.5,1", "random@1:keep=0.75;pyramiddrop@2,4:k=1"]
)
@over(ATTENDING)
def test_a_language_model_that_drops_tokens_costs_what_torch_counts(folders, family, text):
    vlm = deep(family)
    sequence, last = read(vlm, [[0]])
    visual, newlines = int((sequence.slot >= 0).sum()), int((sequence.slot == -2).sum())
    words = sequence.slot.shape[1] - visual - newlines
    report = plan_cost(folders[family], [text], image_size=SIZES[0], text_tokens=words)
    counts, flops = report.plans[1].counts, report.plans[1].flops
    assert report.layout.tokens == visual and len(counts.layers) == LAYERS and counts.last < visual
    drops = [Drop(at, stage.selector, k) for (at, k), stage in zip(counts.inside, plan_of(text).inside, strict=True)]
    read_all = counted(lambda: pruned_logits(vlm, sequence, last, drops, noise_of(sequence)))
    assert read_all == flops.linear + flops.attention_full + flops.head_all + flops.scorer
    lengths = [n + newlines + words for n in counts.layers]
    pairs = sum(length * (length + 1) // 2 for length in lengths)
    assert flops.attention * sum(length**2 for length in lengths) == flops.attention_full * pairs


@pytest.mark.parametrize("name", OUTSIDE)
@over()
def test_a_selector_outside_costs_what_torch_counts(folders, family, name):
    vlm = deep(family)
    inputs = made(vlm, [[1]])
    images = Images.of(vlm, inputs, attention=True)
    n, words = images.prompt.counts[0][0], int((images.prompt.slot == -1).sum())
    row = plan_cost(folders[family], [name], k=[n // 2], image_size=SIZES[1], text_tokens=words).rows()[1]
    try:
        own = counted(lambda: images.chosen(registry.part("selector", name), lambda n: n // 2))
    except Unavailable:
        assert not_told(family, name)
        return
    assert own == row["selector"]


def test_selectors_are_asked_for_the_tokens_that_they_see():
    telling = Telling()
    plan = Plan((Stage(telling, None, 400), Stage(telling, 4, 0.5), Stage(telling, 16)))
    report = plan_cost(LLAVA, [plan], k=[64])
    assert [(sizes.n, k) for sizes, k in telling.asked] == [(576, 400), (400, 288), (288, 64)]
    sizes = telling.asked[0][0]
    assert (sizes.dim, sizes.width, sizes.tower_width, sizes.patches, sizes.text) == (1024, 4096, 1024, 577, 97)
    assert (sizes.tower_heads, sizes.prefix, sizes.pictures) == (16, 1, 1)
    assert sizes.projector == 2 * (1024 * 4096 + 4096 * 4096) and sizes.query_width == sizes.key_width == 4096
    assert report.plans[1].flops.scorer == 30
    with pytest.raises(GradprobeError, match=r"flops of .*Failing cannot be told: AttributeError"):
        plan_cost(LLAVA, [Failing()], k=[64])


def test_own_flops_that_are_not_told_are_not_made_up():
    plan = Plan((Stage(Telling(), None, 400), Stage(Silent(), 4)))
    report = plan_cost(LLAVA, [plan], k=[64])
    row = report.rows()[1]
    assert row["selector"] is None and row["selector_share"] is None and "Silent" in row["uncounted"][0]
    settings = {"model": LLAVA, "layout": {"size": (336, 336), "seen": (336, 336), "tiles": 1, "newlines": 0,
                "tokens": 576}, "text_tokens": 97, "scorer": None, "parameters": report.parameters}  # fmt: skip
    assert "do not tell their own FLOPs" in " ".join(cost_lines(settings, report.rows()))


# --- budgets ---


def test_there_is_a_row_for_each_plan_and_budget_and_one_for_a_budget_of_its_own():
    rows = plan_cost(LLAVA, ["divprune", PAPERS, "divprune"], k=[64], ratio=[0.5], average=[288, 100]).rows()
    assert [(row["plan"], row["kept"]) for row in rows] == [
        (None, 576), ("divprune", 288), ("divprune", 64), ("divprune", 100), (PAPERS, 72),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"select": []}, "no plan to count"),
        ({"select": "divprune"}, r"is one plan and a list of them is asked for; give \['divprune'\]"),
        ({"select": ["divprune"]}, "--k 64 or --average 64"),
        ({"select": ["divprune"], "k": [577]}, "--k 1 to --k 576"),
        ({"select": ["divprune"], "ratio": [2]}, "--ratio 2"),
        ({"select": ["divprune"], "average": [0]}, "--average 0"),
        ({"select": ["fastv@2"], "average": [30]}, "the least is 36.9375"),
        ({"select": ["fastv@32"], "k": [3]}, "layers 0 to 31"),
        ({"select": ["fastv@2"], "k": [3], "text_tokens": 0}, "--text-tokens 0"),
    ],
)
def test_what_cannot_be_asked_says_what_can(arguments, words):
    with pytest.raises(UsageError, match=words):
        plan_cost(LLAVA, **arguments)


# --- table, figure, command ---


@pytest.mark.parametrize(("model", "average"), [(LLAVA, 192), (NEXT, 1000)])
def test_the_table_fits_80_columns_and_says_the_tokens_of_each_layer(model, average):
    rows = plan_cost(model, ["fastv@2", PAPERS, "divprune:k=300;fastv@8:k=30"], average=[average]).rows()
    console = Console(width=80)
    with console.capture() as capture:
        console.print(cost_tables(rows))
    text = capture.get()
    assert "…" not in text and max(map(len, text.splitlines())) <= 80
    for words in ("x30", "pyramiddrop@8,16,24:", "keep=0.5,0.25,0.125", f"{rows[1]['total'] / 1e12:.3f}"[:4]):
        assert words in text
    assert "encoder" not in text


def test_the_bars_are_the_counts():
    rows = plan_cost(LLAVA, ["fastv@2", PAPERS], average=[192]).rows()
    (axes,) = vlm_cost_figure(rows, "a title").axes
    bars = {c.get_label(): [p.get_width() for p in c] for c in axes.containers if isinstance(c, BarContainer)}
    assert "selector" in bars and "scorer" not in bars
    np.testing.assert_allclose(np.sum(list(bars.values()), 0) * 1e12, [row["total"] for row in rows])
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names[0] == "all 576" and names[1] == "fastv@2\n191.6" and names[2].endswith("270.0")


def test_the_command_prints_draws_and_answers_in_json(tmp_path):
    figure = str(tmp_path / "f.png")
    result = run(app, ["--model", LLAVA, "--select", f"fastv@2,{PAPERS}", "--average", "192,64", "--figure", figure])
    text = " ".join(result.output.split())
    assert result.exit_code == 0, result.output
    for words in ("576 x2, 166 x30", "576 x2, 30 x30", "4.798", "Parameters: vision tower"):
        assert words in text
    assert "Trained" not in text and "scorer" not in text
    assert (tmp_path / "f.png").stat().st_size > 5000
    save_plan(plan_of("fastv"), tmp_path / "plan.json", model="llava", layers=32, tokens=576)
    arguments = [
        "--model",
        LLAVA,
        "--select",
        str(tmp_path / "plan.json"),
        "--select",
        "zoo:exact",
        "--k",
        "64",
        "--json",
    ]
    answer = json.loads(run(app, arguments).stdout)
    assert answer["settings"]["select"] == ["fastv@2", "zoo:exact"] and answer["settings"]["scorer"] is None
    assert [(row["plan"], row["average"], row["counts"][2]) for row in answer["rows"]] == [
        (None, 576, 576), ("fastv@2", 96, 64), ("zoo:exact", 64, 64),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--select", "fastv@2", "--k", "64", "--measure"],
            "--measure times the trained pruner only; leave --select out",
        ),
        (["--select", "fastv@2", "--k", "64", "--scorer", "mlp"], "--scorer mlp is of a trained pruner"),
        (["--select", "fastv@2", "--k", "64", "--denoiser", "none"], "--denoiser none is of a trained pruner"),
        (["--average", "64"], "--average 64 goes with --select"),
        (["--select", "fastv@2", "--average", "many"], "--average many is not possible; give numbers such as"),
        (["--select", "fastv@2,,norm", "--k", "3"], "has an empty plan"),
        (["--select", "fastw@2", "--k", "3"], "did you mean 'fastv'"),
    ],
)
def test_options_that_do_not_go_together_say_so(arguments, words):
    with pytest.raises(UsageError, match=words):
        run(app, ["--model", LLAVA, *arguments], catch_exceptions=False)


def test_a_plan_that_names_code_needs_trust(tmp_path):
    theirs = tmp_path / "theirs.py"
    theirs.write_text("class Theirs:\n    def __call__(self, view, k): ...\n")
    stage = {"selector": f"{theirs}:Theirs", "layer": None, "keep": 64}
    head = {"format": 1, "model": None, "layers": None, "tokens": None, "positions": "keep"}
    (tmp_path / "p.json").write_text(json.dumps(head | {"stages": [stage]}))
    arguments = ["--model", LLAVA, "--select", str(tmp_path / "p.json")]
    with pytest.raises(UsageError, match="--trust"):
        run(app, arguments, catch_exceptions=False)
    result = run(app, [*arguments, "--trust", str(theirs)], catch_exceptions=False)
    assert "Not counted" in result.output and result.exit_code == 0
