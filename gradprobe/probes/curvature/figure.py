"""The figure of curvature: eigenvalues and trace of each operator's Hessian."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from gradprobe.plotting.columns import Row
from gradprobe.plotting.dots import Dot, Panel, dots_figure
from gradprobe.probes.curvature.result import CurvatureResult


def curvature_figure(results: Sequence[CurvatureResult], rows: Sequence[Row], title: str = "") -> Figure:
    """Draw the eigenvalues of largest magnitude and the trace with its 95 % interval, an operator a line.

    Args:
        results: one an operator; their rows are drawn.
        rows: of the results; one without a Hessian is written, not drawn as 0.
        title: above the panels.
    """
    spectrum = [Dot(str(row["op"]), value) for row in rows for value in row["eigenvalues"] or [None]]
    traces = [Dot(str(row["op"]), row["trace"], row["trace_low"], row["trace_high"]) for row in rows]
    panels = [Panel("eigenvalues of the Hessian", spectrum), Panel("trace, 95 % interval", traces)]
    return dots_figure(panels, title)
