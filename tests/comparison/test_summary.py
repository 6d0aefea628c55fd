"""The summary says what the probes say, compares in pairs, decides no more than intervals do, and is legible."""

import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from compared import MINE, OPS, PROBES, REFERENCE, answers, comparison, cost
from landscapes import GUMBEL, VPNOISE, landscape
from matplotlib.backends.backend_agg import FigureCanvasAgg
from retentions import retained
from stored import asked
from stored import result as coherence
from test_plotting_equivalence import result as equivalence
from test_plotting_fidelity import result as fidelity

from gradprobe.cli.screen import Screen
from gradprobe.comparison.comparison import Comparison, answers_of, metrics, rows, to_json
from gradprobe.comparison.comparison import count as count_of
from gradprobe.comparison.figures import figures_of
from gradprobe.comparison.leaderboard_figure import UNITS, leaderboard
from gradprobe.comparison.tables import (
    chance,
    difference,
    mark,
    measured,
    summary_lines,
    summary_markdown,
    summary_table,
    value,
)
from gradprobe.errors import GradprobeError, UsageError
from gradprobe.plotting.style import save_figure
from gradprobe.probes.retention.result import over_seeds
from gradprobe.store.results import key_of

METRICS = metrics()
BY_NAME = {metric.name: metric for metric in METRICS}

SHARP = "lapsum:tau=0.01+vpnoise"


@pytest.fixture(scope="module")
def full():
    return comparison()


@pytest.fixture(scope="module")
def table(full):
    return rows(full)


def cells(found, name):
    return {row["op"]: row["metrics"][name] for row in found if name in row["metrics"]}


def only(probe, results, ops=OPS, **changes):
    return Comparison("a test", tuple(ops), ops[0], {probe: results}, {}, **changes)


# --- rows ---


def test_a_row_an_operator_then_rankings_with_retention_alone(table):
    assert [row["op"] for row in table] == [*OPS, "ranked:random"]
    assert [(row["focus"], row["floor"]) for row in table] == [(True, False), *[(False, False)] * 2, (False, True)]
    assert all(list(row["metrics"]) == [metric.name for metric in METRICS] for row in table[:3])
    assert list(table[3]["metrics"]) == ["retention"]
    assert [row["gradient"] for row in table] == ["yes", "yes", "yes", None]


def test_the_numbers_are_those_of_the_probes_against_the_focus(full, table):
    focus, other = (answers(op, i) for i, op in ((0, MINE), (2, GUMBEL)))
    one = {probe: other[probe][0].row(baseline=focus[probe][0]) for probe in PROBES if probe != "retention"}
    kept = over_seeds(other["retention"], focus["retention"])
    sigma, step = one["fidelity"]["sigmas"][1], one["fidelity"]["ladder"][1]
    assert sigma["sigma"] == max(at["sigma"] for at in one["fidelity"]["sigmas"])
    hard = answers_of(full, "equivalence", REFERENCE)[0]
    gap = other["equivalence"][0].row(baseline=hard)
    expected = {
        "coherence": (one["coherence"], "coherence", "low", "difference_high"),
        "centred": (one["coherence"], "centred", "centred_low", "centred_difference_high"),
        "roughness": (one["landscape"], "d2_variation", "d2_low", "d2_ratio_high"),
        "fidelity": (sigma, "cosine", "cosine_low", "cosine_difference_high"),
        "descent": (step, "rate", "rate_low", "rate_difference_high"),
        "retention": (kept, "retention", "low", "difference_high"),
        "cost": (one["cost"], "training", "training_low", "ratio_high"),
    }
    for name, (row, *fields) in expected.items():
        found = cells(table, name)[GUMBEL]
        assert [found["value"], found["low"], found["difference_high"]] == [row[field] for field in fields], name
        assert None not in (found["value"], found["difference_high"]), name
    found = cells(table, "equivalence")[GUMBEL]
    assert (found["value"], found["high"]) == (gap["top1_difference"], gap["top1_difference_high"])
    assert found["verdict"] == gap["top1_verdict"]
    assert found["difference"] == one["equivalence"]["top1_difference"]


def test_exchanging_the_focus_turns_every_difference_round(table):
    other = rows(comparison(focus=GUMBEL))
    turned = {"higher": "lower", "lower": "higher", "undecided": "undecided"}
    for metric in METRICS:
        one, two = cells(table, metric.name)[GUMBEL], cells(other, metric.name)[MINE]
        back = (lambda x: 1 / x) if metric.ratio else (lambda x: -x)
        assert one["difference"] == pytest.approx(back(two["difference"]), rel=1e-6, abs=1e-9), metric.name
        assert one["difference_low"] == pytest.approx(back(two["difference_high"]), rel=1e-6, abs=1e-6), metric.name
        if metric.name != "equivalence":
            assert one["verdict"] == turned[two["verdict"]], metric.name


def test_a_verdict_is_what_the_interval_excludes(table):
    seen = set()
    for metric in METRICS:
        equal = 1 if metric.ratio else 0
        for op, cell in cells(table, metric.name).items():
            low, high = cell["difference_low"], cell["difference_high"]
            if op == MINE:
                assert cell["difference"] is low is high is None
                assert cell["verdict"] is None or metric.name == "equivalence"
            elif metric.name != "equivalence":
                expected = "higher" if low > equal else "lower" if high < equal else "undecided"
                assert cell["verdict"] == expected, (metric.name, op)
                seen.add(expected)
    assert seen == {"higher", "lower", "undecided"}


def test_a_training_is_not_decided_by_fewer_than_five_seeds():
    far = {MINE: 34, VPNOISE: 6}
    for count, marked in ((1, "· (1 seed)"), (4, "· (4 seeds)"), (5, "▼")):
        results = [retained(right + s % 2, op=op, seed=s) for op, right in far.items() for s in range(count)]
        found = rows(only("retention", results, (MINE, VPNOISE)))
        cell = cells(found, "retention")[VPNOISE]
        assert (mark(BY_NAME["retention"], cell), cell["seeds"]) == (marked, count)
        counted = count_of(found)
        assert (counted.compared, counted.decided, counted.few) == ((1, 1, 0) if count == 5 else (0, 0, 1))
    trained = [coherence(asked(op=MINE, steps=50)), coherence(asked(op=VPNOISE, steps=50), seed=1)]
    cell = cells(rows(only("coherence", trained, (MINE, VPNOISE))), "coherence")[VPNOISE]
    assert (cell["verdict"], cell["seeds"]) == ("undecided", 1)


def test_seeds_of_the_start_are_pooled_in_pairs_and_five_decide():
    def answered(op, signal, seeds):
        return [coherence(asked(op=op, seed=seed), signal=signal, seed=seed) for seed in seeds]

    for count, marked in ((1, "▼"), (2, "· (2 seeds)"), (5, "▼")):  # one fresh scorer is decided over its batches
        seeds = range(1, count + 1)
        pair = only("coherence", answered(MINE, 3.0, seeds) + answered(VPNOISE, 0.1, seeds), (MINE, VPNOISE))
        focus, cell = (cells(rows(pair), "coherence")[op] for op in (MINE, VPNOISE))
        assert mark(BY_NAME["coherence"], cell) == marked
        assert mark(BY_NAME["coherence"], focus) == ("(2 seeds)" if count == 2 else "")
        assert ("by 5 seeds" in "".join(summary_lines(pair))) == (count == 5)
        if count > 1:
            assert cell["by_seed"] == [each.row()["coherence"] for each in answered(VPNOISE, 0.1, seeds)]
    two = value(next(m for m in METRICS if m.name == "coherence"), {**cell, "low": None, "by_seed": [0.5, None]})
    assert two.endswith("(0.50, –)")
    apart = only("coherence", answered(MINE, 3.0, (1, 2)) + answered(VPNOISE, 0.1, (3, 4)), (MINE, VPNOISE))
    assert cells(rows(apart), "coherence")[VPNOISE]["verdict"] is None  # no seed in common


def test_no_interval_decides_nothing():
    pair = [landscape(op=MINE, rows=1), landscape(lambda a, b: 0 * a * b, op=VPNOISE, rows=1)]
    pair[1].losses[:] = pair[1].losses[:, :1]  # never changes: its ratio is 0, and a logarithm has no interval there
    found = cells(rows(only("landscape", pair, (MINE, VPNOISE))), "roughness")[VPNOISE]
    assert (found["difference"], found["difference_low"], found["verdict"]) == (0, None, "undecided")


def test_absent_numbers_have_a_reason():
    ops = (MINE, "hard+gather")
    results = {
        "coherence": [coherence(asked(op=MINE)), coherence(asked(op="hard+gather"), gradient="none")],
        "fidelity": [fidelity(MINE), fidelity("hard+gather", gradient=False)],
        "equivalence": [equivalence(MINE, seed=1), equivalence("hard+gather")],
        "cost": [cost(MINE), cost("hard+gather", gradient="none")],
    }
    mine, hard = rows(Comparison("a test", ops, MINE, results, {}))
    assert (mine["gradient"], hard["gradient"]) == ("yes", "none")
    for name in ("coherence", "centred", "fidelity", "descent", "cost"):
        assert (hard["metrics"][name]["value"], hard["metrics"][name]["reason"]) == (None, "no gradient"), name
        assert hard["metrics"][name]["verdict"] is None, name
        assert mine["metrics"][name]["reason"] is None, name
    assert hard["metrics"]["equivalence"]["reason"] == "the reference"
    assert hard["metrics"]["retention"]["reason"] == "not measured"
    (alone,) = rows(only("equivalence", [equivalence(MINE)], (MINE,)))
    assert alone["metrics"]["equivalence"]["reason"] == "no hard+gather on the same images"
    lost = fidelity(VPNOISE)
    lost.aa[:, 0] *= -1
    (noisy,) = rows(only("fidelity", [lost], (VPNOISE,)))
    assert "not told from noise" in noisy["metrics"]["fidelity"]["reason"]


def test_an_operator_may_go_by_another_tau_unless_two_differ_in_it():
    results = [equivalence(SHARP, seed=1), equivalence(REFERENCE)]
    found = rows(only("equivalence", results, (VPNOISE, GUMBEL)))
    assert [row["metrics"]["equivalence"]["value"] is None for row in found] == [False, True]
    found = rows(only("equivalence", results, (VPNOISE, "lapsum:tau=0.3+vpnoise")))
    assert [row["metrics"]["equivalence"]["value"] for row in found] == [None, None]
    found = rows(only("equivalence", [*results, equivalence(VPNOISE, right=0.1)], (VPNOISE,)))
    assert found[0]["metrics"]["equivalence"]["value"] < -0.3  # its own name goes first


def test_seeds_are_paired_and_other_questions_are_not_compared():
    ours, theirs = ([retained(20 + seed, op=op, seed=seed) for seed in seeds]
                    for op, seeds in ((MINE, (1, 2, 3)), (VPNOISE, (2, 3, 4))))  # fmt: skip
    found = cells(rows(only("retention", ours + theirs, (MINE, VPNOISE))), "retention")[VPNOISE]
    assert found["difference"] == over_seeds(theirs, ours)["difference"] == 0
    pair = [coherence(asked(op=MINE)), coherence(asked(op=VPNOISE, batches=5))]
    found = cells(rows(only("coherence", pair, (MINE, VPNOISE))), "coherence")[VPNOISE]
    assert found["value"] is not None
    assert found["difference"] is found["verdict"] is None
    pair = [equivalence(MINE, right=0.2), equivalence(REFERENCE, k=98), equivalence(REFERENCE, seed=1)]
    assert cells(rows(only("equivalence", pair, (MINE,))), "equivalence")[MINE]["value"] < -0.2  # that of its own K


def test_what_no_comparison_can_be_made_of():
    with pytest.raises(UsageError, match="needs it among its operators"):
        Comparison("a test", OPS, "other", {}, {})
    with pytest.raises(UsageError, match="each once"):
        Comparison("a test", (MINE, MINE), MINE, {}, {})
    with pytest.raises(UsageError, match="did you mean 'coherence'"):
        Comparison("a test", OPS, MINE, {"coherense": []}, {})
    twice = [cost(MINE), cost(MINE)]
    with pytest.raises(GradprobeError, match=f"2 answers of cost .*{key_of(twice[1].question)}"):
        rows(only("cost", twice, (MINE,)))
    with pytest.raises(GradprobeError, match="a seed in common"):
        rows(only("coherence", [coherence(asked(op=MINE))] * 2, (MINE,)))
    with pytest.raises(GradprobeError, match="more than their seeds"):
        rows(only("retention", [retained(op=MINE), retained(op=MINE, k=5)], (MINE,)))


def test_json_is_the_rows_with_keys_and_the_number_of_comparisons(full, table):
    told = json.loads(json.dumps(to_json(full), allow_nan=False))
    assert told["rows"] == table
    assert [metric["name"] for metric in told["metrics"]] == [metric.name for metric in METRICS]
    every = [(probe, result) for probe, results in full.results.items() for result in results]
    assert [a["key"] for a in told["answers"]] == [key_of(result.question) for _, result in every]
    verdicts = [c["verdict"] for row in table for n, c in row["metrics"].items() if n != "equivalence"]
    compared = [verdict for verdict in verdicts if verdict]
    assert told["comparisons"]["compared"] == len(compared) == 2 * 7 + 1
    assert told["comparisons"]["decided"] == sum(v != "undecided" for v in compared) == count_of(table).decided
    assert told["comparisons"]["by_chance"] == pytest.approx(len(compared) * 0.05)
    assert told["versions"] == {"numpy": "2.0"}


# --- tables ---


def printed(renderable, width=80):
    console = Screen(file=io.StringIO(), width=width)
    console.print(renderable)
    return console.file.getvalue()


def squeezed(text):
    return re.sub(r"\s+", "", text)


def test_the_table_is_legible_at_80_columns_and_holds_every_number(full, table):
    text = printed(summary_table(full))
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
    for row in table:
        for metric in METRICS:
            if metric.name in row["metrics"]:
                number, _, ends = value(metric, row["metrics"][metric.name]).partition(" ")
                sign = mark(metric, row["metrics"][metric.name])
                assert re.search(rf"{re.escape(number)} {re.escape(sign)}", text)
                assert ends in text
    assert "by random" in text
    assert squeezed("by random") not in squeezed(text.partition("retention")[0])  # only where it has a number


def test_names_are_text_and_not_markup():
    text = printed(summary_table(comparison(("[red]x[/red].py:Op", GUMBEL))))
    assert "[red]x[/red]" in squeezed(text)


def test_lines_explain_marks_metrics_chance_and_what_is_missing(full, table):
    lines = summary_lines(replace(full, missing=("cost of x: no time left",)))
    assert lines[-1] == "missing: cost of x: no time left"
    for metric in METRICS:
        counted = "; compared by 5 seeds" if metric.name == "retention" else ""
        assert f"{metric.heading}: {metric.meaning}{counted}" in lines
    assert chance(table, MINE) in lines
    assert f"15 comparisons with {MINE}, {count_of(table).decided} decided" in chance(table, MINE)
    assert "about 0.75 would" in chance(table, MINE)


def test_headings_say_which_way_is_better_in_every_table(full):
    for text in (printed(summary_table(full)), summary_markdown(full)):
        for metric in METRICS:
            arrow = {"higher": " ↑", "lower": " ↓", None: ""}[metric.better]
            assert f"{metric.heading}{arrow}" in text, metric.name
    assert "↑ higher is better, ↓ lower is better" in summary_lines(full)


def test_marks_are_better_and_worse_whichever_way_the_numbers_go(table):
    for metric in METRICS:
        for op, cell in cells(table, metric.name).items():
            if op == MINE or metric.better is None:
                continue
            low, high = cell["difference_low"], cell["difference_high"]
            equal = 1 if metric.ratio else 0
            good = low > equal if metric.better == "higher" else high < equal
            bad = high < equal if metric.better == "higher" else low > equal
            assert mark(metric, cell) in ("▲" if good else "▼" if bad else "·="), (metric.name, op)
    assert mark(BY_NAME["cost"], cells(table, "cost")[GUMBEL]) == "▼"  # it costs more


def test_differences_have_signs_and_ratios_say_so(table):
    by_name = {metric.name: metric for metric in METRICS}
    assert difference(by_name["cost"], cells(table, "cost")[GUMBEL]).startswith("× ")
    assert difference(by_name["retention"], cells(table, "retention")[GUMBEL]).startswith("-")
    assert difference(by_name["retention"], cells(rows(comparison(focus=GUMBEL)), "retention")[MINE]).startswith("+")
    assert difference(by_name["cost"], cells(table, "cost")[MINE]) == "–"


def test_markdown_has_all_numbers(full, table):
    long = summary_markdown(full)
    grid = [line for line in long.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in grid} == {len(METRICS) + 3}  # the spread beside the metrics
    assert len(grid) == 2 + len(table)
    assert all(value(m, row["metrics"][m.name]) in long for row in table[:3] for m in METRICS)
    assert f"**`{MINE}`**" in long
    assert "a\\|b.py:Op" in summary_markdown(comparison(("a|b.py:Op",)))


# --- figures ---


def test_the_leaderboard_shows_every_number_best_retention_on_top(full, table):
    figure = leaderboard([full])
    FigureCanvasAgg(figure)
    first = figure.axes[0]
    names = [label.get_text() for label in first.get_yticklabels()]
    assert names == [*sorted(OPS, key=lambda op: -cells(table, "retention")[op]["value"]), "by random"]
    assert [label.get_fontweight() for label in first.get_yticklabels()].count("bold") == 1
    for axes, metric in zip(figure.axes, METRICS, strict=True):
        assert axes.get_title(loc="left") == metric.heading + {"higher": " ↑", "lower": " ↓", None: ""}[metric.better]
        assert [text.get_text() for text in axes.texts if text.get_text() == UNITS[metric.name]]
        dots = {line.get_ydata()[0]: line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o"}
        shown = [names.index("by random" if op.startswith("ranked") else op) for op in cells(table, metric.name)]
        assert dots == dict(zip(shown, (c["value"] for c in cells(table, metric.name).values()), strict=True))
        low, high = axes.get_xlim()
        assert low < min(dots.values()) <= max(dots.values()) < high
    hollow = [line for axes in figure.axes for line in axes.lines if line.get_markerfacecolor() == "white"]
    told = [c["verdict"] for m in METRICS for op, c in cells(table, m.name).items() if op != MINE]
    assert len(hollow) == told.count("undecided")


def test_the_leaderboard_says_none_and_refuses_nothing(tmp_path):
    none = Comparison("a test", (MINE, REFERENCE), MINE, {"cost": [cost(MINE), cost(REFERENCE, gradient="none")]}, {})
    texts = [text.get_text() for text in leaderboard([none]).axes[0].texts]
    assert texts == ["none", UNITS["cost"]]
    with pytest.raises(UsageError, match="at least one"):
        leaderboard([Comparison("a test", (MINE,), MINE, {}, {})])
    one, two = (save_figure(leaderboard([none]), tmp_path / name).read_bytes() for name in ("a.svg", "b.svg"))
    assert one == two


def test_figures_share_no_names_and_refer_to_their_own():
    found = figures_of(comparison((MINE, "<b>&.py:Op")))
    assert list(found) == list(PROBES)
    names = [re.findall(r'\sid="([^"]+)"', text) for text in found.values()]
    every = [name for each in names for name in each]
    assert len(every) == len(set(every)) > 100
    for own, text in zip(names, found.values(), strict=True):
        referred = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', text))
        assert {a or b for a, b in referred} <= set(own)
        assert text.startswith("<svg") and text.endswith("</svg>")
        assert "<style" not in text and "<b>" not in text and "://" not in re.sub(r'xmlns[^=]*="[^"]*"', "", text)
    assert figures_of(Comparison("a test", (MINE,), MINE, {"cost": []}, {})) == {}


def test_only_what_was_measured_has_a_column():
    found = rows(comparison(probes=("coherence", "cost")))
    assert [metric.name for metric in measured(found)] == ["coherence", "centred", "cost"]
    assert np.all([row["metrics"]["retention"]["reason"] == "not measured" for row in found])
