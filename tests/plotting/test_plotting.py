"""Figures and tables: what is drawn is what was measured, and the same results give the same bytes."""

import io
import xml.etree.ElementTree as ET

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.container import BarContainer, ErrorbarContainer
from stored import asked, result

from gradprobe.cli.screen import Screen
from gradprobe.errors import GradprobeError, UsageError
from gradprobe.plotting.columns import interval, names
from gradprobe.plotting.style import BLUE, ORANGE, check_path, look, save_figure
from gradprobe.probes.coherence.figure import coherence_bars, fig1c, operators
from gradprobe.probes.coherence.view import lines, setting, table

GUMBEL, SOFT, VPNOISE, HARD = "gumbel-ste+gather", "gumbel-ste:backward=soft+gather", "lapsum+vpnoise", "hard+gather"
PAPER = (
    {"model": "DeiT-T", "gumbel": 0.04, "diffprune": 0.19, "ratio": 4.4},
    {"model": "DeiT-B", "gumbel": 0.01, "diffprune": 0.36, "ratio": 28.4},
)


def measured(weak=0.4):
    """Rows as they come from stored results: a baseline, three operators compared with it, one without gradient."""
    base = result(asked(op=GUMBEL), signal=weak, seed=1)
    others = [
        result(asked(op=SOFT), signal=weak * 0.9, seed=2),
        result(asked(op=VPNOISE), signal=1.0, seed=3),
        result(asked(op=HARD), gradient="none"),
    ]
    return [base.row(), *(other.row(baseline=base) for other in others)]


ROWS = measured()


def texts(figure):
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text) if text.get_text()]


def interval_ends(axes, along):
    """Ends of all error bars of an axes, ``along`` 0 for x and 1 for y."""
    bars = [c for c in axes.containers if isinstance(c, ErrorbarContainer)]
    return [segment[:, along] for c in bars for line in c.lines[2] for segment in line.get_segments()]


# --- bars ---


def test_bars_are_the_rows_raw_and_centred():
    axes = coherence_bars(ROWS, "a title").axes[0]
    raw, centred = (c for c in axes.containers if isinstance(c, BarContainer))
    drawn = ROWS[:3]
    assert [p.get_width() for p in raw] == [row["coherence"] for row in drawn]
    assert [p.get_width() for p in centred] == [row["centred"] for row in drawn]
    expected = [(r[low], r[high]) for low, high in (("low", "high"), ("centred_low", "centred_high")) for r in drawn]
    np.testing.assert_allclose(interval_ends(axes, 0), expected, atol=1e-12)
    assert [label.get_text() for label in axes.get_yticklabels()] == [row["op"] for row in ROWS]
    assert axes.get_title(loc="left") == "a title"
    assert setting(ROWS) in axes.get_xlabel()
    assert any(set(line.get_xdata()) == {0} for line in axes.lines)  # the zero line
    assert axes.get_ylim() == (3.5, -0.5)  # first row on top


def test_no_gradient_is_written_not_drawn_as_zero():
    figure = coherence_bars(ROWS, "x")
    assert [t.strip() for t in texts(figure) if "gradient" in t and "gradient coherence" not in t] == ["no gradient"]
    assert "undefined" in " ".join(texts(coherence_bars([ROWS[0], ROWS[1] | {"coherence": None}], "x")))
    assert len(coherence_bars([ROWS[3]], "x").axes) == 1  # nothing but it


def test_one_batch_has_no_interval_but_a_bar():
    row = ROWS[0] | dict.fromkeys(("low", "high", "centred_low", "centred_high"))
    axes = coherence_bars([row], "x").axes[0]
    assert all(np.ptp(ends) == 0 for ends in interval_ends(axes, 0))


def test_axis_shows_every_interval_and_zero():
    for change in ({}, {"low": -0.7, "coherence": -0.5, "high": -0.3}, {"low": -40.0, "high": 40.0}):
        low, high = coherence_bars([ROWS[0] | change, ROWS[2]], "x").axes[0].get_xlim()
        assert low <= max(change.get("low", 0), -1) <= 0 < high <= 1.05
        assert high >= min(ROWS[2]["high"], 1)


# --- figure 1c ---


@pytest.mark.parametrize("count", [1, 2, 3])
def test_operators_draws_every_panel_on_one_axis(count):
    figure = operators([(f"panel {i}", ROWS) for i in range(count)], PAPER)
    assert len(figure.axes) == count
    assert len({axes.get_xlim() for axes in figure.axes}) == 1
    for i, axes in enumerate(figure.axes):
        raw, centred = (c for c in axes.containers if isinstance(c, BarContainer))
        assert [p.get_width() for p in raw] == [row["coherence"] for row in ROWS[:3]]
        assert [p.get_width() for p in centred] == [row["centred"] for row in ROWS[:3]]
        assert axes.get_title(loc="left") == f"panel {i}"


def test_fig1c_draws_paper_and_panels_on_one_axis():
    figure = fig1c([("scenes", ROWS), ("DeiT-Tiny", [ROWS[0], ROWS[2]])], PAPER)
    left, right = figure.axes
    assert left.get_ylim() == right.get_ylim()
    theirs = [[p.get_height() for p in c] for c in left.containers]
    assert theirs == [[0.04, 0.01], [0.19, 0.36]]
    shown = [*ROWS[:3], ROWS[0], ROWS[2]]
    ours = [c for c in right.containers if isinstance(c, BarContainer)]
    assert [c[0].get_height() for c in ours] == [row["coherence"] for row in shown]
    np.testing.assert_allclose(interval_ends(right, 1), [(row["low"], row["high"]) for row in shown], atol=1e-12)
    same = {matplotlib.colors.to_hex(c[0].get_facecolor()).upper() for c in ours if c.get_label() == VPNOISE}
    assert same == {BLUE}
    assert matplotlib.colors.to_hex(ours[0][0].get_facecolor()).upper() == ORANGE
    assert [tick.get_text() for tick in right.get_xticklabels()] == ["scenes", "DeiT-Tiny"]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == [GUMBEL, SOFT, VPNOISE, "Gumbel, paper", "DiffPrune, paper", "centred"]
    assert f" {HARD}: no gradient" in texts(figure)


def test_fig1c_names_the_models_of_each_size_where_they_differ():
    other = [row | {"batches": 24} for row in ROWS]
    one, two = (
        fig1c([("scenes\nMLP", ROWS), ("DeiT-T MLP", ROWS), ("ViT-S\nMLP", rows)], PAPER).axes[1].get_xlabel()
        for rows in (ROWS, other)
    )
    assert one.count("batches of") == 1 and "scenes" not in one
    assert two.count("batches of") == 2 and "scenes, DeiT-T: " in two and "\nViT-S: 24 batches" in two


def test_fig1c_prints_a_ratio_or_that_there_is_none():
    ratio = {"ratio": 6.14, "ratio_low": 4.0, "ratio_high": 9.0, "ratio_reason": None}
    none = {"ratio": None, "ratio_low": None, "ratio_high": None, "ratio_reason": "unbounded: it reaches 0"}
    less = ratio | {"ratio": 0.324}
    for fields, text in ((ratio, "6.1×"), (none, "unbounded"), (less, "0.32×")):
        figure = fig1c([("scenes", [ROWS[0], ROWS[2] | fields])], PAPER)
        over = [t for t in figure.axes[1].texts if t.get_text() == text]
        assert len(over) == 1
        assert over[0].xy[0] == 0.5  # the middle of the pair
        assert over[0].xy[1] >= ROWS[2]["high"]
    assert {"4.4×", "28.4×"} <= set(texts(figure))
    assert len(fig1c([("scenes", [ROWS[0]])], PAPER).axes[1].texts) == 0  # a baseline alone: no ratio


def test_fig1c_sets_training_steps_apart():
    rows = [row | {"steps": s} for s in (0, 50) for row in (ROWS[0], ROWS[2])]
    axes = fig1c([("scenes", rows)], PAPER).axes[1]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["scenes\n0 steps", "scenes\n50 steps"]


def test_labels_stay_inside_the_figure():
    rows = [row | {"steps": s} for s in (0, 50, 200) for row in ROWS]
    panel = ("scenes\nMLP", ROWS[:2])
    for figure in (
        coherence_bars(rows, "t"),
        coherence_bars(ROWS, "t"),
        fig1c([panel], PAPER),
        fig1c([("a", rows)], PAPER),
    ):
        with look():
            FigureCanvasAgg(figure).draw()
            box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
        assert -0.01 <= box.x0 <= box.x1 <= width + 0.01
        assert -0.01 <= box.y0 <= box.y1 <= height + 0.01


# --- files ---


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf", "PNG"])
def test_same_results_same_bytes_whatever_the_users_settings(tmp_path, suffix):
    first = save_figure(coherence_bars(ROWS, "t"), tmp_path / "deep" / f"a.{suffix}").read_bytes()
    with matplotlib.rc_context({"font.size": 20, "svg.hashsalt": "mine", "savefig.dpi": 30, "lines.linewidth": 9}):
        before = dict(matplotlib.rcParams)
        again = save_figure(coherence_bars(measured(), "t"), tmp_path / f"b.{suffix}").read_bytes()
        assert dict(matplotlib.rcParams) == before
    assert again == first
    other = save_figure(coherence_bars(measured(0.5), "t"), tmp_path / f"c.{suffix}").read_bytes()
    assert other != first


def test_fig1c_bytes_are_the_same_too(tmp_path):
    files = [save_figure(fig1c([("s", measured())], PAPER), tmp_path / f"{n}.svg").read_bytes() for n in "ab"]
    assert files[0] == files[1]


def test_text_in_svg_is_text_and_undated(tmp_path):
    tree = ET.parse(save_figure(fig1c([("scenes", ROWS)], PAPER), tmp_path / "a.svg"))
    words = ["".join(e.itertext()) for e in tree.iter("{http://www.w3.org/2000/svg}text")]
    assert {"gradient coherence C", VPNOISE, "28.4×"} <= set(words)
    assert b"date" not in (tmp_path / "a.svg").read_bytes().lower()


def test_files_that_cannot_be_drawn(tmp_path):
    figure = coherence_bars(ROWS, "t")
    for name in ("a.gif", "a", "a.tar.gz"):
        with pytest.raises(UsageError, match=r"use \.png, \.svg or \.pdf"):
            save_figure(figure, tmp_path / name)
        with pytest.raises(UsageError):
            check_path(name)
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    for path in (tmp_path / "file" / "a.png", tmp_path / "folder.png"):
        with pytest.raises(GradprobeError, match="cannot write") as error:
            save_figure(figure, path)
        assert len(str(error.value).splitlines()) == 1


# --- tables ---


def rendered(renderable, width):
    console = Screen(width=width, file=io.StringIO())
    console.print(renderable)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [80, 100])
def test_table_is_legible(width):
    text = rendered(table(ROWS), width)
    assert "…" not in text
    for row in ROWS[:3]:
        assert interval(row["coherence"], row["low"], row["high"]) in text
        assert interval(row["centred"], row["centred_low"], row["centred_high"]) in text
        assert f"{row['grad_norm']:.3g}" in text
    for heading in (
        "C [95 %]",
        "centred [95 %]",
        "common",
        "C_data",
        "C_op",
        "|g|",
        "m-coh",
        "noise",
        "batches",
        "draws",
    ):
        assert heading in text
    assert text.count("none") == 8
    assert all(len(line) <= width for line in text.splitlines())


def test_an_operator_in_square_brackets_is_not_markup():
    assert "my[red].py:Op" in rendered(table([ROWS[0] | {"op": "my[red].py:Op"}]), 100)


def test_ratio_lines_never_print_a_naked_ratio():
    none = {"ratio": None, "ratio_reason": "unbounded: the baseline's interval reaches 0"}
    none |= {"difference": 0.5, "difference_low": 0.4, "difference_high": 0.6}
    none |= {"centred_ratio": 7.0, "centred_ratio_low": 4.0, "centred_ratio_high": 12.0, "centred_ratio_reason": None}
    assert lines([ROWS[0], ROWS[2] | none], GUMBEL) == [
        "lapsum+vpnoise: ratio of C to gumbel-ste+gather unbounded (the baseline's interval reaches 0); "
        "C is 0.500 [0.400, 0.600] above it",
        "lapsum+vpnoise: centred C is 7.0 [4.0, 12.0] times that of gumbel-ste+gather",
    ]
    given = {"ratio": 6.1, "ratio_low": 4.4, "ratio_high": 8.5, "ratio_reason": None}
    assert lines([ROWS[2] | none | given], GUMBEL)[0] == (
        "lapsum+vpnoise: C is 6.1 [4.4, 8.5] times that of gumbel-ste+gather"
    )
    assert lines(ROWS[:1], GUMBEL) == []
    assert "undefined" in lines(ROWS, GUMBEL)[-1]  # without gradient
    assert "above" not in lines(ROWS, GUMBEL)[-1]


def test_steps_are_named_where_they_differ():
    assert names(ROWS[:2]) == [GUMBEL, SOFT]
    assert names([ROWS[0], ROWS[0] | {"steps": 50}]) == [f"{GUMBEL} @0", f"{GUMBEL} @50"]
