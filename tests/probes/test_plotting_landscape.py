"""Figures of loss landscapes: colours are the losses above theta's, d2 lies and d1 stands, nothing vanishes."""

import itertools

import matplotlib
import numpy as np
import pytest
from landscapes import GUMBEL, VPNOISE, bowl, broken, landscape, rough, stairs
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.transforms import Bbox

from gradprobe.errors import UsageError
from gradprobe.plotting.style import BLACK, BLUE, ORANGE, look, save_figure
from gradprobe.probes.landscape import surfaces
from gradprobe.probes.landscape.figure import COLOUR_MAP, fig2, landscape_panels, surface_figure
from gradprobe.probes.landscape.view import labels

HARD = "hard+gather"


def texts(figure):
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text) if text.get_text()]


def pictured(figure, dpi=100):
    """Return the pixels of a figure, ``(height, width, 3)``, first row on top."""
    with look():
        figure.set_dpi(dpi)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3] / 255


def contours(figure):
    """Return the panels with a surface in them."""
    return [axes for axes in figure.axes if axes.get_ylabel().startswith("d1")]


def panel(figure, title):
    (panel,) = [axes for axes in figure.axes if axes.get_title(loc="left") == title]
    return panel


def colours_at(pixels, axes, result):
    """Return the colours ``(A - 2, B - 2, 3)`` of a panel's inner cells, looked up where the axis labels put them."""
    x, y = np.meshgrid(result.b[1:-1], result.a[1:-1])
    places = axes.transData.transform(np.stack([x.ravel(), y.ravel()], -1)).round().astype(int)
    return pixels[len(pixels) - 1 - places[:, 1], places[:, 0]].reshape(*x.shape, 3)


def share_of(colours, values, bound):
    """Return the share of the cells that have the colour of their value (lines and theta's cross cover some)."""
    expected = matplotlib.colormaps[COLOUR_MAP](np.asarray(values) / bound / 2 + 0.5)[..., :3]
    return (np.abs(colours - expected).max(-1) < 0.03).mean()


# --- contours ---


@pytest.mark.parametrize(
    "height", [lambda a, b: b + 0 * a, lambda a, b: a + 0 * b, bowl], ids=["d2 only", "d1 only", "both"]
)
def test_a_cell_has_the_colour_of_its_loss_where_the_axes_say(height):
    result = landscape(height, rows=9, columns=15)
    figure = landscape_panels([result], "t")
    pixels = pictured(figure, dpi=200)
    (axes,) = contours(figure)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("d2, filter units", "d1, filter units")
    inner = (result.surface - result.centre.mean())[1:-1, 1:-1]
    assert share_of(colours_at(pixels, axes, result), inner, np.abs(result.surface - result.centre.mean()).max()) > 0.8
    assert share_of(colours_at(pixels, axes, result), inner[::-1, ::-1], 1.0) < 0.6  # the test can tell


def test_one_colour_scale_for_all_panels_whatever_their_level():
    steep, flat = landscape(bowl, level=7.3), landscape(lambda a, b: bowl(a, b) / 5, op=GUMBEL, level=3.5)
    figure = landscape_panels([flat, steep], "t")
    pixels, bound = pictured(figure, dpi=200), np.abs(steep.surface - steep.centre.mean()).max()
    for axes, result in zip(contours(figure), (flat, steep), strict=True):
        inner = (result.surface - result.centre.mean())[1:-1, 1:-1]
        assert share_of(colours_at(pixels, axes, result), inner, bound) > 0.8
    assert surfaces.limit([flat, steep]) == pytest.approx(bound)
    bar = next(axes for axes in figure.axes if axes.get_ylabel() == "$L - L(0)$")
    assert bar.get_xlim() == pytest.approx((-bound, bound))
    words = " ".join(texts(figure))
    assert "L(0) = 3.5, lines every" in words
    assert "L(0) = 7.3, lines every" in words


def test_panels_beside_each_other_have_contour_lines_at_the_same_heights():
    steep, flat = landscape(bowl), landscape(lambda a, b: bowl(a, b) / 5, op=GUMBEL)
    assert len(surfaces.levels(flat)) >= 4
    assert len(surfaces.levels(landscape(lambda a, b: 0 * a * b))) == 0
    shared = surfaces.shared_levels([flat, steep])
    np.testing.assert_allclose(np.diff(shared), np.diff(shared)[0])
    np.testing.assert_array_equal(shared, surfaces.shared_levels([steep, flat]))
    crossed = [
        ((shared > values.min()) & (shared < values.max())).sum() for values in map(surfaces.rise, (flat, steep))
    ]
    assert 0 < crossed[0] < crossed[1]
    left, right = contours(landscape_panels([flat, steep], "t"))
    drawn = [
        [c for c in axes.collections if c.get_edgecolor().size and c.get_linewidth()[0] > 0.2] for axes in (left, right)
    ]
    assert [len(c[0].get_paths()) for c in drawn] == crossed
    words = [
        text.partition("lines every ")[2] for text in texts(landscape_panels([flat, steep], "t")) if "every" in text
    ]
    assert len(words) == 2 and len(set(words)) == 1


@pytest.mark.parametrize("count", [1, 2, 5])
def test_every_operator_has_a_panel_and_every_word_its_place(count):
    results = [landscape(op=GUMBEL), landscape(), landscape(rough, op="gumbel-ste:backward=soft+gather", level=3.4)]
    results += [landscape(stairs, op=HARD, level=3.6), broken(landscape(op="lapsum+attention"))]
    for figure in (
        landscape_panels(results[-count:], "a title"),
        fig2([("scenes\nMLP", results[:count]), ("DeiT-T", results[:1])], [{"ratio": 24}]),
    ):
        pictured(figure)
        assert len(contours(figure)) == count + (len(figure.subfigs) - 1)
        box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
        assert -0.01 <= box.x0 <= box.x1 <= width + 0.01
        assert -0.01 <= box.y0 <= box.y1 <= height + 0.01
        words = [text for text in figure.findobj(matplotlib.text.Text) if text.get_text() and _visible(text)]
        places = [(text.get_text(), text.get_window_extent()) for text in words]
        for (one, here), (other, there) in itertools.combinations(places, 2):
            both = Bbox.intersection(here, there)
            assert both is None or min(both.width, both.height) < 3, (one, other)  # pixels of 100 an inch


def _visible(text):
    """Tell whether a word is drawn: matplotlib keeps ticks beyond the ends of an axis."""
    for axis in (text.axes.xaxis, text.axes.yaxis) if text.axes else ():
        low, high = sorted(axis.get_view_interval())
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
            if text in (tick.label1, tick.label2):
                return low <= tick.get_loc() <= high and text.get_visible()
    return text.get_visible() and (text.axes is None or text.axes.axison or text.axes.get_legend() is not None)


def test_cells_that_are_not_finite_are_hatched_and_counted():
    result = broken(landscape())
    figure = landscape_panels([result, landscape(op=GUMBEL)], "t")
    pixels = pictured(figure)
    damaged, whole = contours(figure)
    assert damaged.patch.get_hatch()
    assert not whole.patch.get_hatch()
    colours = colours_at(pixels, damaged, result)
    for i, j in ((1, 2), (4, 7)):
        assert np.ptp(colours[i - 1, j - 1]) < 0.02  # grey
    assert "not finite: 1 NaN, 1 infinite" in " ".join(texts(figure))
    assert f"{VPNOISE}: mean step –; 4 of 70 undefined" in texts(figure)  # each bad cell ends two steps
    crosses = [line for line in panel(figure, "stepwise variation").lines if line.get_marker() == "x"]
    np.testing.assert_allclose(crosses[0].get_xdata(), result.b[[1, 2, 6, 7]] + 0.1)


@pytest.mark.parametrize("part", ["centre", "losses"])
def test_a_surface_without_finite_values_is_drawn_and_says_so(part):
    result = landscape()
    getattr(result, part)[:] = np.nan
    figure = landscape_panels([result], "t")
    pictured(figure)
    assert contours(figure)[0].patch.get_hatch()
    assert "not finite: 77 NaN" in " ".join(texts(figure))
    pictured(surface_figure([result], "t"))


def test_the_path_of_a_plane_and_what_its_axes_count():
    path = [[0.4, -1.3], [0.2, 0.1], [0.0, 0.0]]
    figure = landscape_panels([landscape(axes="pca", path=path, steps=100)], "t")
    (axes,) = contours(figure)
    drawn = next(line for line in axes.lines if line.get_marker() == "o")
    np.testing.assert_array_equal(drawn.get_xydata(), np.array(path)[:, ::-1])
    assert axes.get_xlim()[0] < -1.3
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("d2, Euclidean norm", "d1, Euclidean norm")
    assert {"of the path: d1 61 %, d2 22 %", "path up to 20 % off the plane"} <= set(
        "\n".join(texts(figure)).split("\n")
    )
    shares = contours(landscape_panels([landscape(axes="checkpoints", path=path)], "t"))[0]
    assert shares.get_xlabel() == "d2, shares of the way"


# --- stepwise variation ---


def test_variation_is_the_mean_step_of_the_rows_against_d2():
    results = [landscape(rough, op=GUMBEL), landscape(bowl)]
    figure = landscape_panels(results, "t")
    axes = panel(figure, "stepwise variation")
    assert axes.get_yscale() == "log"
    for line, result, colour in zip(
        [line for line in axes.lines if line.get_marker() == "."], results, (ORANGE, BLUE), strict=True
    ):
        np.testing.assert_allclose(line.get_ydata(), np.abs(np.diff(result.surface, axis=1)).mean(0))
        np.testing.assert_allclose(line.get_xdata(), (result.b[1:] + result.b[:-1]) / 2)
        assert line.get_color() == colour
        row = result.row()
        mean, low, high = (f"{row[f'd2_{name}']:.3g}" for name in ("variation", "low", "high"))
        assert f"{result.question['op']}: mean step {mean} [{low}, {high}]" in texts(figure)


@pytest.mark.parametrize("rows", [1, 7])
def test_exact_zeros_stand_at_the_bottom_of_a_log_axis(rows):
    result = landscape(stairs, op=HARD, rows=rows)
    figure = landscape_panels([result, landscape(rows=rows)], "t")
    axes = panel(figure, "stepwise variation")
    zero = np.diff(result.surface[0]) == 0
    assert 0 < zero.sum() < len(zero)
    marks = next(line for line in axes.lines if line.get_marker() == "|")
    np.testing.assert_array_equal(marks.get_xdata(), surfaces.midpoints(result)[zero])
    assert marks.get_color() == BLACK
    pictured(figure)
    bottom = axes.transAxes.inverted().transform(marks.get_transform().transform(marks.get_xydata()))[:, 1]
    assert ((bottom > 0) & (bottom < 0.1)).all()
    low, high = axes.get_ylim()
    for line in axes.lines:
        if line.get_marker() == ".":
            values = line.get_ydata()[np.isfinite(line.get_ydata())]
            assert ((values > low) & (values < high)).all()
    words = next(text for text in texts(figure) if text.startswith(HARD) and "mean step" in text)
    assert words.endswith(f"{zero.sum() * rows} of {zero.size * rows} steps exactly 0")


def test_a_constant_surface_is_drawn():
    result = landscape(lambda a, b: 0 * a * b)
    figure = landscape_panels([result], "t")
    pixels = pictured(figure)
    assert share_of(colours_at(pixels, contours(figure)[0], result), np.zeros((5, 9)), 1.0) > 0.9
    assert "L(0) = 7, constant" in texts(figure)
    assert any("70 of 70 steps exactly 0" in text for text in texts(figure))
    pictured(surface_figure([result], "t"))


def test_lines_share_a_panel():
    results = [landscape(rough, op=GUMBEL, rows=1), landscape(rows=1), landscape(stairs, op=HARD, rows=1)]
    results[1].losses[0, 3, 2] = np.inf
    figure = landscape_panels(results, "t")
    assert not contours(figure)
    axes = panel(figure, "loss along d2")
    drawn = [line for line in axes.lines if len(line.get_xdata()) == 11]
    for line, result in zip(drawn, results, strict=True):
        rise = (result.surface - result.centre.mean())[0]
        np.testing.assert_allclose(line.get_ydata(), np.where(np.isfinite(rise), rise, np.nan))
    gaps = [line.get_xdata() for line in axes.lines if line.get_marker() == "x" and len(line.get_xdata())]
    np.testing.assert_array_equal(gaps, [results[1].b[[3]]])
    assert "11 points 0.2 apart, 8 images, common noise, K = 58" in texts(figure)
    both = landscape_panels([landscape(op=GUMBEL), *results[1:]], "t")
    assert len(contours(both)) == 1
    assert panel(both, "loss along d2").lines[0].get_color() == BLUE  # one colour an operator in all panels


def test_names_say_what_differs_and_colours_stay_with_the_operator():
    results = [landscape(), landscape(noise="fresh"), landscape(op=GUMBEL)]
    assert labels(results) == [f"{VPNOISE} common noise", f"{VPNOISE} fresh noise", f"{GUMBEL} common noise"]
    assert labels(results[1:2]) == [VPNOISE]
    assert surfaces.strokes(results) == [(BLUE, 0), (BLUE, 1), (ORANGE, 0)]
    lines = panel(landscape_panels(results, "t"), "stepwise variation").lines
    styles = [line.get_linestyle() for line in lines if line.get_marker() == "."]
    assert styles[0] != styles[1]


# --- figure 2 ---


def test_fig2_writes_our_ratio_beside_the_papers():
    top, base = landscape(rough, op=GUMBEL), landscape(bowl)
    figure = fig2([("scenes\nMLP", [top, base]), ("DeiT-T", [base])], [{"ratio": 24, "model": "DeiT-B"}])
    assert len(figure.subfigs) == 2
    row = top.row(baseline=base)
    low, high = row["d2_ratio_low"], row["d2_ratio_high"]
    words = "\n".join(texts(figure.subfigs[0]))
    assert f"Gumbel / VP-noise: {row['d2_ratio']:.3f} [{low:.3f}, {high:.3f}]\npaper: about 24 (DeiT-B)" in words
    assert "7x11 grid 0.2 apart, 8 images" in words  # never a ratio without its grid
    assert "scenes, MLP" in words
    alone = "\n".join(texts(figure.subfigs[1]))
    assert "VP-noise:" not in alone
    assert "paper: about 24" in alone


def test_fig2_compares_like_with_like():
    results = [landscape(rough, op=GUMBEL, noise=noise) for noise in ("common", "fresh")]
    results += [landscape(noise=noise) for noise in ("fresh", "common")]
    words = "\n".join(texts(fig2([("s", results)], [])))
    for noise, (top, base) in {"common": (0, 3), "fresh": (1, 2)}.items():
        ratio = results[top].row(baseline=results[base])["d2_ratio"]
        assert f"Gumbel / VP-noise {noise} noise: {ratio:.3f}" in words
    assert "VP-noise:" not in "\n".join(texts(fig2([("s", [results[0], results[2]])], [])))
    flat = landscape(lambda a, b: 0 * a * b)
    assert "VP-noise: undefined" in "\n".join(texts(fig2([("s", [landscape(rough, op=GUMBEL), flat])], [])))


# --- surfaces ---


def test_surfaces_share_height_and_colours():
    results = [landscape(op=GUMBEL), broken(landscape(lambda a, b: 3 * bowl(a, b))), landscape(stairs, op=HARD, rows=1)]
    figure = surface_figure(results, "t")
    pictured(figure)
    spaces = [axes for axes in figure.axes if hasattr(axes, "get_zlim")]
    assert len(spaces) == 2  # a line has no surface
    low, high = spaces[0].get_zlim()
    assert spaces[1].get_zlim() == (low, high)
    finite = [surfaces.rise(result)[np.isfinite(surfaces.rise(result))] for result in results[:2]]
    assert low < min(values.min() for values in finite) < max(values.max() for values in finite) < high
    norms = [axes.collections[0].norm for axes in spaces]
    assert len({(norm.vmin, norm.vmax) for norm in norms}) == 1
    crosses = spaces[1].lines[-1].get_data_3d()
    np.testing.assert_allclose(np.sort(crosses[0]), results[1].b[[2, 7]])
    np.testing.assert_allclose(np.sort(crosses[1]), results[1].a[[1, 4]])
    assert (spaces[0].get_xlabel(), spaces[0].get_ylabel()) == ("d2, filter units", "d1, filter units")


def test_what_cannot_be_drawn():
    with pytest.raises(UsageError, match="landscape_figure"):
        surface_figure([landscape(rows=1)], "t")
    for empty in (lambda: landscape_panels([], "t"), lambda: fig2([], []), lambda: fig2([("s", [])], [])):
        with pytest.raises(UsageError, match="at least one"):
            empty()


@pytest.mark.parametrize("draw", [landscape_panels, surface_figure])
@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_same_results_same_bytes(tmp_path, draw, suffix):
    def drawn(level):
        results = [broken(landscape(level=level)), landscape(rough, op=GUMBEL)]
        return save_figure(draw(results, "t"), tmp_path / f"a.{suffix}").read_bytes()

    first = drawn(7.0)
    with matplotlib.rc_context({"font.size": 20, "image.cmap": "gray", "contour.corner_mask": True}):
        assert drawn(7.0) == first
    if suffix == "svg":
        assert drawn(6.0) != first


def test_a_saved_figure_has_its_axes_at_round_places(tmp_path):
    """The layout's solver differs in the last bits from process to process, and svg names clips after them."""
    figure = fig2([("s", [landscape(rough, op=GUMBEL), landscape(bowl, op=VPNOISE)])], [])
    save_figure(figure, tmp_path / "a.svg")
    parts = [part.bbox_relative.get_points().ravel() for part in figure.subfigs]
    places = np.array([*(axes.get_position(original=True).bounds for axes in figure.axes), *parts])
    np.testing.assert_allclose(places, places.round(6), rtol=0, atol=1e-12)
