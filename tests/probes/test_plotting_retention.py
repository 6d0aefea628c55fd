"""The table and figure of retention: what is shown is what was measured, legibly, and says how sure it is."""

import io
from dataclasses import replace

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_hex
from retentions import GUMBEL, VPNOISE, panel, retained
from rich.console import Console

from gradprobe.errors import GradprobeError, UsageError
from gradprobe.plotting.columns import name_of
from gradprobe.plotting.style import BLUE, GREY, ORANGE, save_figure
from gradprobe.probes.retention.figure import figure, retention_figure
from gradprobe.probes.retention.result import over_seeds, seed_groups
from gradprobe.probes.retention.view import kind_lines, lines, meaning, table

RESULTS = panel()


def rows_of(results, baseline=GUMBEL):
    groups = seed_groups(results)
    bases = {g[0].question["k"]: g for g in groups if g[0].question["op"] == baseline}
    others = [bases.get(g[0].question["k"]) for g in groups]
    return [over_seeds(g, None if other is g else other) for g, other in zip(groups, others, strict=True)]


ROWS = rows_of(RESULTS)


def printed(shown, width=80):
    console = Console(file=io.StringIO(), width=width)
    console.print(shown)
    return console.file.getvalue()


# --- kinds of questions ---


def with_kinds(result, kinds):
    return replace(result, kind=np.arange(40).astype(np.uint8) % kinds)


def test_retention_over_kinds_is_the_mean_of_their_ratios():
    # Images 0..29 are right with K tokens, 0..35 with all; of kind 0 (20 images) 18 of 20, of kind 1 12 of 16.
    result = with_kinds(retained(right=30, unpruned=36), 1)
    kind = np.array([0] * 18 + [1] * 12 + [0] * 2 + [1] * 4 + [1] * 4, np.uint8)
    row = over_seeds([replace(result, kind=kind)])
    assert row["by_kind"] == [[pytest.approx(18 / 20), pytest.approx(12 / 16)]]
    assert row["retention"] == pytest.approx((18 / 20 + 12 / 16) / 2)
    assert row["low"] < row["retention"] < row["high"]
    assert over_seeds([result])["retention"] == pytest.approx(30 / 36)  # one kind is no kinds
    plain = over_seeds([retained(right=30, unpruned=36)])
    assert plain["by_kind"] is None and plain["retention"] == pytest.approx(30 / 36)


def test_kinds_are_told_by_name():
    rows = [over_seeds([with_kinds(retained(seed=s), 2) for s in (0, 1)]), over_seeds([retained()])]
    (line,) = kind_lines(rows, ("relations", "choice"))
    assert line == f"{VPNOISE} at K = 20: relations 0.83, choice 0.83"


def test_operators_behind_different_denoisers_have_different_names_and_groups():
    results = [retained(denoiser=d, seed=s) for d in ("token", "global") for s in (0, 1)] + [retained()]
    groups = seed_groups(results)
    assert [len(g) for g in groups] == [2, 2, 1]
    names = [name_of(over_seeds(g)) for g in groups]
    assert names == [f"{VPNOISE} (token denoiser)", f"{VPNOISE} (global denoiser)", VPNOISE]


def test_kinds_have_one_number_an_image():
    with pytest.raises(GradprobeError, match="kind"):
        replace(retained(), kind=np.zeros(3, np.uint8))


# --- table ---


def test_the_table_is_legible_at_80_columns_and_has_every_number():
    long = retained(20, op="gumbel-ste:backward=soft,scale=2+gather", k=5, seed=1, seconds=1234.0)
    text = printed(table([row | {"tokens": 196} for row in (*ROWS, long.row())]))
    assert max(map(len, text.splitlines())) <= 80 and "…" not in text
    lines = [line for line in text.splitlines() if line.strip()]
    assert [line.split()[0] for line in lines if line.lstrip().startswith(("K =", "gumbel-ste+", "lapsum", "by"))] == (
        ["K", "gumbel-ste+gather", "lapsum+vpnoise", "by", "by"] * 2
    )
    assert "K = 5 of 196" in text and "K = 20 of 196" in text and "1234" in text
    vpnoise = next(line for line in lines if line.split()[0] == VPNOISE)
    assert "0.611 0.639" in vpnoise  # 22 and 23 of 36
    assert " 0.62 " in vpnoise and "[" not in vpnoise and "0.90" in vpnoise  # two seeds: no interval
    assert printed(table(ROWS)).count("of 196") == 0


def test_five_seeds_still_fit():
    text = printed(table([over_seeds([retained(25 + s, seed=s) for s in range(5)])]))
    assert max(map(len, text.splitlines())) <= 80
    assert all(f"{(25 + s) / 36:.3f}" in text for s in range(5))


def test_sentences_compare_operators_and_leave_the_rankings():
    sentences = lines(ROWS, GUMBEL)
    assert [line.split(":")[0] for line in sentences] == [f"{VPNOISE} at K = 5", f"{VPNOISE} at K = 20"]
    assert "retention 0.625 against 0.292 of gumbel-ste+gather, difference 0.33: undecided" in sentences[0]


@pytest.mark.parametrize(
    ("ours", "base", "words"),
    [
        ((33, 34, 33, 32, 33), (20, 21, 21, 20, 22), "more, over 5 seeds"),
        ((20, 21, 21, 20, 22), (33, 34, 33, 32, 33), "less, over 5 seeds"),
        ((20, 30, 21, 20, 20), (19, 34, 18, 21, 20), "undecided, 5 seeds"),
        ((33, 34, 33), (20, 21, 21), "undecided, 3 seeds (5 decide)"),
        ((33,), (10,), "undecided, 1 seed (5 decide)"),
    ],
)
def test_a_verdict_needs_five_seeds_and_an_interval_that_leaves_zero_out(ours, base, words):
    results, others = ([retained(n, seed=i) for i, n in enumerate(each)] for each in (ours, base))
    (line,) = lines([over_seeds(results, others)], GUMBEL)
    assert line.endswith(words)


def test_a_baseline_of_other_seeds_is_not_set_beside_the_mean_of_all():
    row = over_seeds([retained(n, seed=i) for i, n in enumerate((30, 20, 20))], [retained(28, op=GUMBEL)])
    (line,) = lines([row], GUMBEL)
    assert f"retention 0.648 over 3 seeds, difference from {GUMBEL} with the same seeds 0.06" in line
    assert "against" not in line and line.endswith("undecided, 1 seed (5 decide)")


def test_one_common_seed_of_several_has_no_interval_but_that_of_its_images():
    row = over_seeds([retained(30, seed=1), retained(31, seed=2)], [retained(20, seed=2)])
    assert row["difference"] == pytest.approx(11 / 36) and row["difference_low"] is not None


def test_what_the_intervals_are_of_is_said():
    one, two, five = ([retained(seed=s) for s in range(n)] for n in (1, 2, 5))
    assert "say nothing about another training" in meaning([over_seeds(one)])
    assert "no interval over trainings from fewer than 5" in meaning([over_seeds(two)])
    assert "over 5 seeds" in meaning([over_seeds(five)]) and "nested" in meaning([over_seeds(five)])


def test_undefined_is_a_dash():
    text = printed(table([retained(0, 0, auc=None).row()]))
    assert text.splitlines()[4].split()[:4] == [VPNOISE, "–", "–", "–"]
    assert name_of({"op": "ranked:norm"}) == "by norm"


# --- figure ---


def lines_of(axes, label):
    (line,) = (line for line in axes.lines if line.get_label() == label)
    return line


def test_marks_are_means_at_each_k_dots_are_seeds_and_rankings_are_grey_and_dashed():
    figure = retention_figure([("scenes", RESULTS)])
    over, curves = figure.axes
    for op, colour in ((GUMBEL, ORANGE), (VPNOISE, BLUE)):
        marks = lines_of(over, op)
        rows = [row for row in ROWS if row["op"] == op]
        assert list(marks.get_ydata()) == [row["retention"] for row in rows]
        assert np.round(marks.get_xdata()).tolist() == [0, 1] and to_hex(marks.get_color()).upper() == colour
        assert marks.get_linestyle() == "None"  # nothing between the K was measured
        dots = [d for d in over.lines if d.get_marker() == "." and to_hex(d.get_color()).upper() == colour]
        assert [list(d.get_ydata()) for d in dots] == [row["by_seed"] for row in rows]
    assert lines_of(over, GUMBEL).get_xdata()[0] < lines_of(over, VPNOISE).get_xdata()[0]  # not on top of each other
    for ranking in ("random", "truth"):
        drawn = [line for line in over.lines if line.get_label() == f"by {ranking}"]
        expected = [row["retention"] for row in ROWS if row["op"] == f"ranked:{ranking}"]
        assert [list(line.get_ydata()) for line in drawn] == [[value] * 2 for value in expected]
        assert [np.mean(line.get_xdata()) for line in drawn] == [0, 1] and all(np.ptp(d.get_xdata()) < 1 for d in drawn)
        assert all(to_hex(line.get_color()).upper() == GREY and line.is_dashed() for line in drawn)
    assert [t.get_text() for t in over.get_xticklabels()] == ["5", "20"] and over.get_title(loc="left") == "scenes"
    assert "K = 5" in curves.get_xlabel()
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == [GUMBEL, VPNOISE, "by random", "by truth", "all N tokens"]


def test_an_operator_that_was_not_asked_at_a_k_has_no_mark_there():
    some = [r for r in RESULTS if not (r.question["op"] == VPNOISE and r.question["k"] == 5)]
    over, _ = retention_figure([("scenes", some)]).axes
    assert np.round(lines_of(over, VPNOISE).get_xdata()).tolist() == [1]


def test_five_seeds_have_an_interval():
    five = [retained(25 + s, seed=s) for s in range(5)]
    over, _ = retention_figure([("scenes", five)]).axes
    row = over_seeds(five)
    assert any(list(line.get_ydata()) == [row["low"], row["high"]] for line in over.lines)


def test_curves_are_those_of_the_k_where_operators_differ_most_and_their_mean():
    _, curves = retention_figure([("scenes", RESULTS)]).axes
    drawn = [line for line in curves.lines if len(line.get_xdata()) == 3]
    for op, colour in ((GUMBEL, ORANGE), (VPNOISE, BLUE)):
        each = [r.curve.mean(1) for r in RESULTS if r.question["op"] == op and r.question["k"] == 5]
        own = [line.get_ydata() for line in drawn if to_hex(line.get_color()).upper() == colour]
        np.testing.assert_allclose(own, [*each, np.mean(each, 0)])
    assert len(drawn) == 6 and list(drawn[0].get_xdata()) == [0, 5, 10]
    alike = [retained(30, op=op, k=5) for op in (GUMBEL, VPNOISE)]
    apart = [retained(right, op=op, k=20) for op, right in ((GUMBEL, 10), (VPNOISE, 30))]
    _, curves = retention_figure([("scenes", [*alike, *apart])]).axes
    assert curves.get_xlabel() == "training steps, K = 20; thin: each seed"


def test_a_panel_a_model_and_one_colour_an_operator():
    other = [retained(12, op=op, k=k, backbone="deit") for op in ("lapsum+scale", VPNOISE) for k in (3, 58)]
    figure = retention_figure([("scenes", RESULTS), ("DeiT", other)])
    assert [a.get_title(loc="left") for a in figure.axes[::2]] == ["scenes", "DeiT"] and len(figure.axes) == 4
    assert lines_of(figure.axes[0], VPNOISE).get_color() == lines_of(figure.axes[2], VPNOISE).get_color()
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend.count(VPNOISE) == 1 and "lapsum+scale" in legend


def test_rankings_alone_leave_no_empty_panel():
    ranked = [retained(op="ranked:norm")]
    figure = retention_figure([("scenes", RESULTS), ("rankings", ranked)])
    assert [axes.get_ylabel() for axes in figure.axes] == ["retention", "accuracy, hard top-K", ""]
    assert all(axes.axison for axes in figure.axes)


def test_the_figure_of_a_command_names_operators_as_its_rows_do():
    recipes = [retained(steps=steps, k=k) for steps in (5, 10) for k in (5, 20)]
    rows = [row | {"op": f"{row['op']} (steps = {row['steps']})"} for row in rows_of(recipes)]
    drawn = figure(recipes, rows, "scenes, two recipes")
    assert drawn.axes[0].get_title(loc="left") == "scenes, two recipes"
    legend = [text.get_text() for text in drawn.legends[0].get_texts()]
    assert legend == [f"{VPNOISE} (steps = 5)", f"{VPNOISE} (steps = 10)", "all N tokens"]
    marks = [lines_of(drawn.axes[0], label) for label in legend[:2]]
    assert [np.round(each.get_xdata()).tolist() for each in marks] == [[0, 1]] * 2
    assert marks[0].get_color() != marks[1].get_color()


@pytest.mark.parametrize("results", [[retained()], [retained(op="ranked:norm")], [retained(0, 0)]])
def test_little_can_be_drawn_too(results, tmp_path):
    path = save_figure(retention_figure([("x", results)]), tmp_path / "f.png")
    assert path.stat().st_size > 5000


def test_nothing_cannot_be_drawn():
    for panels in ([], [("x", [])]):
        with pytest.raises(UsageError, match="no retention to draw"):
            retention_figure(panels)


def test_the_same_results_give_the_same_bytes_and_leave_the_users_style(tmp_path):
    before = dict(matplotlib.rcParams)
    for suffix in (".png", ".svg"):
        one, other = (
            save_figure(retention_figure([("a", RESULTS)]), tmp_path / f"{i}{suffix}").read_bytes() for i in range(2)
        )
        assert one == other
    assert dict(matplotlib.rcParams) == before
