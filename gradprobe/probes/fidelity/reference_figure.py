"""The figure of references: how precisely each gradient of the smoothed objective is known."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from gradprobe.plotting.columns import Row
from gradprobe.plotting.dots import Dot, Panel, dots_figure
from gradprobe.probes.fidelity.reference_result import ReferenceResult


def precision_figure(results: Sequence[ReferenceResult], rows: Sequence[Row], title: str = "") -> Figure:
    """Draw squared norm and reliability of the gradient at each sigma, with 95 % intervals.

    Args:
        results: their rows are drawn.
        rows: of the results.
        title: above the panels.
    """
    sigmas = [at for row in rows for at in row["sigmas"]]
    panels = [
        Panel(heading, [Dot(f"sigma = {at['sigma']:g}", at[key], at[f"{key}_low"], at[f"{key}_high"]) for at in sigmas])
        for heading, key in (("squared norm of the gradient", "signal"), ("reliability", "reliability"))
    ]
    return dots_figure(panels, title)
