"""The committed figures, drawn from the stored answers: nothing lies on anything else, and they fit on a page."""

from collections import defaultdict
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
from figure_words import assert_readable, laid_out
from matplotlib.colors import to_hex
from matplotlib.text import Text

from gradprobe.comparison import confirm, predict_figure
from gradprobe.comparison.drawings import drawings
from gradprobe.comparison.experiments import load_experiment, run_experiment
from gradprobe.plotting.colours import colours_of
from gradprobe.plotting.style import GREY, PAGE
from gradprobe.probes.landscape import surfaces
from gradprobe.statistics.association import associations
from gradprobe.store.results import Store

ROOT = Path(__file__).parents[2]
TALLEST = 9.0  # inches: of the text of a page
PRESETS = (
    "fidelity", "fig2_landscape", "leaderboard", "lines_deit_tiny", "predict_confirm", "predict_deit_tiny",
    "predict_retention", "retention", "fig5_ranking", "vispco_front", "fig1c_coherence", "fig4_equivalence",
    "figA1_scaling", "operators_deit_tiny", "operators_vit_small", "table5_ablation", "table5_scenes",
    "table1_llava15", "table2_llavanext", "table3_qwen", "table4_cost", "predict_leaderboard",
)  # fmt: skip


@cache
def drawn(name):
    """Return the pages of a preset's figure from its stored answers, laid out as in their files, with the answers."""
    experiment = load_experiment(ROOT / "experiments" / f"{name}.toml", [])
    answers, _ = run_experiment(experiment, [Store(ROOT / "results")], lambda *_: None, True)
    with pytest.MonkeyPatch.context() as patch:  # fewer draws: places and colours do not depend on their number
        for module in (confirm, predict_figure):
            patch.setattr(module, "associations", partial(associations, replicates=50))
        pages = drawings()[experiment.figure](experiment, answers)
    return [laid_out(page) for page in pages], answers


@pytest.mark.parametrize("name", PRESETS)
def test_no_words_lie_on_others_or_leave_the_figure(name):
    pages, _ = drawn(name)
    for page in pages:
        assert len(assert_readable(page)) > 20


@pytest.mark.parametrize("name", PRESETS)
def test_they_fit_on_a_page_and_every_panel_has_data(name):
    pages, _ = drawn(name)
    for page in pages:
        assert page.get_size_inches()[0] == PAGE and page.get_size_inches()[1] <= TALLEST
    for axes in (axes for page in pages for axes in page.axes):
        lines = [line for line in axes.lines if line.get_transform() == axes.transData]  # not one across the panel
        parts = [*lines, *axes.collections, *axes.images, *axes.patches, *axes.child_axes]
        parts += [axes.get_legend()] if axes.get_legend() else []
        assert parts, axes


def test_an_operator_has_one_colour_in_all_panels_of_fidelity_and_its_name_beside_its_curve():
    (figure,), answers = drawn("fidelity")
    colours = colours_of(answer.run.question["op"] for answer in answers)
    named = defaultdict(set)
    for axes in figure.axes:
        for text in axes.texts:
            named[text.get_text()].add(to_hex(text.get_color()).upper())
    for op, colour in colours.items():
        assert named[op] == {colour}
    cosines = [axes for axes in figure.axes if axes.get_xlabel().startswith("cosine")]
    for axes in cosines:
        ops = [label.get_text().replace("\n", "") for label in axes.get_yticklabels()]
        marks = defaultdict(set)
        for line in axes.lines:
            if line.get_marker() in "osD" and len(line.get_ydata()) == 1:
                nearest = np.argmin(np.abs(axes.get_yticks() - line.get_ydata()[0]))
                marks[ops[nearest]].add(to_hex(line.get_color()).upper())
        assert marks and all(found == {colours[op]} for op, found in marks.items())


def test_contour_lines_of_a_row_have_one_spacing():
    (figure,), answers = drawn("fig2_landscape")
    assert len(figure.subfigs) == 2
    for part in figure.subfigs:
        spacings = {
            t.get_text().partition("lines every ")[2] for t in part.findobj(Text) if "lines every" in t.get_text()
        }
        assert len(spacings) == 1
    results = [answer.result for answer in answers]
    flat, steep = sorted(results[-2:], key=lambda result: np.ptp(surfaces.rise(result)))
    shared = surfaces.shared_levels([flat, steep])
    heights = surfaces.rise(flat)
    assert ((shared > heights.min()) & (shared < heights.max())).sum() < len(surfaces.levels(flat))


def test_similarities_have_a_diverging_map_centred_at_zero():
    (figure,), _ = drawn("fig5_ranking")
    maps = [image for axes in figure.axes for image in axes.images if image.get_array().ndim == 2]
    assert len(maps) == 6
    for image in maps:
        low, high = image.get_clim()
        assert low == -high
        assert min(image.cmap(0.5)[:3]) > 0.95  # white where nothing is alike
        assert max(np.abs(np.subtract(image.cmap(0.0), image.cmap(1.0)))) > 0.2


def test_nothing_joins_budgets_of_retention_and_seeds_are_dots():
    (figure,), answers = drawn("retention")
    over = [axes for axes in figure.axes if axes.get_xlabel().startswith("K, tokens kept")]
    assert len(over) == 2
    for axes in over:
        for line in axes.lines:
            x = np.asarray(line.get_xdata(), float)
            if line.get_linestyle() not in ("None", "") and to_hex(line.get_color()).upper() != "#000000":
                assert np.ptp(x) < 1  # within one K
    dots = [d for axes in over for line in axes.lines if line.get_marker() == "." for d in line.get_ydata()]
    assert len(dots) == sum(not answer.run.question["op"].startswith("ranked") for answer in answers)


def test_the_leaderboard_names_directions_and_units():
    pages, answers = drawn("leaderboard")
    titles = [axes.get_title(loc="left") for page in pages for axes in page.axes]
    assert {title.partition(" ")[0]: title[-1] for title in titles}.items() >= {
        "retention": "↑", "roughness": "↓", "cost": "↓", "fidelity": "↑"
    }.items()  # fmt: skip
    for page in pages:
        for axes in page.axes:
            assert any(text.get_text() and to_hex(text.get_color()).upper() == GREY for text in axes.texts)
        told = " ".join(text.get_text() for text in page.texts)
        gaps = any(axes.get_title(loc="left").startswith("gap") for axes in page.axes)
        assert ("gap" in told) == gaps  # the key tells of columns that there are
    models = [text.get_text() for page in pages for text in page.texts if text.get_fontweight() == "bold"]
    assert models == list(dict.fromkeys(answer.run.panel for answer in answers))  # on one page each, in order


@pytest.mark.parametrize("name", ["predict_retention", "predict_confirm", "predict_leaderboard"])
def test_an_operator_has_a_number_in_every_panel_and_a_line_over_its_seeds(name):
    (figure,), _ = drawn(name)
    panels = [axes for axes in figure.axes if "(n = " in axes.get_xlabel()]
    assert panels
    for axes in panels:
        count = int(axes.get_xlabel().rpartition("= ")[2].rstrip(")"))
        assert sorted(int(text.get_text()) for text in axes.texts) == list(range(1, count + 1))
    ranges = [np.ptp(line.get_xdata()) for line in panels[0].lines if len(line.get_xdata()) == 2]
    assert max(ranges) > 0
