"""Operators of installed packages, by the entry points of their kind (``gradprobe.relaxations``, ...)."""

from importlib.metadata import EntryPoint, entry_points
from typing import Any

from gradprobe.errors import GradprobeError
from gradprobe.operators.user_files import reason_of


def plugins(kind: str) -> dict[str, list[EntryPoint]]:
    """Return the different entry points of a kind by name; more than one under a name is a clash."""
    points: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=f"gradprobe.{kind}s"):
        others = points.setdefault(point.name, [])
        if (package_of(point), point.value) not in [(package_of(each), each.value) for each in others]:
            others.append(point)
    return points


def package_of(point: EntryPoint) -> str:
    """Return name and version of the package that an entry point belongs to."""
    return f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown package"


def origin_of(point: EntryPoint) -> str:
    """Return package and entry point as the words of an error."""
    return f"of the package {package_of(point)} (entry point {point.value})"


def load(kind: str, name: str) -> Any:
    """Import the class or function of an entry point.

    Raises:
        GradprobeError: Several packages offer the name, or its code cannot be loaded.
    """
    point, *others = points = plugins(kind)[name]
    if others:
        offers = " and ".join(f"{package_of(each)} ({each.value})" for each in points)
        raise GradprobeError(f"{kind} {name!r} is offered by {offers}; uninstall all but one of these packages")
    culprit = f"{kind} {name!r} {origin_of(point)}"
    try:
        code = point.load()
    except (Exception, SystemExit) as error:  # anyone's package
        raise GradprobeError(
            f"{culprit} cannot be loaded: {reason_of(error)}; update or uninstall the package"
        ) from error
    if not callable(code):
        raise GradprobeError(f"{culprit} is {type(code).__name__}, no class or function; ask its author")
    return code
