"""The lowest version of every direct dependency, as pip takes it: ``python tests/floors.py [EXTRA ...]``.

Without an extra the core's are printed; with extras also theirs, and the core's only as least versions, because a
package of an extra may ask for more of them.
"""

import re
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

PYPROJECT = Path(__file__).parent.parent / "pyproject.toml"
REQUIREMENT = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)>=(?P<lowest>[0-9.]+)(?:,<[0-9.]+)?$")


def declared() -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """Lower bounds of the core's dependencies, and of each extra's: ``({name: version}, {extra: {name: version}})``.

    Raises:
        ValueError: a requirement that is not ``name>=version``, perhaps with an upper bound after it.
    """
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    extras = {extra: _bounds(each) for extra, each in project["optional-dependencies"].items()}
    return _bounds(project["dependencies"]), extras


def lowest(extras: Iterable[str] = ()) -> list[str]:
    """Requirements that install the lowest versions."""
    core, optional = declared()
    chosen = {name: version for extra in extras for name, version in optional[extra].items()}
    return [f"{name}{'>=' if chosen else '=='}{version}" for name, version in core.items()] + [
        f"{name}=={version}" for name, version in chosen.items()
    ]


def _bounds(requirements: Iterable[str]) -> dict[str, str]:
    matches = {each: REQUIREMENT.match(each) for each in requirements}
    if odd := [each for each, match in matches.items() if match is None]:
        raise ValueError(f"{', '.join(odd)}: write name>=version, so that the lowest can be installed")
    return {match["name"]: match["lowest"] for match in matches.values() if match}


if __name__ == "__main__":
    print("\n".join(lowest(sys.argv[1:])))
