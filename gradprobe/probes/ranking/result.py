"""Result of the ranking probe for one seed, and its row over several."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from gradprobe.probes.result import ProbeResult
from gradprobe.probes.seeds import shares_images
from gradprobe.settings import RANKED
from gradprobe.store.results import check_shapes

if TYPE_CHECKING:
    from gradprobe.statistics.estimates import Estimate

TOP, BOTTOM = 0, 1  # columns of the means


@dataclass(frozen=True, eq=False, repr=False)
class RankingResult(ProbeResult):
    """Similarity of the first and of the last tokens of a ranking, for one seed.

    Attributes:
        question: all that decides the numbers, JSON only; its hash is the key.
        scored: whether tokens have scores; else the K last are drawn at random from those that a selector drops.
        means: of each image, mean cosine of two different tokens within the K first, within the K last, across, and of
            all N, ``(I, 4)``.
        relevant: share of tokens that matter among the K first, the K last and all N, ``(I, 3)``; ``(I, 0)`` where it
            is not known which matter.
        scores: of the first image's tokens, ``(N,)``.
        ends: numbers of its K first tokens, then of its K last, best first, ``(2K,)``.
        similarity: cosines of these, ``(2K, 2K)``.
        cells: pixels of its tokens, ``(N, c, c, 3)``; none where tokens have no place in a picture.
        grids: rows and columns of its pictures, ``(G, 2)``.
        environment: versions, machine, seconds and date; not part of the key.

    Raises:
        GradprobeError: the arrays do not have these shapes.
    """

    question: dict[str, Any]
    scored: bool
    means: np.ndarray
    relevant: np.ndarray
    scores: np.ndarray
    ends: np.ndarray
    similarity: np.ndarray
    cells: np.ndarray
    grids: np.ndarray
    environment: dict[str, Any]
    probe: ClassVar[str] = "ranking"

    def __post_init__(self) -> None:
        images, both = self.question["images"], 2 * self.question["k"]
        shares = 3 if self.relevant.size else 0
        edge = self.cells.shape[-2] if self.cells.ndim else 0
        check_shapes(
            self,
            {
                "means": (images, 4),
                "relevant": (images, shares),
                "scores": (self.scores.size,),
                "ends": (both,),
                "similarity": (both, both),
                "cells": (len(self.scores) if len(self.grids) else 0, edge, edge, 3),
                "grids": (len(self.grids), 2),
            },
        )

    @property
    def gaps(self) -> np.ndarray:
        """Mean cosine within the K last less that within the K first, ``(I,)``."""
        return self.means[:, BOTTOM] - self.means[:, TOP]

    def row(self, baseline: "RankingResult | None" = None, path: Path | None = None) -> dict[str, Any]:
        """Return a row of the table, over the images of this seed; see `over_seeds` for several.

        Args:
            baseline: not compared with; rows of every probe take one.
            path: where the result is stored.
        """
        return over_seeds([self], [path])

    def pictures(self) -> list[tuple[np.ndarray, tuple[int, int]]]:
        """Return the first image as the tokens cover it: pixels ``(H, W, 3)`` in [0, 1], and rows and columns."""
        pictures, first = [], 0
        for rows, columns in self.grids.tolist():
            cells = self.cells[first : first + rows * columns] / 255
            edge = cells.shape[1]
            image = cells.reshape(rows, columns, edge, edge, 3).swapaxes(1, 2).reshape(rows * edge, columns * edge, 3)
            pictures.append((image, (rows, columns)))
            first += rows * columns
        return pictures


def over_seeds(results: Sequence[RankingResult], paths: Sequence[Path | None] = ()) -> dict[str, Any]:
    """Return one row for the same question under several seeds.

    Of one seed the intervals are over its images. Seeds of a plan, which is not trained, are more images, unless they
    share them. Seeds of a training have an interval from five on, with their images nested in them.

    Args:
        results: of one operator or plan, a seed each.
        paths: where they are stored.

    Returns:
        Plain numbers, strings and None (undefined), ready for JSON: of ``top``, ``bottom``, ``across`` and ``every``
        the mean cosine, of ``gap`` bottom less top, of ``held`` the share of images in which that is above 0, and the
        shares of tokens that matter, each with ``_low``, ``_high`` and ``_by_seed``.
    """
    question, numbers = results[0].question, dict[str, Any]()
    for column, name in enumerate(("top", "bottom", "across", "every")):
        numbers |= _fields(name, results, [r.means[:, column] for r in results], (-1, 1))
    numbers |= _fields("gap", results, [r.gaps for r in results], (-2, 2))
    numbers |= _fields("held", results, [r.gaps > 0 for r in results], (0, 1))
    shares = ("relevant_top", "relevant_bottom", "relevant")[: results[0].relevant.shape[1]]
    for column, name in enumerate(shares):
        numbers |= _fields(name, results, [r.relevant[:, column] for r in results], (0, 1))
    denoiser = {"denoiser": question["denoiser"]} if "denoiser" in question else {}
    return {
        "op": question["op"],
        **denoiser,
        "k": question["k"],
        **numbers,
        "scored": results[0].scored,
        "seeds": [r.question["seed"] for r in results],
        "steps": question["steps"],
        "images": question["images"],
        "tokens": len(results[0].scores),
        "seconds": [r.environment.get("seconds") for r in results],
        "paths": [str(path) for path in paths if path is not None],
    }


def _fields(
    name: str, results: Sequence[RankingResult], each: Sequence[np.ndarray], possible: tuple[float, float]
) -> dict[str, Any]:
    """Return a number's mean over seeds and images, the ends of its interval, and its values by seed."""
    from gradprobe.statistics.estimates import finite
    from gradprobe.statistics.nested import nested

    shared, seeds = shares_images(results), [_mean(x) for x in each]
    if str(results[0].question["op"]).startswith(RANKED) and not shared:
        mean = _mean(np.concatenate(each))
    else:
        mean = seeds[0] if len(seeds) == 1 else nested(seeds, "identity", shared, possible)
    low, high = (finite(float(np.clip(end, *possible))) for end in (mean.low, mean.high))
    by_seed = [finite(seed.value) for seed in seeds]
    return {name: finite(mean.value), f"{name}_low": low, f"{name}_high": high, f"{name}_by_seed": by_seed}


def _mean(values: np.ndarray) -> "Estimate":
    """Return the mean over images with its interval: Wilson's of truth values, else Student's."""
    from gradprobe.statistics.estimates import batch_mean
    from gradprobe.statistics.proportions import wilson

    if values.dtype == bool:
        return wilson(int(values.sum()), len(values))
    return batch_mean(values.astype(np.float64)).estimate()
