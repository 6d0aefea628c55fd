"""Measurement of a search's gradient at some points: batches, smoothing, steps and a line.

Shapes: L layers, C = L - 1 counts, P numbers of the kernel; B batches, I their images, I_h held-out ones; T softnesses,
S sigmas, D pairs of draws, E steps, n points of the line.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from gradprobe.core import Noise, Stream
from gradprobe.errors import UsageError
from gradprobe.vlm.search.asked import Search
from gradprobe.vlm.search.gradient.pieces import Counts, Pieces, opened
from gradprobe.vlm.search.gradient.points import Point, point_of, whole_counts
from gradprobe.vlm.search.gradient.projected import Probed, in_tangent
from gradprobe.vlm.search.gradient.result import SearchGradient
from gradprobe.vlm.search.gradient.settings import GradientSettings
from gradprobe.vlm.search.gradient.smoothed import expected_draws, moments, pair_estimates
from gradprobe.vlm.search.repair import repaired

Array = NDArray[np.float64]
Progress = Callable[[str, int, int], None]  # description, done, of how many
LINE = 13  # points


def search_gradient(
    asked: Search,
    budget: float,
    at: Sequence[str],
    settings: GradientSettings,
    folder: Path,
    progress: Progress = lambda description, done, total: None,
) -> SearchGradient:
    """Probe the gradient that a search follows, at its start, at a plan that it found or at other numbers.

    Args:
        asked: Model, data, selector and kernel, with `GradientSettings.of_search`.
        budget: Share of the FLOPs of all visual tokens; a start spends it, and steps are repaired to it.
        at: Points, as of `gradprobe.vlm.search.gradient.points.point_of`.
        settings: Of the probe.
        folder: Place of the losses and gradients that are finished; what is there is not computed again.
        progress: Called with (description, done, of how many).

    Raises:
        UsageError: What is asked is not possible with this model.
        GradprobeError: A loss or gradient is no finite number, or the folder cannot be written.
    """
    asked.check([budget])
    train = getattr(asked.task.source, "epoch", None)
    needed = settings.batches * settings.batch_size
    if train is not None and train < needed:
        raise UsageError(
            f"{settings.batches} batches of {settings.batch_size} need {needed} captioned images to search with, and "
            f"there are {train}; give fewer or smaller ones, --batches {max(3, train // settings.batch_size)}"
        )
    points = [point_of(asked, budget, text) for text in dict.fromkeys(at)]
    if len(points[0].numbers) < 2:
        raise UsageError(
            f"--kernel {asked.kernel.label} has a single number in a model of {asked.spending.layers} layers, which "
            "the budget alone decides; give a model with more layers"
        )
    with opened(asked, folder) as pieces:
        probed = tuple(_at(pieces, budget, point, settings, progress) for point in points)
    return SearchGradient(asked, budget, settings, probed)


def _at(pieces: Pieces, budget: float, point: Point, settings: GradientSettings, progress: Progress) -> Probed:
    asked = pieces.asked
    n = asked.spending.tokens
    counts, jacobian, normal = point.counts(asked).numpy(), point.jacobian(asked), point.normal(asked)
    whole = whole_counts(counts, n)
    relaxed = []
    for t, softness in enumerate(settings.softness):
        progress(f"{point.label}: relaxed gradients", t, len(settings.softness))
        relaxed.append(pieces.gradients(whole, softness) @ jacobian)
    progress(f"{point.label}: relaxed gradients", len(relaxed), len(relaxed))
    losses, z = _smoothed(pieces, counts, settings, lambda *done: progress(f"{point.label}: deployed draws", *done))
    moment = np.stack([moments(counts[1:], sigma, n) for sigma in settings.sigmas])
    reference = [
        pair_estimates(*each).mean((0, 1)) @ jacobian  # sigma does not turn it
        for each in zip(losses, z, moment, strict=True)
    ]
    directions = [in_tangent(each, normal) for each in (*(rows.mean(0) for rows in relaxed), *reference)]
    size = asked.settings.batch_size
    steps = [[_stepped(asked, budget, point, d, eta) for eta in settings.ladder] for d in directions]
    ladder = [_stepped(asked, budget, point, 0 * normal, 1.0), *(each for row in steps for each in row)]
    line = _line(asked, point, jacobian, normal, settings.seed)
    coordinates = np.linspace(-settings.reach, settings.reach, LINE)
    along = [whole_counts(_moved(asked, point, coordinate * line), n) for coordinate in coordinates]
    total, done = len(ladder) + len(along) * (1 + len(settings.softness)), 0

    def held(counts: Counts, softness: float | None = None) -> Array:
        nonlocal done
        numbers = pieces.deployed(counts, held=True) if softness is None else pieces.relaxed(counts, softness)
        done += 1
        progress(f"{point.label}: steps and line", done, total)
        return numbers

    before, *after = [held(each) for each in ladder]
    return Probed(
        label=point.label, numbers=point.numbers.numpy(), counts=counts, whole=whole,
        share=float(asked.spending.share(whole)), jacobian=jacobian, normal=normal, relaxed=np.stack(relaxed),
        losses=losses.reshape(*losses.shape[:3], -1, size).mean(-1), z=z, moment=moment, ladder=tuple(ladder),
        before=before, after=np.stack(after).reshape(len(directions), len(settings.ladder), -1), line=coordinates,
        line_counts=tuple(along), line_deployed=np.stack([held(each) for each in along]),
        line_relaxed=np.stack([[held(each, softness) for each in along] for softness in settings.softness]),
    )  # fmt: skip


def _smoothed(
    pieces: Pieces, counts: Array, settings: GradientSettings, progress: Callable[[int, int], None]
) -> tuple[Array, Array]:
    """Return deployed losses ``(S, D, 2, I)`` and the expected draws behind them, ``(S, D, 2, C)``."""
    n, inner = pieces.asked.spending.tokens, counts[1:]
    drawn = Noise(settings.seed, range(settings.draws)).stream(Stream.SMOOTHING).normal((len(inner),))
    signed = np.stack([drawn.double().numpy(), -drawn.double().numpy()], 1)  # (D, 2, C)
    losses, z, total = [], [], len(settings.sigmas) * signed[..., 0].size
    for sigma in settings.sigmas:
        moved = np.clip(np.round(inner + sigma * signed), 1, n)
        z.append(expected_draws(inner, moved, sigma, n))
        for each in moved.reshape(-1, len(inner)):
            losses.append(pieces.deployed(whole_counts(np.array([n, *each]), n)))
            progress(len(losses), total)
    shape = (len(settings.sigmas), *signed.shape[:2], -1)
    return np.stack(losses).reshape(shape), np.stack(z)


def _stepped(asked: Search, budget: float, point: Point, direction: Array, tokens: float) -> Counts:
    """Return the schedule after a step against a direction, repaired to the budget as a search repairs its own."""
    size = float(np.abs(point.jacobian(asked) @ direction).max())
    counts = _moved(asked, point, -tokens / size * direction if size > 0 else direction)
    shares = (counts / asked.spending.tokens).tolist()
    return repaired(shares, asked.spending, budget) or whole_counts(counts, asked.spending.tokens)


def _moved(asked: Search, point: Point, change: Array) -> Array:
    return point.counts(asked, point.numbers + torch.from_numpy(change)).numpy()


def _line(asked: Search, point: Point, jacobian: Array, normal: Array, seed: int) -> Array:
    """Return a random direction within the tangent plane of the budget, in which a count moves by 1 at most."""
    drawn = Noise(seed, (0,)).stream(Stream.SMOOTHING).draw(1).normal((len(normal),))[0]
    direction = in_tangent(drawn.double().numpy(), normal)
    return direction / np.abs(jacobian @ direction).max()
