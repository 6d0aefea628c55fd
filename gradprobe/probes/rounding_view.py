"""Sentences on the cost of bfloat16, for the probes that measure it."""

from collections.abc import Mapping, Sequence
from typing import Any

from gradprobe.plotting.columns import Row

WORDS = {"loss": "losses", "gradient": "gradients in the scores", "hessian": "Hessian products"}


def columns_of(rounding: Mapping[str, float | None]) -> dict[str, Any]:
    """Return the fields of a row: ``rounding_loss``, ``rounding_gradient``, ...; none of a run in float32.

    Example:
        >>> columns_of({"images": 8, "loss": 0.25})
        {'rounding_images': 8, 'rounding_loss': 0.25}
    """
    return {f"rounding_{name}": value for name, value in rounding.items()}


def lines(rows: Sequence[Row]) -> list[str]:
    """Return a sentence for each row that was measured in bfloat16.

    Example:
        >>> lines([{"op": "hard", "rounding_images": 8, "rounding_loss": 0.013}, {"op": "scale"}])
        ['hard: in bfloat16, against float32 on the first 8 images: losses off by 1.3 %']
    """
    sentences = []
    for row in rows:
        if "rounding_images" in row:
            against = f"in bfloat16, against float32 on the first {row['rounding_images']} images"
            errors = {word: row[f"rounding_{name}"] for name, word in WORDS.items() if f"rounding_{name}" in row}
            off = ", ".join(f"{word} off by {_share(error)}" for word, error in errors.items())
            sentences.append(f"{row['op']}: {against}: {off}")
    return sentences


def _share(error: float | None) -> str:
    return "no number" if error is None else f"{100 * error:.2g} %"
