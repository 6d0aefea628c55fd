"""Accuracy of an embedded vision-language model on held-out pictures, with all visual tokens and with few."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradprobe.core import Noise, top_k
from gradprobe.data.pictures import Pictures
from gradprobe.data.pictures_text import KINDS, questions
from gradprobe.selectors.divprune import DivPrune
from gradprobe.view import View
from gradprobe.vlm.families.llava import Llava
from gradprobe.vlm.tower_attention import recording
from gradprobe.vlm.training.diversity import diversity
from gradprobe.vlm.training.pictures_loss import (
    CELLS,
    TEXTS,
    WHICH_WAY,
    caption_line,
    lines_of,
    text_loss,
    tower_tokens,
)

BUDGETS = (33, 22, 11, 5)
FIRST = 100_000  # id of the first picture: none of those on which the design was chosen
DIVERSE = 200  # pictures whose tokens' diversity is measured
_CHANCE = 8  # first word of the seed of a picture's random ranking


@dataclass(frozen=True)
class Seen:
    """Pictures as a ranking sees them.

    Attributes:
        before: Tokens before the projector, ``(B, 100, W)``.
        tokens: Projected tokens, ``(B, 100, W)``.
        attention: Mean attention of the tower's patches to each patch, ``(B, 100)``.
        chance: Random numbers in 0..1, ``(B, 100)``.
        pictures: The pictures and their truth.
    """

    before: Tensor
    tokens: Tensor
    attention: Tensor
    chance: Tensor
    pictures: Pictures


def _one_each(seen: Seen) -> Tensor:
    """Rank a random patch of each digit first, then the digits' other patches, then any."""
    digit = torch.from_numpy(seen.pictures.digit_of).long()
    inside = seen.pictures.relevant
    highest = torch.full((len(digit), 11), -1.0).scatter_reduce(1, digit, seen.chance, "amax")
    first = torch.from_numpy(inside) & (seen.chance == highest.gather(1, digit))
    return seen.chance + torch.from_numpy(inside) + first


RANKINGS: dict[str, Callable[[Seen], Tensor]] = {
    "random": lambda seen: seen.chance,
    "relevant": lambda seen: seen.chance + torch.from_numpy(seen.pictures.relevant),
    "one_each": _one_each,
    "divprune": lambda seen: DivPrune().scores(View(Noise(0, range(len(seen.tokens))), seen.tokens)),
    "norm": lambda seen: seen.before.norm(dim=-1),
    "longest": lambda seen: seen.tokens.norm(dim=-1),
    "shortest": lambda seen: -seen.tokens.norm(dim=-1),
    "attention": lambda seen: seen.attention,
}


def evaluate(
    model: Any, draw: Callable[[str, Sequence[int]], Pictures], count: int, budgets: Sequence[int] = BUDGETS,
    batch: int = 50,
) -> dict[str, dict[str, float]]:  # fmt: skip
    """Return the accuracy of answers and of the captions' words on held-out pictures.

    Rules: ``unpruned``; ``random_K``; ``relevant_K``, patches of digits first (in random order), then any;
    ``one_each_K``, one patch of each digit first, then the others; ``divprune_K``; ``norm_K``, by length before the
    projector; ``longest_K`` and ``shortest_K``, behind it; ``attention_K``, by the tower's mean attention. Kept tokens
    have their original order and positions. Each word of a caption is predicted from the right ones before it.

    Args:
        model: Model in evaluation mode.
        draw: Function (split, ids) that draws its pictures.
        count: Number of pictures of the "heldout" split, each with its caption and one question.
        budgets: Visual tokens kept, K.
        batch: Pictures at a time.

    Returns:
        By rule: accuracy of each kind, ``caption``, ``average`` (of the kinds), and ``covered``, the share of digits
        with at least one kept patch.
    """
    rules = {"unpruned": (CELLS, "random")} | {f"{name}_{k}": (k, name) for name in RANKINGS for k in budgets}
    tally = {rule: torch.zeros(2, len(TEXTS)) for rule in rules}
    covered = {rule: torch.zeros(2) for rule in rules}
    with torch.inference_mode():
        for start in range(FIRST, FIRST + count, batch):
            ids = range(start, min(start + batch, FIRST + count))
            seen = _seen(model, draw("heldout", ids), ids)
            text = lines_of(
                [
                    [caption_line(objects), (q.kind, f"{q.text} answer :", q.answer)]
                    for objects, q in zip(seen.pictures.objects, questions("heldout", ids), strict=True)
                ]
            )
            scores = {name: rank(seen) for name, rank in RANKINGS.items()}
            for rule, (k, name) in rules.items():
                where = top_k(scores[name], k)
                visual = seen.tokens.take_along_dim(where[..., None], dim=1)
                tally[rule] += text_loss(model, visual, where, text)[1]
                covered[rule] += _coverage(seen.pictures, where)
    accuracy = {}
    for rule, (right, total) in tally.items():
        shares = dict(zip(TEXTS, (right / total).tolist(), strict=True))
        del shares[TEXTS[WHICH_WAY]]  # an exercise only
        accuracy[rule] = shares | {
            "average": float((right / total)[: len(KINDS)].mean()),
            "covered": float(covered[rule][0] / covered[rule][1]),
        }
    return accuracy


def token_diversity(model: Any, draw: Callable[[str, Sequence[int]], Pictures]) -> dict[str, float]:
    """Return the mean cosine of background tokens and the effective rank of all, before and behind the projector."""
    ids = range(FIRST, FIRST + DIVERSE)
    with torch.inference_mode():
        drawn = draw("heldout", ids)
        before = tower_tokens(model, torch.from_numpy(drawn.images))
        background = ~torch.from_numpy(drawn.relevant)
        told: dict[str, float] = {}
        for name, tokens in (("before", before), ("projected", model.model.multi_modal_projector(before))):
            measured = diversity(tokens, background)
            told |= {f"cosine_{name}": measured.cosine, f"effective_rank_{name}": measured.effective_rank}
    return told


def _seen(model: Any, drawn: Pictures, ids: range) -> Seen:
    with recording(Llava(), model, "photos-vlm") as recorded:
        before = tower_tokens(model, torch.from_numpy(drawn.images))
    places = torch.arange(len(before) * CELLS).unflatten(0, (-1, CELLS))
    attention = recorded.tower(CELLS, places).last.attention("mean")
    chance = np.stack([np.random.Generator(np.random.SFC64([_CHANCE, i])).random(CELLS) for i in ids])
    return Seen(before, model.model.multi_modal_projector(before), attention, torch.from_numpy(chance).float(), drawn)


def _coverage(drawn: Pictures, where: Tensor) -> Tensor:
    """Return the number of digits with a kept patch, and of all digits."""
    digit = torch.from_numpy(drawn.digit_of).long()
    there = torch.zeros(len(digit), 11).scatter(1, digit, 1.0)[:, :10]
    kept = torch.zeros(len(digit), 11).scatter(1, digit.gather(1, where), 1.0)[:, :10]
    return torch.stack([kept.sum(), there.sum()])
