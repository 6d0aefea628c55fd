"""Rows of references -> tables for the terminal."""

from collections.abc import Sequence

from rich.table import Table

from gradprobe.plotting.columns import Row, short
from gradprobe.probes.fidelity.view import Cell, at_sigmas, estimated


def table(rows: Sequence[Row]) -> Table:
    """Return how precisely each gradient of the smoothed objective is known: squared norm and reliability.

    Args:
        rows: as `gradprobe.probes.fidelity.reference_result.ReferenceResult.row` makes them.
    """
    cells: dict[str, Cell] = {
        "|grad|² [95 %]": lambda at: f"{short(at['signal'])} [{short(at['signal_low'])}, {short(at['signal_high'])}]",
        "reliability [95 %]": lambda at: estimated(at, "reliability"),
    }
    return at_sigmas(rows, cells)
