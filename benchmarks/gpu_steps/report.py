"""Report of a step: a JSON file that is written whenever something was measured, so that nothing measured is lost."""

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gradprobe.files import atomic_write

DONE, BOUND, FAILED, RUNNING = "done", "bound reached", "failed", "running"


@dataclass
class Report:
    """Rows, lines of the table, and what is missing, of one step.

    Attributes:
        path: File.
        head: Step, settings and machine.
        seconds: Bound of the step.
        judged: Whether numbers are held against their aims.
        rows: Measurements, JSON only.
        lines: Lines of the table: ``what``, ``value``, ``aim`` and ``met``.
        missing: Measurements that were left out, in words.
        clock: Function that returns the time in seconds.
    """

    path: Path
    head: Mapping[str, Any]
    seconds: float = math.inf
    judged: bool = True
    rows: list[dict[str, Any]] = field(default_factory=list)
    lines: list[dict[str, Any]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._began, self._date = self.clock(), datetime.now(UTC).isoformat(timespec="seconds")

    @property
    def left(self) -> float:
        """Seconds until the bound."""
        return self.seconds - (self.clock() - self._began)

    def row(self, values: Mapping[str, Any]) -> None:
        """Add a measurement."""
        self.rows.append(dict(values))
        self.write(RUNNING)

    def has(self, **key: Any) -> bool:
        """Tell whether a measurement with these values is there, from this run or an earlier one."""
        return any(all(row.get(name) == value for name, value in key.items()) for row in self.rows)

    def over(self, what: str) -> bool:
        """Tell whether the bound is reached before a measurement, which is then noted as missing."""
        if self.left > 0:
            return False
        self.missing.append(what)
        return True

    def line(self, what: str, value: str, aim: str = "", met: bool | None = None) -> None:
        """Add a line of the table."""
        self.lines.append({"what": what, "value": value, "aim": aim, "met": met if aim and self.judged else None})

    def end(self, error: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Write the file for the last time, and return its content."""
        return self.write(FAILED if error else BOUND if self.missing else DONE, error)

    def write(self, status: str, error: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Write the file, whole or not at all, and return its content."""
        content = strict({
            **self.head, "status": status, "date": self._date, "seconds": round(self.clock() - self._began, 2),
            "bound": self.seconds, "missing": self.missing, "error": error, "lines": self.lines, "rows": self.rows,
        })  # fmt: skip
        atomic_write(self.path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())
        return content


def read(path: Path) -> dict[str, Any] | None:
    """Return the content of a step's file; None if there is none that can be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    whole = isinstance(content, dict) and {"status", "settings", "machine", "rows"} <= content.keys()
    return content if whole else None


def strict(value: Any) -> Any:
    """Return a value in strict JSON types: floats that are not finite become None, tuples lists.

    Example:
        >>> strict({"a": (1, float("nan"))})
        {'a': [1, None]}
    """
    if isinstance(value, Mapping):
        return {str(name): strict(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [strict(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
