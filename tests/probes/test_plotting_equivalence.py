"""Tables, sentences and figures of equivalence: what is drawn and said is what was measured."""

import io

import numpy as np
import pytest
from matplotlib.container import ErrorbarContainer
from rich.console import Console

from gradprobe.errors import GradprobeError
from gradprobe.operators.temperature import family
from gradprobe.plotting.style import save_figure
from gradprobe.probes.equivalence.figure import equivalence_chart, fig4, pooled_rows
from gradprobe.probes.equivalence.patches import patch_rows
from gradprobe.probes.equivalence.result import EquivalenceResult
from gradprobe.probes.equivalence.view import in_words, lines, table

HARD, NOISE = "hard+gather", "lapsum:tau=0.01+vpnoise"


def result(op=HARD, k=49, right=0.6, tau=None, data="a", images=300, first=0, seed=0):
    """Ranks of which about a share ``right`` is 0, mostly the same images for every operator."""
    easy = np.random.default_rng(first).uniform(size=images)
    shaken = easy + 0.03 * np.random.default_rng(seed).normal(size=images)
    ranks = np.select([shaken < right, shaken < right + 0.2], [0, 3], 40).astype(np.int32)
    question = {"probe": "equivalence", "op": op, "k": k, "images": images, "seed": 0, "data": data}
    ids = np.arange(first, first + images, dtype=np.int64)
    return EquivalenceResult(question, ranks, ranks / 2, ids, 196, tau, {})


def sharp(**fields):
    """The baseline and two operators at three K, and the baseline with nothing pruned."""
    found = [
        result(op, k, right, tau, seed=i, **fields)
        for i, (op, shift, tau) in enumerate([(HARD, 0, None), ("hard+zero", -0.02, None), (NOISE, -0.08, 0.01)])
        for k, right in ((49, 0.3 + shift), (98, 0.6 + shift), (147, 0.7 + shift))
    ]
    return [*found, result(HARD, 196, 0.75, **fields)]


def ladder():
    noises = [
        result(f"lapsum{'' if tau == 1 else f':tau={tau:g}'}+vpnoise", 98, right, tau, seed=i)
        for i, (tau, right) in enumerate([(0.001, 0.6), (0.03, 0.58), (1.0, 0.1)])
    ]
    return [result(HARD, 98, 0.6, seed=9), *noises]


def points(axes):
    """``(x, y, low, high)`` of every point that is drawn with an interval, in the order drawn."""
    found = []
    for bars in (c for c in axes.containers if isinstance(c, ErrorbarContainer)):
        line, (ends,) = bars.lines[0], bars.lines[2]
        segments = np.array(ends.get_segments())
        found += list(zip(*line.get_data(), segments[:, 0, 1], segments[:, 1, 1], strict=True))
    return found


def said(rows, width=80):
    console = Console(file=io.StringIO(), width=width)
    console.print(table(rows))
    return console.file.getvalue()


# --- names, rows ---


@pytest.mark.parametrize(
    ("op", "name"),
    [
        (NOISE, "lapsum+vpnoise"), (HARD, HARD), ("lapsum+vpnoise:sigma=unit", "lapsum+vpnoise:sigma=unit"),
        ("a.py:Op:width=2,tau=0.1", "a.py:Op:width=2"), ("x:tau=1e-05,y=2+zero", "x:y=2+zero"),
    ],
)  # fmt: skip
def test_a_family_is_the_name_without_the_temperature(op, name):
    assert family(op) == name


def test_rows_are_of_all_images_and_compared_on_the_same_ones():
    a, b = sharp(), sharp(data="b", first=1000, images=200)
    rows = pooled_rows([*a, *b], HARD)
    assert {row["images"] for row in rows} == {500}
    noise = next(row for row in rows if row["op"] == NOISE and row["k"] == 98)
    ours, theirs = ([r for r in (*a, *b) if r.question["op"] == op and r.question["k"] == 98] for op in (NOISE, HARD))
    right, base = (np.concatenate([r.ranks for r in found]) == 0 for found in (ours, theirs))
    assert noise["top1"] == right.mean()
    assert noise["top1_difference"] == pytest.approx(right.mean() - base.mean())
    fewer = pooled_rows([*a, *(r for r in b if r.question["op"] == HARD)], HARD)  # noise on the first folder alone
    noise = next(row for row in fewer if row["op"] == NOISE and row["k"] == 98)
    assert noise["images"] == 300
    assert noise["top1_difference"] is not None
    without = pooled_rows([r for r in a if r.question["op"] != HARD], HARD)
    assert all(row["top1_difference"] is None for row in without)


# --- words ---


def row_of(verdict, low, high, needed=None, margin=0.01):
    return {
        "margin": margin, "top1_verdict": verdict, "top1_difference_low": low, "top1_difference_high": high,
        "top1_needed": needed,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (row_of("equivalent", -0.004, 0.006), "equivalent within 0.01"),
        (row_of("small gap", -0.008, -0.002), "a gap, and one below the margin: equivalent within 0.01, but not equal"),
        (row_of("undecided", -0.03, 0.02, 1234.0), "undecided; about 1200 images would decide"),
        (row_of("undecided", -0.03, 0.02), "undecided; more than 100 times these images would decide"),
        (
            row_of("undecided", -0.9, 0.9) | {"top1_gained": 1, "top1_lost": 0},
            "undecided; fewer than 10 images differ, too few to say how many would decide",
        ),
        (row_of("different", -0.06, -0.02), "different, beyond the margin of 0.01"),
        (row_of("different", 0.02, 0.06), "different, beyond the margin of 0.01"),
        (
            row_of("different", -0.012, -0.002, 5678.0),
            "different; about 5700 images would show that it is below the margin of 0.01",
        ),
        (
            row_of("different", -0.03, -0.005),
            "different; with shares like these no number we know of would show that it is below the margin of 0.01",
        ),
    ],
)
def test_a_verdict_in_words_says_no_more_than_was_shown(row, words):
    assert in_words(row) == words


def test_a_sentence_for_every_comparison_and_for_top_5_where_it_differs():
    rows = pooled_rows(sharp(), HARD)
    sentences = lines(rows, HARD)
    assert sum(": top-1" in line for line in sentences) == 6
    first = next(row for row in rows if row["op"] == "hard+zero")
    base = next(row for row in rows if row["op"] == HARD)
    assert f"hard+zero at K = 49: top-1 {first['top1']:.3f} against {base['top1']:.3f} of {HARD}" in sentences[0]
    assert "McNemar p = " in sentences[0]
    assert sum(": top-5" in line for line in sentences) == sum(
        row["top1_verdict"] != row["top5_verdict"] for row in rows if row["top1_verdict"]
    )


def test_the_table_is_legible_at_80_columns():
    rows = pooled_rows([*sharp(), result("lapsum:tau=0.01+vpnoise:sigma=unit", 49, 0.2, 0.01)], HARD)
    rows.sort(key=lambda row: row["k"])
    text = said(rows)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    for row in rows:
        assert f"K = {row['k']} of 196" in text
        for of in ("top1", "top5"):
            assert f"{row[of]:.3f} [{row[f'{of}_low']:.3f}, {row[f'{of}_high']:.3f}]" in text
    verdicts = [row[of] for row in rows for of in ("top1_verdict", "top5_verdict")]
    assert text.count("different") == verdicts.count("different") > 0
    assert "sigma=unit" in text


# --- figures ---


def test_accuracies_gaps_and_their_intervals_are_the_rows():
    rows = pooled_rows(sharp(), HARD)
    upper, lower = equivalence_chart(rows, "a title").axes
    drawn = points(upper)
    budgets = [49, 98, 147]
    expected = [
        (row[of], row[f"{of}_low"], row[f"{of}_high"])
        for op in (HARD, "hard+zero", NOISE)
        for of in ("top1", "top5")
        for row in rows
        if row["op"] == op and row["k"] < 196
    ]
    np.testing.assert_allclose([p[1:] for p in drawn], expected)
    assert [round(p[0]) for p in drawn] == [0, 1, 2] * 6
    assert [t.get_text() for t in upper.get_xticklabels()] == [f"{k}\n{k / 196:.0%}" for k in budgets]
    unpruned = next(row for row in rows if row["k"] == 196)
    assert sorted(line.get_ydata()[0] for line in upper.lines if line.get_linestyle() == "--") == [
        unpruned["top1"], unpruned["top5"]
    ]  # fmt: skip
    names = ("top1_difference", "top1_difference_low", "top1_difference_high")
    gaps = [tuple(row[n] for n in names) for op in ("hard+zero", NOISE) for row in rows if row["op"] == op]
    np.testing.assert_allclose([p[1:] for p in points(lower)], gaps)
    (band,) = lower.patches
    assert (band.get_y(), band.get_height()) == (-0.01, 0.02)
    assert "tau = 0.01" in lower.get_xlabel()
    assert "300 images" in upper.get_title(loc="left")


def test_a_ladder_is_drawn_over_its_temperatures_with_the_margin():
    rows = pooled_rows(ladder(), HARD)
    figure = fig4([("noise", ladder())], (), HARD)
    upper, lower = figure.axes
    for axes, of in ((upper, "top1"), (lower, "top5")):
        assert axes.get_xscale() == "log"
        drawn = points(axes)
        np.testing.assert_allclose([p[0] for p in drawn], [0.001, 0.03, 1])
        np.testing.assert_allclose([p[1] for p in drawn], [row[f"{of}_difference"] for row in rows[1:]])
        assert axes.patches[0].get_height() == 0.02
    both = fig4([("scenes", sharp()), ("noise", ladder())], (), HARD)
    assert len(both.axes) == 4
    chart = equivalence_chart(rows, "x")  # a command with --taus: accuracy at the sharpest, and the ladder
    assert len(chart.axes) == 4
    assert [p[1] for p in points(chart.axes[0])][2] == rows[1]["top1"]


def test_every_operator_has_one_look_in_all_panels_and_stands_in_the_legend():
    figure = fig4([("scenes", sharp()), ("noise", ladder())], (), HARD)
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == [HARD, "hard+zero", "lapsum+vpnoise", "nothing pruned", "margin of 0.01"]
    colours = {
        bars.lines[0].get_color()
        for axes in figure.axes
        for bars in axes.containers
        if bars.get_label() == "lapsum+vpnoise"
    }
    assert len(colours) == 1


def test_pictures_are_drawn_in_their_rows_and_columns():
    rng = np.random.default_rng(0)
    strips = [(f"K = {k}", [(name, rng.random((8, 8, 3))) for name in ("unpruned", NOISE)]) for k in (49, 98, 147)]
    figure = patch_rows(strips)
    assert len(figure.axes) == 6
    for axes, (_, picture) in zip(figure.axes, (p for _, row in strips for p in row), strict=True):
        np.testing.assert_array_equal(axes.images[0].get_array(), picture)
    assert [axes.get_title() for axes in figure.axes] == ["unpruned", NOISE.replace("+", "+\n"), "", "", "", ""]
    assert [axes.get_ylabel() for axes in figure.axes[::2]] == ["K = 49", "K = 98", "K = 147"]
    whole = fig4([("scenes", sharp())], (), HARD, strips)
    assert sum(len(axes.images) for axes in whole.axes) == 6
    assert len(whole.axes) == 8


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_the_same_results_give_the_same_bytes(tmp_path, suffix):
    strips = [("K = 49", [("unpruned", np.full((4, 4, 3), 0.5)), (NOISE, np.full((4, 4, 3), 0.2))])]
    files = [
        save_figure(fig4([("scenes", sharp())], (), HARD, strips), tmp_path / f"{i}{suffix}").read_bytes()
        for i in range(2)
    ]
    assert files[0] == files[1]


def test_nothing_to_draw_is_said():
    with pytest.raises(GradprobeError, match="no answers to draw"):
        fig4([], (), HARD)
