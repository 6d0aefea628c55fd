"""Notation of grids and checkpoints in options and questions; importing it imports no torch."""

import re
from collections.abc import Sequence
from pathlib import Path

from gradprobe.errors import UsageError

FINGERPRINT = "sha256:"  # before the hash of a checkpoint's file
Point = int | str | Path  # a checkpoint: number of training steps, or a file


def parse_grid(text: str) -> tuple[int, int]:
    """Return rows along d1 and columns along d2 of ``61x31``; a line has one row, ``81``.

    Raises:
        UsageError: not a grid, or one too small to have steps.

    Example:
        >>> parse_grid("61x31"), parse_grid("81")
        ((61, 31), (1, 81))
    """
    parts = str(text).lower().replace("×", "x").split("x")
    if not (1 <= len(parts) <= 2 and all(re.fullmatch(" *[0-9]{1,6} *", part) for part in parts)):
        raise UsageError(f"--grid {text} is no grid; give rows x columns such as 61x31, or points of a line such as 81")
    sizes = [int(part) for part in parts]
    if min(sizes) < 3 and not (len(sizes) == 2 and sizes[0] == 1 and sizes[1] >= 3):
        raise UsageError(f"--grid {text} has no steps to compare; give at least 3 points along each direction")
    return (1, sizes[0]) if len(sizes) == 1 else (sizes[0], sizes[1])


def write_grid(text: str) -> str:
    """Return the one spelling of a grid.

    Example:
        >>> write_grid("61 X 31"), write_grid("1x81")
        ('61x31', '81')
    """
    rows, columns = parse_grid(text)
    return str(columns) if rows == 1 else f"{rows}x{columns}"


def parse_checkpoints(text: str) -> tuple[int | str, ...]:
    """Return the points of a line or plane: numbers of training steps, or files.

    Example:
        >>> parse_checkpoints("0,100,after.safetensors"), parse_checkpoints("")
        ((0, 100, 'after.safetensors'), ())
    """
    return tuple(int(part) if part.isdigit() else part for part in text.split(",") if part)


def write_checkpoints(points: Sequence[Point]) -> str:
    """Return checkpoints as a question names them: training steps as they are, files by their fingerprint.

    Raises:
        UsageError: a file that is not there.

    Example:
        >>> write_checkpoints((0, 100)), write_checkpoints(["sha256:0af164d9dc507fd8"])
        ('0,100', 'sha256:0af164d9dc507fd8')
    """
    from gradprobe.data.fingerprints import weights_file
    from gradprobe.data.hashes import file_hash

    def written(point: Point) -> str:
        text = str(point)
        if isinstance(point, int) or text.startswith(FINGERPRINT):
            return text
        return f"{FINGERPRINT}{file_hash(weights_file(text))[:16]}"

    return ",".join(map(written, points))
