"""Purchases of a budget: sizes, further seeds and what was left out, in a note beside the answers (no torch)."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from gradprobe.comparison.sizes import SIZES
from gradprobe.files import atomic_write
from gradprobe.store.leftovers import temporary


@dataclass
class Agreed:
    """Purchases of a budget, kept so that the same command goes on where it was stopped, and says the same again.

    Attributes:
        times: seconds an image of each operator: gradient, forward, deployed tokens.
        sizes: name of the size of each probe that was begun.
        trainings: numbers of the trainings of retention beyond those of its size.
        left: labels of questions that were left out.
        lines: how the time was kept, a sentence each.
        spent: seconds until now.
        done: whether nothing is left to ask.
    """

    times: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    sizes: dict[str, str] = field(default_factory=dict)
    trainings: list[int] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    spent: float = 0.0
    done: bool = False

    @property
    def size(self) -> str:
        """Return the size in words: one name, or the probes of each."""
        probes: dict[str, list[str]] = {}
        for probe, size in self.sizes.items():
            probes.setdefault(size, []).append(probe)
        if len(probes) < 2:
            return next(iter(probes), next(iter(SIZES)))
        return "; ".join(f"{size} ({', '.join(names)})" for size, names in probes.items())


def note_path(folder: Path | str, asked: Mapping[str, Any]) -> Path:
    """Return the file of the note about a comparison.

    Args:
        folder: of the answers.
        asked: all that decides what the budget buys, in JSON types.
    """
    return Path(folder) / f"compare-{hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:12]}.json"


def read_note(path: Path) -> Agreed | None:
    """Return what was agreed when a comparison was first asked for; None if it was not, or cannot be read."""
    try:
        noted = json.loads(path.read_text(encoding="utf-8"))["agreed"]
        agreed = Agreed(**{each.name: type(getattr(Agreed(), each.name))(noted[each.name]) for each in fields(Agreed)})
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return agreed if set(agreed.sizes.values()) <= set(SIZES) else None


def write_note(path: Path, asked: Mapping[str, Any], agreed: Agreed) -> None:
    """Write what was agreed.

    Raises:
        GradprobeError: the file cannot be written.
    """
    atomic_write(path, json.dumps({**asked, "agreed": asdict(agreed)}, indent=2).encode(), temporary(path.parent))


def left_lines(agreed: Agreed) -> list[str]:
    """Return a sentence on questions that were left out; none where there are none."""
    counts: dict[str, int] = {}
    for label in agreed.left:
        name = label.partition(" of ")[0]
        counts[name] = counts.get(name, 0) + 1
    probes = ", ".join(f"{name} ({count} question{'s' if count > 1 else ''})" for name, count in counts.items())
    return [f"left out for want of time: {probes}; give a longer --budget"] if probes else []


def time_in_words(seconds: float) -> str:
    """Return a time to the precision that planning has.

    Example:
        >>> time_in_words(45.2), time_in_words(150), time_in_words(5000)
        ('45 s', '2.5 min', '83 min')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.2g} min" if seconds < 600 else f"{seconds / 60:.0f} min"
