"""Style of the figures, the same on every machine: palette, sizes, and files that depend on the results alone."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.text import Text

from gradprobe.errors import GradprobeError, UsageError
from gradprobe.files import check_place
from gradprobe.plotting.escape import visible

# Okabe and Ito, "Color universal design" (2008): distinguishable with all kinds of colour vision. Beside them three of
# Tol's, which stay so; their yellow is left out, as it cannot be seen as a line. What is whose: `plotting.colours`.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILION, PURPLE = "#0072B2", "#D55E00", "#CC79A7"
WINE, INDIGO, BROWN = "#882255", "#332288", "#6B3A00"
GREY = "#666666"
INTERVAL: dict[str, Any] = {"ecolor": BLACK, "elinewidth": 0.8, "capsize": 2, "capthick": 0.8, "fmt": "none"}

RISE, STEP = FORMULAS = ("$L - L(0)$", "$|L_{j+1} - L_j|$")  # the only formulas in figures
# A number on a logarithmic axis.
_TICK = re.compile(r"\$\\mathdefault\{[-0-9.]*(\\times)?[-0-9.]*(\^\{[-0-9.]+\})?\}\$")

COLUMN, PAGE = 3.4, 7.0  # inches: one column and the full width of a two-column paper
TALLEST = 9.0  # inches: of the text of a page

STYLE: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#333333",
    "axes.grid": False,
    "axes.labelsize": 8,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 8.5,
    "axes.titleweight": "bold",
    "errorbar.capsize": 2,
    "figure.constrained_layout.use": True,
    "figure.dpi": 100,
    "figure.titlesize": 9,
    "font.family": "DejaVu Sans",  # shipped with matplotlib: the same glyphs everywhere
    "font.size": 8,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.5,
    "hatch.linewidth": 0.6,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "lines.linewidth": 1.0,
    "pdf.fonttype": 42,  # text stays text, which can be searched and copied
    "savefig.dpi": 300,
    "svg.fonttype": "none",  # likewise
    "svg.hashsalt": "gradprobe",  # otherwise element names are random
    "xtick.labelsize": 7.5,
    "xtick.major.width": 0.6,
    "ytick.labelsize": 7.5,
    "ytick.major.width": 0.6,
}

# Metadata of files without date and version, so that the same results give the same bytes.
METADATA: dict[str, dict[str, None]] = {
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    ".png": {"Software": None},
    ".svg": {"Creator": None, "Date": None},
}


@contextmanager
def look() -> Iterator[None]:
    """Draw in gradprobe's style, independent of the user's settings, which are restored afterwards.

    Example:
        >>> import matplotlib
        >>> with look():
        ...     size = matplotlib.rcParams["font.size"]
        >>> size
        8.0
    """
    with style.context(STYLE, after_reset=True):
        yield


def check_path(path: Path | str) -> Path:
    """Refuse the path of a figure that could not be written, before the work for the figure is done.

    Raises:
        UsageError: The suffix is unknown, or no file can be written there.
    """
    path = Path(path)
    if path.suffix.lower() not in METADATA:
        raise UsageError(
            f"cannot draw {path}: {path.suffix or 'no suffix'} is not a known kind; use .png, .svg or .pdf"
        )
    check_place(path)
    return path


def save_figure(figure: Figure, path: Path | str) -> Path:
    """Write a figure as png, svg or pdf, by suffix; missing folders are created.

    Raises:
        UsageError: The suffix is unknown.
        GradprobeError: The file cannot be written.
    """
    path = check_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with look():
            _make_literal(figure)
            _fix_layout(figure)
            figure.savefig(path, metadata=METADATA[path.suffix.lower()])
    except OSError as error:
        reason = error.strerror or error
        raise GradprobeError(f"cannot write {path}: {reason}; name a file in a folder that can be written") from None
    return path


def save_pages(figures: Sequence[Figure], path: Path | str) -> list[Path]:
    """Write figures of a page each: the first to ``name.png``, the others to ``name_2.png`` and so on.

    Raises:
        UsageError: The suffix is unknown.
        GradprobeError: A file cannot be written.
    """
    path = Path(path)
    places = [path, *(path.with_name(f"{path.stem}_{i}{path.suffix}") for i in range(2, len(figures) + 1))]
    return [save_figure(figure, place) for figure, place in zip(figures, places, strict=True)]


def _make_literal(figure: Figure) -> None:
    """Make every text of a figure literal: dollars begin no formula, control characters appear as escapes.

    `FORMULAS` and the numbers of logarithmic axes stay formulas. Called before the layout.
    """
    for axes in figure.axes:
        for axis in axes._axis_map.values():  # type: ignore[attr-defined]  # x, y and, in 3-D, z
            labels = [label.get_text() for label in axis.get_ticklabels()]
            if any(visible(label, keep="\n") != label for label in labels):
                axis.set_ticklabels([visible(label, keep="\n") for label in labels])
    for text in figure.findobj(Text):
        words = text.get_text()
        if words in FORMULAS or _TICK.fullmatch(words):
            continue
        text.set_parse_math(False)
        if visible(words, keep="\n") != words:
            text.set_text(visible(words, keep="\n"))


def _fix_layout(figure: Figure) -> None:
    """Lay out a figure once, at the resolution of the file, and round the positions of its parts.

    Unrounded, the positions vary in the last bits from run to run.
    """
    if figure.get_layout_engine() is None:
        return
    dpi = figure.dpi
    figure.dpi = STYLE["savefig.dpi"]
    for _ in range(2):  # the second pass has the labels that the first creates
        figure.draw_without_rendering()
    figure.dpi = dpi
    figure.set_layout_engine("none")
    for part in figure.subfigs:
        part.bbox_relative.set_points(part.bbox_relative.get_points().round(6))
    for axes in figure.axes:
        left, bottom, width, height = (round(x, 6) for x in axes.get_position(original=True).bounds)
        axes.set_position((left, bottom, width, height))
