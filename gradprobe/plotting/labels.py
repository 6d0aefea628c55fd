"""Names beside points of a figure, placed so that none lies on another."""

from collections.abc import Iterator, Sequence
from math import cos, radians, sin
from typing import NamedTuple

from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

ANGLES = (0, 30, -30, 60, -60, 90, -90, 120, -120, 150, -150, 180)  # degrees, in the order in which they are tried
DISTANCES = (4.5, 8, 12, 17, 23, 30, 38, 48, 60, 75, 92)  # points
MARK = 2.6  # points from the centre of a mark to where a name may begin


class Box(NamedTuple):
    """Rectangle, in points."""

    left: float
    bottom: float
    right: float
    top: float

    def meets(self, other: "Box") -> bool:
        """Return True if the two overlap."""
        return (
            self.left < other.right and other.left < self.right and self.bottom < other.top and other.bottom < self.top
        )

    def holds(self, x: float, y: float) -> bool:
        """Return True if a point lies within."""
        return self.left < x < self.right and self.bottom < y < self.top


def text_size(text: str, size: float, bold: bool = False) -> tuple[float, float]:
    """Return the width and height of a line in the font of the figures, in points."""
    weight = "bold" if bold else "normal"
    path = TextPath((0, 0), text, prop=FontProperties(family="DejaVu Sans", size=size, weight=weight))
    return float(path.get_extents().width) + 0.1 * size, 1.15 * size


def placed(
    points: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float] | None],
    bounds: Box,
) -> list[Box | None]:
    """Return a place for the name of each point, near it and on no mark, no other name and no other's line.

    Names are placed in their order, so that the first ones have the choice.

    Args:
        points: Centres of all marks, in points.
        sizes: Width and height of each name; None: the point has none.
        bounds: Rectangle in which names lie.

    Returns:
        Places; None for a point without a name, or whose name has no place.

    Example:
        >>> boxes = placed([(50.0, 50.0), (50.0, 51.0)], [(30.0, 6.0), (30.0, 6.0)], Box(0, 0, 200, 100))
        >>> boxes[0].meets(boxes[1])
        False
    """
    marks = [Box(x - MARK, y - MARK, x + MARK, y + MARK) for x, y in points]
    boxes: list[Box | None] = [None] * len(points)
    lines: list[list[tuple[float, float]]] = []
    for i, ((x, y), size) in enumerate(zip(points, sizes, strict=True)):
        if size is None:
            continue
        taken = [box for box in boxes if box is not None] + marks
        for box, line in _candidates(x, y, size):
            inside = box.left >= bounds.left and box.right <= bounds.right
            inside = inside and box.bottom >= bounds.bottom and box.top <= bounds.top
            crossed = any(box.holds(*p) for other in lines for p in other)
            crossing = any(other.holds(*p) for other in boxes if other is not None for p in line)
            if inside and not crossed and not crossing and not any(box.meets(other) for other in taken):
                boxes[i] = box
                lines.append(line)
                break
    return boxes


def spread(values: Sequence[float], apart: float, low: float, high: float) -> list[float]:
    """Return values moved as little as it takes for neighbours to be a distance apart, in the order they had.

    Args:
        values: Any number, in any order.
        apart: Least distance of two; less if there is no room for it.
        low: Least value returned.
        high: Largest value returned.

    Example:
        >>> spread([0.5, 0.5, 0.9], 0.2, 0, 1)
        [0.4, 0.6, 0.9]
    """
    apart = min(apart, (high - low) / max(len(values) - 1, 1))
    order = sorted(range(len(values)), key=lambda i: values[i])
    groups: list[tuple[float, int]] = []  # (mean of the values less their steps, count): those that are pushed together
    for place, i in enumerate(order):
        mean, count = values[i] - place * apart, 1
        while groups and groups[-1][0] > mean:
            before, many = groups.pop()
            mean, count = (before * many + mean * count) / (many + count), many + count
        groups.append((mean, count))
    top = high - (len(values) - 1) * apart
    bases = [min(max(mean, low), top) for mean, count in groups for _ in range(count)]
    moved = [0.0] * len(values)
    for place, (i, base) in enumerate(zip(order, bases, strict=True)):
        moved[i] = round(base + place * apart, 9)
    return moved


def ends(point: tuple[float, float], box: Box) -> tuple[float, float]:
    """Return the point of a box's edge that is nearest to a mark, where the line to it ends."""
    x, y = point
    return min(max(x, box.left), box.right), min(max(y, box.bottom), box.top)


def _candidates(x: float, y: float, size: tuple[float, float]) -> Iterator[tuple[Box, list[tuple[float, float]]]]:
    """Yield places for a name, the nearest first, each with points of the line from the mark to it."""
    width, height = size
    for distance in DISTANCES:
        for angle in ANGLES:
            at_x, at_y = x + distance * cos(radians(angle)), y + distance * sin(radians(angle))
            left = at_x if abs(angle) < 90 else at_x - width if abs(angle) > 90 else at_x - width / 2
            bottom = at_y - height / 2 if abs(angle) != 90 else at_y if angle > 0 else at_y - height
            box = Box(left, bottom, left + width, bottom + height)
            to_x, to_y = ends((x, y), box)
            line = [(x + t / 12 * (to_x - x), y + t / 12 * (to_y - y)) for t in range(13)]
            yield box, line
