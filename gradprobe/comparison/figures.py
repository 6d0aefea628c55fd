"""Figures of a comparison: each probe's own as SVG for a page."""

import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from matplotlib.figure import Figure

from gradprobe.comparison.comparison import Comparison, answers_of, compared, probe_rows
from gradprobe.plotting.style import save_figure


def figures_of(comparison: Comparison) -> dict[str, str]:
    """Return the figure of each probe as the text of an SVG whose names occur in no other figure's.

    Args:
        comparison: the operators; a probe without results has no figure.
    """
    drawn = {}
    for probe, place in compared().items():
        if hasattr(place, "figure") and any(answers_of(comparison, probe, op) for op in comparison.ops):
            probed = [row for _, row in probe_rows(comparison, probe)]
            drawn[probe] = svg_of(place.figure(_results(comparison, probe), probed), probe)
    return drawn


def svg_of(figure: Figure, name: str) -> str:
    """Return a figure as SVG for the inside of a page: no header, its own names, no rule that reaches beyond it.

    Its greys are variables, ``--n33`` for #333333, which a page may set for a dark background; without them, and in
    other colours, it is as it was drawn.

    Args:
        figure: a figure.
        name: what its names begin with.
    """
    with TemporaryDirectory() as folder:
        text = save_figure(figure, Path(folder) / "figure.svg").read_text(encoding="utf-8")
    text = re.sub(r"<metadata>.*?</metadata>\s*|<style.*?</style>\s*", "", text[text.index("<svg") :], flags=re.S)
    text = re.sub(r'(?<=\sid=")(?=[^"]+")', f"{name}-", text)
    text = re.sub(r'(?<=href="#)|(?<=url\(#)', f"{name}-", text)
    text = re.sub(r"(?<=: )(#([0-9a-f]{2})\2\2)(?=[;\"])", r"var(--n\2, \1)", text)
    # Verdana is as wide as DejaVu Sans, which few machines have
    text = text.replace("'DejaVu Sans'", "'DejaVu Sans', Verdana, sans-serif")
    return text.replace("<svg", '<svg style="stroke-linejoin: round; stroke-linecap: butt"', 1).strip()


def _results(comparison: Comparison, probe: str) -> list[Any]:
    """Return the results of the operators compared, in their order, then those of all others."""
    named = [result for op in comparison.ops for result in answers_of(comparison, probe, op)]
    return [*named, *(result for result in comparison.results[probe] if not any(result is each for each in named))]
