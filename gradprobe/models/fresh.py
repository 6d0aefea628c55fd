"""The trained parts of a task, freshly initialised."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from gradprobe.operators.registry import label, part


def freshly_trained(
    names: Mapping[str, Any], dim: int, seed: int, like: Tensor, scorer: str | None, denoiser: str | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a task's names and its two trained parts, both fresh; other ones where they are named.

    Args:
        names: of the task.
        dim: D.
        seed: of both.
        like: whose dtype and device they get.
        scorer: name and fields; None: that of the names.
        denoiser: likewise; ``none`` for none.
    """
    changed = {kind: label(part(kind, name)) for kind, name in (("scorer", scorer), ("denoiser", denoiser)) if name}
    known = {name: value for name, value in {**names, **changed}.items() if (name, value) != ("denoiser", "none")}
    return known, both_trained(known, dim, seed, like)


def both_trained(names: Mapping[str, Any], dim: int, seed: int, like: Tensor) -> dict[str, Any]:
    """Return a fresh ``scorer`` and, where a task's names have one, ``denoiser`` for tokens of width ``dim``.

    Args:
        names: of a task; each kind's name and fields.
        dim: D.
        seed: of both.
        like: whose dtype and device they get.
    """
    made = {kind: part(kind, names.get(kind, "none")).make(dim, seed) for kind in ("scorer", "denoiser")}
    return {
        kind: None if each is None else each.to(device=like.device, dtype=like.dtype) for kind, each in made.items()
    }
