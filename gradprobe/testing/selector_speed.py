"""Time of one call of a selector on this machine."""

import time
from functools import cache
from statistics import median

import torch
from torch import Tensor

from gradprobe.core import Noise
from gradprobe.testing.language_layer import Layer
from gradprobe.testing.selector_cases import projector
from gradprobe.testing.speed import CALLS, ENOUGH
from gradprobe.training.workers import one_thread
from gradprobe.view import Selector, Tower, TowerLayer, Unavailable, View, Words

SHAPE = (1, 576, 64, 1024, 128)  # B, N, K, D, d: LLaVA-1.5's tokens and tower, a narrower language model
TEXT, HEADS = 60, 16


def time_of(selector: Selector) -> float:
    """Return the median milliseconds of a few calls with B = 1, N = 576, K = 64, D = 1024, d = 128.

    Each call reads a new view, on one thread, after a warm-up. The vision tower's and the language model's layers are
    given; projections and attention that the selector reads are part of its time.

    Args:
        selector: Asked outside a language model, or inside it if it refuses.

    Raises:
        Unavailable: It refuses both.

    Example:
        >>> from gradprobe.operators.registry import part
        >>> time_of(part("selector", "random")) > 0
        True
    """
    inside = bool(getattr(getattr(selector, "about", None), "layers", ()))
    with torch.no_grad(), one_thread():
        try:
            return _median(selector, inside)
        except Unavailable as reason:
            try:
                return _median(selector, not inside)
            except Unavailable:
                raise reason from None


def _median(selector: Selector, inside: bool) -> float:
    times: list[float] = []
    started = time.perf_counter()
    while len(times) <= CALLS and not (len(times) > 1 and time.perf_counter() - started > ENOUGH):
        view = _view(inside)
        start = time.perf_counter()
        selector(view, SHAPE[2])
        times.append(time.perf_counter() - start)
    return 1e3 * median(times[1:])


def _view(inside: bool) -> View:
    b, n, _, dim, width = SHAPE
    noise, words = Noise(0, range(b)), Words(_random((b, TEXT, width)), torch.ones(b, TEXT, dtype=torch.bool))
    if inside:
        hidden, first = _random((b, n, width)), _random((b, n, width), 1)
        keys, text_keys, queries = _random((2, b, n, dim)), _random((2, b, TEXT, dim)), _random((2, b, TEXT, dim), 1)
        return View(noise, None, place=Layer(hidden, first, words, words, words.mask, keys, text_keys, queries, HEADS))
    side = int(n**0.5)
    queries, keys = (_random((b, n + 1, dim), seed) for seed in (1, 2))
    layer = TowerLayer(queries, keys, HEADS, prefix=1)
    features = _random((b, n, dim))
    project = projector(features.dtype, features.device, dim, width)
    tower, relevant = Tower(layer, layer), torch.zeros(b, n, dtype=torch.bool)
    return View(noise, features, project, lambda: tower, lambda: words, ((side, side),), relevant)


def _random(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return _numbers(shape, seed).clone()  # whatever a selector does to them


@cache
def _numbers(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
