"""Table 5: rows and verdicts follow from answers alone, missing ones stay visible, and paper and ours stand apart."""

import io

import numpy as np
import pytest
from retentions import retained
from rich.console import Console

from gradprobe.comparison.ablation import variants, verdicts
from gradprobe.comparison.ablation_figure import ablation_figure, ablation_table, paper_budget
from gradprobe.comparison.experiments import load_experiment
from gradprobe.errors import UsageError
from gradprobe.plotting.style import save_figure

FULL, GUMBEL = "lapsum+vpnoise", "gumbel-ste+gather"
PAPER = (
    {"variant": "full", "op": FULL, "denoiser": "token", "k": [20, 10], "retention": [98, 95]},
    {"variant": "gumbel", "op": GUMBEL, "denoiser": "token", "k": [20, 10], "retention": [94, 87]},
    {"variant": "bare", "op": FULL, "denoiser": "none", "k": [20, 10]},
)


def answers(full, gumbel, bare=30, k=20):
    """Five seeds each, one image apart; right answers of 36."""
    found = []
    for seed in (1, 2, 3, 4, 5):
        found += [retained(full + seed % 2, op=FULL, denoiser="token", seed=seed, k=k)]
        found += [retained(gumbel + seed % 2, op=GUMBEL, denoiser="token", seed=seed, k=k)]
        found += [retained(bare, op=FULL, seed=seed, k=k)]
        found += [retained(9, op="ranked:random", seed=seed, k=k)]
    return found


def printed(table, width=110):
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    return console.file.getvalue()


def test_variants_come_in_the_presets_order_with_the_papers_numbers_beside_them():
    found = variants(answers(33, 25), PAPER)
    assert [v.name for v in found] == ["full", "gumbel", "bare", "by random, untrained"]
    full, gumbel, bare, ranked = (v.cells[20] for v in found)
    assert [full.paper, gumbel.paper, bare.paper, ranked.paper] == [0.98, 0.94, None, None]
    assert full.row["retention"] == pytest.approx(np.mean([34, 33, 34, 33, 34]) / 36) and full.row["difference"] is None
    assert gumbel.row["difference"] == pytest.approx(-8 / 36)
    assert 10 not in found[0].cells  # not answered: absent, not zero


@pytest.mark.parametrize(("full", "gumbel", "verdict"), [(33, 25, "reproduced"), (25, 33, "the other way round")])
def test_verdicts_say_whether_the_order_is_the_papers(full, gumbel, verdict):
    (line,) = verdicts(variants(answers(full, gumbel), PAPER))
    assert line.startswith("gumbel against full: K = 20:") and line.endswith(verdict) and "paper -4.0" in line


@pytest.mark.parametrize(("full", "gumbel"), [(33, 25), (25, 33)])
def test_where_the_paper_has_no_difference_ours_is_decided_and_no_order_is_reproduced(full, gumbel):
    alike = tuple({**row, "retention": [98.0] * len(row["retention"])} if "retention" in row else row for row in PAPER)
    (line,) = verdicts(variants(answers(full, gumbel), alike))
    assert line.endswith("points, paper 0.0: decided")


def test_a_difference_whose_interval_holds_zero_is_undecided():
    mixed = [r for r in answers(30, 30) if r.question["op"] != GUMBEL]
    mixed += [
        retained(n, op=GUMBEL, denoiser="token", seed=s) for s, n in ((1, 26), (2, 33), (3, 31), (4, 33), (5, 29))
    ]
    assert verdicts(variants(mixed, PAPER))[0].endswith("undecided")


def test_fewer_than_five_seeds_decide_nothing():
    few = [result for result in answers(33, 25) if result.question["seed"] <= 4]
    assert verdicts(variants(few, PAPER))[0].endswith("undecided (4 seeds)")


@pytest.mark.parametrize(
    ("gumbel", "paper", "said"),
    [
        ({"k": 10, "seed": 1}, PAPER, "K = 10: undecided (no answer to full)"),
        ({"seed": 2}, PAPER, "K = 20: undecided (no seed in common)"),
        ({"seed": 1, "right": 0, "unpruned": 0}, PAPER, "K = 20: undecided (a retention is undefined)"),
        ({"seed": 1}, ({**PAPER[0], "retention": []}, PAPER[1]), ""),
    ],
)
def test_a_table_that_is_not_whole_yet_has_verdicts(gumbel, paper, said):
    found = [retained(op=FULL, denoiser="token", seed=1), retained(op=GUMBEL, denoiser="token", **gumbel)]
    assert verdicts(variants(found, paper)) == ([f"gumbel against full: {said}"] if said else [])


def test_the_table_and_figure_show_all_of_it(tmp_path):
    found = variants(answers(33, 25) + answers(31, 20, k=10), PAPER)
    text = printed(ablation_table(found, 100))
    for wanted in ("full", "gumbel", "bare", "by random", "K = 20", "K = 10", "98.0", "87.0"):
        assert wanted in text
    figure = ablation_figure(found, 100, "toy")
    assert len(figure.axes) == 2 and [a.get_title(loc="left") for a in figure.axes] == [
        "K = 20 of 100", "K = 10 of 100"
    ]  # fmt: skip
    drawn = {line.get_label() for axes in figure.axes for line in axes.lines}
    assert {"mean of seeds", "no training", "paper, LLaVA-1.5-7B"} <= drawn
    small = {"a seed", "95 % interval, cut at the edge"}
    single = variants([retained(n, op=op, denoiser="token") for op, n in ((FULL, 33), (GUMBEL, 31))], PAPER)
    for each, named in ((figure, small), (ablation_figure(single, 100, "toy"), {"95 % interval, cut at the edge"})):
        assert small & {text.get_text() for text in each.legends[0].get_texts()} == named
    first, second = (save_figure(ablation_figure(found, 100, "toy"), tmp_path / f"{i}.png") for i in "ab")
    assert first.read_bytes() == second.read_bytes()


def test_nothing_to_compare_with_is_refused():
    with pytest.raises(UsageError, match="no answer to full"):
        variants([retained(op=GUMBEL, denoiser="token")], PAPER)
    with pytest.raises(UsageError, match="need variant"):
        variants(answers(33, 25), ({"variant": "full"},))


def test_budgets_of_the_same_share():
    assert [paper_budget(k, 100) for k in (33, 22, 11)] == ["192", "128", "64"]


def test_the_preset_asks_for_every_variant_at_every_budget():
    preset = load_experiment("experiments/table5_ablation.toml")
    asked = {(r.question["op"], r.question.get("denoiser", "none"), r.question["k"]) for r in preset.runs}
    for table in preset.paper:
        for k in table["k"]:
            assert (table["op"], table["denoiser"], k) in asked
    assert {r.question["task"] for r in preset.runs} == {"captioning"}
    assert len({r.question["seed"] for r in preset.runs}) >= 3
