"""Figures, tables and stored results of fidelity: what is drawn is what was measured, and absent things are said."""

import io

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from rich.console import Console
from test_agreement import toy

from gradprobe.errors import GradprobeError, UsageError
from gradprobe.plotting.style import look, save_figure
from gradprobe.probes.fidelity.figure import fidelity_figure, fidelity_panels
from gradprobe.probes.fidelity.reference_result import ReferenceResult
from gradprobe.probes.fidelity.reference_view import table as reference_table
from gradprobe.probes.fidelity.result import FidelityResult
from gradprobe.probes.fidelity.view import estimated, lines, table
from gradprobe.store.results import Store

QUESTION = {
    "probe": "fidelity", "op": "lapsum+vpnoise", "k": 58, "images": 40, "draws": 128, "noise_draws": 4,
    "scores": "scorer", "held_out": 100, "sigmas": "0.3,1", "ladder": "0.1,1", "seed": 0,
}  # fmt: skip
ENVIRONMENT = {"versions": {"numpy": "2.0"}, "seconds": 1.0, "date": "2026-01-02T03:04:05+00:00", "skipped": []}


def result(op="lapsum+vpnoise", gradient=True, **changes):
    return FidelityResult(
        question=QUESTION | {"op": op}, gradient="yes" if gradient else "none", ids=np.arange(40), losses=np.ones(40),
        spread=np.full(40, 0.12), environment=ENVIRONMENT, **vars(toy(gradient=gradient, **changes)),
    )  # fmt: skip


def rows():
    base = result("gumbel-ste+gather", cos=0.2, seed=1, fall=-0.01)
    others = [result(), result("hard+gather", gradient=False)]
    return [base.row(), *(r.row(baseline=base) for r in others)]


def rendered(renderable, width=80):
    console = Console(width=width, file=io.StringIO())
    console.print(renderable)
    return console.file.getvalue()


def test_a_result_is_what_it_was_after_storing(tmp_path):
    store, one = Store(tmp_path), result()
    again = store.load(store.save(one))
    assert again.row() == one.row()
    with pytest.raises(GradprobeError, match="ab of a fidelity result"):
        FidelityResult(**{**vars(one), "ab": one.ab[:, :3]})
    with pytest.raises(GradprobeError, match="after of a fidelity result"):
        FidelityResult(**{**vars(one), "gradient": "none"})


def test_a_table_holds_every_number_at_80_columns():
    text = rendered(table(rows()))
    assert "…" not in text and all(len(line) <= 80 for line in text.splitlines())
    for row in rows()[:2]:
        for at in row["sigmas"]:
            for name in ("cosine", "centred", "theta", "theta_centred"):
                assert estimated(at, name) in text
        assert all(f"{at['rate']:.2g} ±" in text for at in row["ladder"])
    assert text.count("none") == 2 * 4 + 2 * 2 + 2
    assert "reference 0.3" in text


def test_lines_say_differences_and_why_there_is_no_number():
    reason, *differences = lines(rows(), "gumbel-ste+gather")
    assert reason == "hard+gather: no gradient reaches the scores"
    assert len(differences) == 2 and all(line.startswith("lapsum+vpnoise: ") for line in differences)
    assert "at σ = 0.3" in differences[0] and "at a step of 0.1" in differences[1]
    lost = result().row()
    lost["sigmas"][1] |= {"cosine": None, "cosine_reason": "undefined: why"}
    assert lines([lost], None) == ["lapsum+vpnoise: cos at σ = 1 undefined: why"]


def test_a_reference_is_shown():
    parts = np.random.default_rng(0).normal(size=(1, 4, 5, 6)) + 2
    found = ReferenceResult(
        question=QUESTION | {"probe": "reference"}, ids=np.arange(5), sigmas=np.array([0.3]),
        parts=(2 * parts).astype(np.float32), blocks=2, losses=np.ones(5), spread=np.ones(5), theta_noise=np.zeros(1),
        theta_bb=np.zeros((1, 0, 0)), ladder=np.zeros(0), held=np.zeros(0), after=np.zeros((1, 0, 0)),
        environment=ENVIRONMENT,
    )  # fmt: skip
    np.testing.assert_allclose(found.gradients, parts, rtol=1e-6)
    row = found.row()
    assert row["sigmas"][0]["signal"] == pytest.approx(24, rel=0.3) and 0.8 < row["sigmas"][0]["reliability"] < 1
    assert "reliability" in rendered(reference_table([row]))


def test_marks_lie_where_the_numbers_are():
    figure = fidelity_panels([("scenes", rows()), ("DeiT", rows()[:2])])
    for i, drawn in enumerate((rows(), rows()[:2])):
        left, right = figure.axes[2 * i : 2 * i + 2]
        values = [at["cosine"] for row in drawn for at in row["sigmas"] if at["cosine"] is not None]
        marks = [float(line.get_xdata()[0]) for line in left.get_lines() if line.get_marker() in "os"]
        assert sorted(marks) == sorted(values)
        low, high = left.get_xlim()
        assert all(low <= at["cosine_low"] <= at["cosine_high"] <= high
                   for row in drawn[:2] for at in row["sigmas"])  # fmt: skip
        assert [t.get_text() for t in left.texts] == [" no gradient"] * 2 * (i == 0)
        falls = [at["rate"] * at["step"] for at in drawn[1]["ladder"]]
        curves = [line.get_ydata() for line in right.get_lines() if len(line.get_xdata()) == 2]
        assert any(np.allclose(curve, falls) for curve in curves)
        assert len(right.get_lines()) >= len(drawn) - (i == 0) + 2  # and the reference at both sigmas


def test_without_steps_there_is_no_descent():
    drawn = [row | {"ladder": []} for row in rows()]
    figure = fidelity_panels([("random", drawn), ("scenes", rows())])
    assert [axes.get_ylabel() for axes in figure.axes] == ["", "", "fall of the deployed loss"]  # and no empty panel
    with pytest.raises(UsageError, match="no fidelity to draw"):
        fidelity_panels([("none", [])])


def test_rows_without_steps_are_drawn_and_printed_beside_rows_with_them():
    random = result("lapsum+scale").row() | {"ladder": [], "held_out": 0, "held_loss": None}
    drawn = [random, *rows()[:2]]
    figure = fidelity_figure([], drawn, "scenes")
    assert (
        figure.axes[0].get_title("left") == "scenes, 40 images" and "100 held-out images" in figure.axes[1].get_xlabel()
    )
    alone = [line.get_ydata() for line in fidelity_figure([], drawn[1:]).axes[1].get_lines()]
    beside = [line.get_ydata() for line in figure.axes[1].get_lines()]
    assert all(np.array_equal(a, b) for a, b in zip(alone, beside, strict=True))
    descent = rendered(table(drawn)).partition("reference 0.3")[0].rpartition("operator")[2]
    assert "lapsum+vpnoise" in descent and "lapsum+scale" not in descent


def test_names_of_curves_are_apart_and_in_the_order_of_their_ends():
    close = [row | {"op": f"lapsum:tau={i}+vpnoise"} for i, row in enumerate([*rows()[:2]] * 3, 1)]
    _, right = fidelity_panels([("scenes", close)]).axes
    names = sorted(right.texts, key=lambda text: text.get_position()[1])
    heights = [text.get_position()[1] for text in names]
    assert len(names) == len(close) + 2 and min(np.diff(heights)) > 0.05
    assert heights[0] >= 0 and heights[-1] <= 1
    falls = {row["op"]: row["ladder"][-1]["rate"] * row["ladder"][-1]["step"] for row in close}
    ordered = [falls[text.get_text()] for text in names if text.get_text() in falls]
    assert ordered == sorted(ordered)


def test_labels_stay_inside_and_bytes_are_the_same(tmp_path):
    wide = [row | {"op": "gumbel-ste:backward=soft,tau=0.3+scale-vpnoise"} for row in rows()]
    for drawn in (rows(), wide):
        figure = fidelity_figure([], drawn, "scenes, K = 58")
        with look():
            FigureCanvasAgg(figure).draw()
            box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
        assert box.x0 >= -0.02 and box.x1 <= width + 0.02 and box.y0 >= -0.02 and box.y1 <= height + 0.02
    one, two = (save_figure(fidelity_figure([], rows(), "a"), tmp_path / f"{n}.svg") for n in "ab")
    assert one.read_bytes() == two.read_bytes()
