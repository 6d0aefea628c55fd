"""Numbers and words of landscape pictures, still or interactive; nothing is drawn here."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from gradprobe.operators.temperature import family
from gradprobe.plotting.colours import colours_of
from gradprobe.plotting.columns import short
from gradprobe.probes.landscape.result import LandscapeResult
from gradprobe.probes.landscape.view import grid

Results = Sequence[LandscapeResult]
LINES = 12  # about how many contour lines there are from the lowest to the highest loss
UNITS = {"pca": "Euclidean norm", "checkpoints": "shares of the way"}  # else filter units


def planes(results: Results) -> list[LandscapeResult]:
    """Return the results that have a surface; the others are lines."""
    return [result for result in results if len(result.a) > 1]


def lines(results: Results) -> list[LandscapeResult]:
    """Return the results of a single row."""
    return [result for result in results if len(result.a) == 1]


def rise(result: LandscapeResult) -> NDArray[np.float64]:
    """Return the mean loss above that of theta, ``L - L(0)``, ``(A, B)``; NaN and infinities stay what they are."""
    with np.errstate(invalid="ignore"):
        return result.surface - centre(result)


def centre(result: LandscapeResult) -> float:
    """Return the mean loss at theta itself."""
    return float(result.centre.mean(dtype=np.float64))


def steps(result: LandscapeResult) -> NDArray[np.float64]:
    """Return the steps ``|L_{j+1} - L_j|`` along d2 in every row, ``(A, B - 1)``; NaN where an end is not finite."""
    surface = np.where(np.isfinite(result.surface), result.surface, np.nan)
    return np.abs(np.diff(surface))


def midpoints(result: LandscapeResult) -> NDArray[np.float64]:
    """Return the coordinates along d2 halfway between neighbours, where a step is drawn, ``(B - 1,)``."""
    return (result.b[1:] + result.b[:-1]) / 2


def limit(results: Results) -> float:
    """Return the largest finite distance from the loss of theta: one scale, -limit to limit, shows every result."""
    finite = [np.abs(values[np.isfinite(values)]) for values in map(rise, results)]
    return max((float(values.max()) for values in finite if values.size), default=0.0) or 1.0


def heights(results: Results) -> tuple[float, float]:
    """Return the ends of a height axis: every finite value above theta's loss and 0, with a little room."""
    values = np.concatenate([[0.0], *(rise(result).ravel() for result in results)])
    low, high = np.min(values[np.isfinite(values)]), np.max(values[np.isfinite(values)])
    pad = 0.05 * (high - low) or 1.0
    return float(low - pad), float(high + pad)


def levels(result: LandscapeResult) -> NDArray[np.float64]:
    """Return round, evenly spaced heights of contour lines between the ends; none if the surface is constant."""
    return shared_levels([result])


def shared_levels(results: Results) -> NDArray[np.float64]:
    """Return round, evenly spaced heights between the ends of all surfaces, for contour lines that compare them."""
    values = np.concatenate([rise(result).ravel() for result in results])
    values = values[np.isfinite(values)]
    if not values.size or not np.ptp(values):
        return np.array([])
    ticks = MaxNLocator(LINES).tick_values(float(values.min()), float(values.max()))
    return ticks[(ticks > values.min()) & (ticks < values.max())]


def colours(results: Results) -> dict[str, str]:
    """Return a colour for each operator, as in the coherence figures."""
    operators = list(dict.fromkeys(str(result.question["op"]) for result in results))
    return colours_of(operators)


def strokes(results: Results, palette: Mapping[str, str] | None = None) -> list[tuple[str, int]]:
    """Return the colour of each result's operator, and the number of results before it that differ in tau or noise."""
    palette = palette or colours(results)
    every = [family(result.question["op"]) for result in results]
    return [(palette[r.question["op"]], every[:i].count(every[i])) for i, r in enumerate(results)]


def axis_label(result: LandscapeResult, which: int) -> str:
    """Return the name and unit of a coordinate: of d1 (1; ``a``, rows) or of d2 (2; ``b``, columns)."""
    return f"d{which}, {UNITS.get(result.question['axes'], 'filter units')}"


def description(result: LandscapeResult) -> list[str]:
    """Return the words of a panel: loss at theta, cells that are not finite, share of the path in its plane."""
    values = rise(result)
    constant = np.isfinite(values).all() and not np.ptp(values)
    words = [f"L(0) = {centre(result):.4g}" + (", constant" if constant else "")]
    if counts := nonfinite(values):
        words.append(f"not finite: {counts}")
    if len(result.explained):
        words.append("of the path: d1 {:.0f} %, d2 {:.0f} %".format(*(100 * result.explained)))
    if len(result.residual):
        words.append(f"path up to {100 * result.residual.max():.0f} % off the plane")
    return words


def caption(results: Results) -> str:
    """Return the grid and sizes behind the numbers, a line for each kind; a roughness without them means nothing."""
    texts = [f"{grid(result.row())}, K = {result.question['k']}" for result in results]
    return "\n".join(dict.fromkeys(texts))


def full_title(results: Results, title: str) -> str:
    """Return a title with the number of images and the noise, if these are the same for all results."""
    sizes = {f"{result.question['images']} images, {result.question['noise']} noise" for result in results}
    return f"{title}, {sizes.pop()}" if len(sizes) == 1 else title


def nonfinite(values: NDArray) -> str:
    """Return the numbers of cells that are not finite, in words; empty if all are.

    Example:
        >>> nonfinite(np.array([1.0, np.nan, -np.inf, np.nan])), nonfinite(np.ones(2))
        ('2 NaN, 1 infinite', '')
    """
    counts = {"NaN": int(np.isnan(values).sum()), "infinite": int(np.isinf(values).sum())}
    return ", ".join(f"{count} {word}" for word, count in counts.items() if count)


def variation(result: LandscapeResult) -> str:
    """Return the mean step along d2 with its 95 % interval over images, and the counts of zero and undefined steps."""
    sizes = steps(result)
    row = result.row()
    low, high = row.get("d2_low"), row.get("d2_high")
    text = f"mean step {short(float(sizes.mean()))}" + (f" [{short(low)}, {short(high)}]" if low and high else "")
    zero, undefined = int((sizes == 0).sum()), int(np.isnan(sizes).sum())
    text += f"; {zero} of {sizes.size} steps exactly 0" if zero else ""
    return text + (f"; {undefined} of {sizes.size} undefined" if undefined else "")
