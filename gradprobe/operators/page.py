"""Tables of docs/operators.md; ``make docs`` writes them."""

import dataclasses
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gradprobe.operators.built_in import RELAXATIONS, THROTTLES
from gradprobe.operators.fields import text
from gradprobe.operators.registry import part, suited

START, END = "<!-- written by make docs: -->\n", "<!-- end of make docs -->\n"


def updated(page: str) -> str:
    """Return a page with the lines between `START` and `END` replaced by the tables of the built-in operators."""
    relaxations = _table(
        ("relaxation", "weights", "gradient", "budget K", "noise", "fields", "listed with", "source"),
        [_relaxation(name, part("relaxation", name)) for name in RELAXATIONS],
    )
    throttles = _table(
        ("throttle", "tokens that the encoder reads", "gradient", "fields", "source"),
        [_throttle(name, part("throttle", name)) for name in THROTTLES],
    )
    return re.sub(f"{START}.*{END}", lambda _: f"{START}{relaxations}\n{throttles}{END}", page, flags=re.DOTALL)


def _relaxation(name: str, thing: Any) -> tuple[str, ...]:
    about = thing.about
    unmet = "asked by a loss" if hasattr(thing, "penalty") else "no"
    budget = "kept" if about.budget is not None else unmet
    noise = "yes" if about.stochastic else "no"
    throttle = _code(suited(name)) if about.gradient != "none" else ""
    return _code(name), about.formula, about.gradient, budget, noise, _fields(thing), throttle, about.source


def _throttle(name: str, thing: Any) -> tuple[str, ...]:
    return _code(name), thing.about.formula, thing.about.gradient, _fields(thing), thing.about.source


def _fields(thing: Any) -> str:
    return ", ".join(_code(f"{f.name}={text(f.default)}") for f in dataclasses.fields(thing))


def _code(name: str) -> str:
    return f"`{name}`"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, [":--"] * len(header), *([cell.replace("|", "\\|") or "–" for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(updated(path.read_text(encoding="utf-8")), encoding="utf-8")
