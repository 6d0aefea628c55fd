"""What the pictures of loss landscapes show, still or interactive: the numbers and the words, nothing drawn yet."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from gradprobe.plotting.columns import short
from gradprobe.plotting.style import OTHERS
from gradprobe.probes.coherence.figure import COLOURS
from gradprobe.probes.landscape.result import LandscapeResult
from gradprobe.probes.landscape.view import grid

Results = Sequence[LandscapeResult]
APART = {"steps": "@{}", "noise": "{} noise", "k": "K = {}", "axes": "axes {}", "backbone": "{}", "scorer": "{}"}
LINES = 8  # about how many contour lines a panel has
UNITS = {"pca": "Euclidean norm", "checkpoints": "shares of the way"}  # else filter units


def planes(results: Results) -> list[LandscapeResult]:
    """The results that have a surface; the others are lines."""
    return [result for result in results if len(result.a) > 1]


def lines(results: Results) -> list[LandscapeResult]:
    """The results of a single row."""
    return [result for result in results if len(result.a) == 1]


def rise(result: LandscapeResult) -> NDArray[np.float64]:
    """The mean loss above that of theta, ``L - L(0)``, ``(A, B)``; NaN and infinities stay what they are."""
    with np.errstate(invalid="ignore"):
        return result.surface - centre(result)


def centre(result: LandscapeResult) -> float:
    """The mean loss at theta itself."""
    return float(result.centre.mean(dtype=np.float64))


def steps(result: LandscapeResult) -> NDArray[np.float64]:
    """Stepwise variation ``|L_{j+1} - L_j|`` along d2 in every row, ``(A, B - 1)``; NaN where an end is not finite."""
    surface = np.where(np.isfinite(result.surface), result.surface, np.nan)
    return np.abs(np.diff(surface))


def between(result: LandscapeResult) -> NDArray[np.float64]:
    """Coordinates along d2 halfway between neighbours, where a step is drawn, ``(B - 1,)``."""
    return (result.b[1:] + result.b[:-1]) / 2


def bound(results: Results) -> float:
    """The largest finite distance from the loss of theta: one scale from ``-bound`` to ``bound`` shows every result."""
    finite = [np.abs(values[np.isfinite(values)]) for values in map(rise, results)]
    return max((float(values.max()) for values in finite if values.size), default=0.0) or 1.0


def heights(results: Results) -> tuple[float, float]:
    """Ends of a height axis: every finite value above theta's loss and 0, with a little room."""
    values = np.concatenate([[0.0], *(rise(result).ravel() for result in results)])
    low, high = np.min(values[np.isfinite(values)]), np.max(values[np.isfinite(values)])
    pad = 0.05 * (high - low) or 1.0
    return float(low - pad), float(high + pad)


def levels(result: LandscapeResult) -> NDArray[np.float64]:
    """Round heights of contour lines, evenly spaced, strictly between the ends; none if the surface is constant."""
    values = rise(result)
    values = values[np.isfinite(values)]
    if not values.size or not np.ptp(values):
        return np.array([])
    ticks = MaxNLocator(LINES).tick_values(float(values.min()), float(values.max()))
    return ticks[(ticks > values.min()) & (ticks < values.max())]


def labels(results: Results) -> list[str]:
    """What tells the results apart: the operator, and whatever else differs between them."""
    asked = [result.question for result in results]
    apart = {name: form for name, form in APART.items() if len({str(question[name]) for question in asked}) > 1}
    return [" ".join([q["op"], *(form.format(q[name]) for name, form in apart.items())]) for q in asked]


def colours(results: Results) -> dict[str, str]:
    """A colour for each operator, as in the coherence figures."""
    operators = list(dict.fromkeys(str(result.question["op"]) for result in results))
    free = iter(OTHERS * len(operators))
    return {op: COLOURS.get(op) or next(free) for op in operators}


def paints(results: Results, palette: Mapping[str, str] | None = None) -> list[tuple[str, int]]:
    """The colour of each result's operator, and how many before it have the same one."""
    palette = palette or colours(results)
    every = [palette[result.question["op"]] for result in results]
    return [(colour, every[:i].count(colour)) for i, colour in enumerate(every)]


def axis_label(result: LandscapeResult, which: int) -> str:
    """What a coordinate counts: that of d1 (1; ``a``, rows) or of d2 (2; ``b``, columns)."""
    return f"d{which}, {UNITS.get(result.question['axes'], 'filter units')}"


def about(result: LandscapeResult) -> list[str]:
    """What a panel has to tell: the loss at theta, cells that are not finite, how far a plane holds its checkpoints."""
    values = rise(result)
    told = [f"L(0) = {centre(result):.4g}" + (", constant" if np.isfinite(values).all() and not np.ptp(values) else "")]
    if found := flaws(values):
        told.append(f"not finite: {found}")
    if len(result.explained):
        told.append("of the path: d1 {:.0f} %, d2 {:.0f} %".format(*(100 * result.explained)))
    if len(result.residual):
        told.append(f"path up to {100 * result.residual.max():.0f} % off the plane")
    return told


def setting(results: Results) -> str:
    """The grid and the sizes behind the numbers, a line for each kind; a roughness without them means nothing."""
    texts = [f"{grid(result.row())}, K = {result.question['k']}" for result in results]
    return "\n".join(dict.fromkeys(texts))


def flaws(values: NDArray) -> str:
    """How many of the cells are not finite, in words; empty if all are.

    Example:
        >>> flaws(np.array([1.0, np.nan, -np.inf, np.nan])), flaws(np.ones(2))
        ('2 NaN, 1 infinite', '')
    """
    counts = {"NaN": int(np.isnan(values).sum()), "infinite": int(np.isinf(values).sum())}
    return ", ".join(f"{count} {word}" for word, count in counts.items() if count)


def variation(result: LandscapeResult) -> str:
    """Mean stepwise variation along d2 with its 95 % interval over images, how many steps exactly 0 or undefined."""
    sizes = steps(result)
    row = result.row()
    low, high = row.get("d2_low"), row.get("d2_high")
    text = f"mean step {short(float(sizes.mean()))}" + (f" [{short(low)}, {short(high)}]" if low and high else "")
    zero, undefined = int((sizes == 0).sum()), int(np.isnan(sizes).sum())
    text += f"; {zero} of {sizes.size} steps exactly 0" if zero else ""
    return text + (f"; {undefined} of {sizes.size} undefined" if undefined else "")
