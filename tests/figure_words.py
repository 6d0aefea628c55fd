"""Words of a figure with their places, as in its file."""

import itertools

from matplotlib.text import Text
from matplotlib.transforms import Bbox

from gradprobe.plotting.style import STYLE, _fix_layout, _make_literal, look

DPI = STYLE["savefig.dpi"]
TOUCH = 5  # pixels by which boxes around words may overlap: letters do not fill them


def laid_out(figure):
    """Return the figure, laid out as in its file."""
    with look():
        _make_literal(figure)
        _fix_layout(figure)
        figure.set_dpi(DPI)  # widths of letters change with it
        figure.draw_without_rendering()
    return figure


def words(figure):
    """Return the texts that are seen and lie flat or stand, with their places in pixels."""
    hidden = {id(text) for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) for text in _beyond(axis)}
    hidden |= {id(text) for axes in figure.axes if not axes.axison for text in axes.findobj(Text)} - {
        id(text) for axes in figure.axes for text in axes.texts
    }
    seen = [t for t in figure.findobj(Text) if t.get_text().strip() and t.get_visible() and id(t) not in hidden]
    seen = [text for text in seen if text.get_rotation() % 90 == 0]  # the box around slanted words is no measure
    return [(text.get_text(), text.get_window_extent()) for text in seen]


def assert_readable(figure):
    """Assert that no words lie on others or leave the figure, which is laid out; return them."""
    places = words(figure)
    for (one, here), (other, there) in itertools.combinations(places, 2):
        both = Bbox.intersection(here, there)
        assert both is None or min(both.width, both.height) < TOUCH, (one, other)
    width, height = figure.get_size_inches() * DPI
    for text, place in places:
        assert place.x0 > -TOUCH and place.y0 > -TOUCH and place.x1 < width + TOUCH and place.y1 < height + TOUCH, text
    return places


def _beyond(axis):
    """Return the labels of ticks outside an axis, which matplotlib keeps and does not draw."""
    low, high = sorted(axis.get_view_interval())
    pad = 1e-9 * (high - low)
    ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
    return [t for tick in ticks if not low - pad <= tick.get_loc() <= high + pad for t in (tick.label1, tick.label2)]
