"""The circumstances of an answer: versions, machine, seconds and date; no part of any question."""

import platform
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import version
from typing import Any

import torch


def versions() -> dict[str, str]:
    """Return the versions of the packages that decide the last bits of a result."""
    own = import_module("gradprobe").__version__  # metadata are missing where it is on the path but not installed
    return {"gradprobe": own} | {package: version(package) for package in ("torch", "timm", "numpy")}


def environment(seconds: float, skipped: tuple[str, ...]) -> dict[str, Any]:
    """Return the circumstances of an answer: versions, machine, seconds and date; no part of the question."""
    return {
        "versions": versions(),
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "seconds": round(seconds, 2),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "skipped": list(skipped),
    }
