"""What each part of the embedded vision-language model is trained on: tower by labels, language model by truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from gradprobe.data.pictures import COLOURS, DIGITS, GRID, SIDE, Object
from gradprobe.data.pictures_text import COLUMNS, KINDS, ROWS, caption, question
from gradprobe.vlm.scenes import END, ID, NOTHING, PAD, START

ASKED = (*["relations"] * 2, *["existence"] * 2, *["attributes"] * 3, *["choice"] * 3)
# Relations come last, and only with an exercise: to say which way it is, before whether what was said is right.
ASKED_LATER = (*["relations"] * 3, "existence", *["attributes"] * 3, "choice", *["which way"] * 3)
TOLD = (*KINDS, "caption", "which way")  # all that is told
CAPTION, WHICH_WAY = len(KINDS), len(KINDS) + 1
_OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
CELLS = GRID * GRID
FEW = 24  # visual tokens in the first stage: all of the objects' and some of nothing
FIRST_WORDS = tuple(ID[words[0]] for words in (DIGITS, COLOURS, ROWS, COLUMNS))
GROUPS = tuple(tuple(ID[word] for word in words) for words in (DIGITS, COLOURS, ROWS, COLUMNS))
SHARPNESS = 8.0  # of the tower's word scores: at the target, where they are 0 and 1, the loss is nearly nothing
BACKGROUND = 0.25  # weight of a patch of no object: five of six are, they would drown the others
BLUR = 0.05  # noise in each channel of a word's sum (norm 2) that stands for a patch
Line = tuple[int, str, str]  # index into ``TOLD``, what is given, what is to be told
_END = ID[END]


@dataclass(frozen=True)
class Lines:
    """Caption and questions of each picture, in one sequence after its visual tokens.

    Attributes:
        ids: ``(B, S)`` words.
        positions: ``(B, S)``: every line begins right after the visual tokens.
        line: ``(B, S)``: 0 caption, 1.. questions, -1 padding; lines do not see each other.
        target: ``(B, S)`` the word to be told next, -100 for those that are given.
        kind: ``(B, S)``: where something is told, index into ``TOLD``; else -1.
    """

    ids: Tensor
    positions: Tensor
    line: Tensor
    target: Tensor
    kind: Tensor


def truth(objects: Sequence[Sequence[Object]]) -> Tensor:
    """The four words of each patch's object, ``(B, 100, 4)``: digit, colour, row, column; else ``NOTHING`` each."""
    words = np.full((len(objects), GRID, GRID, 4), ID[NOTHING], dtype=np.int64)
    for b, picture in enumerate(objects):
        for o in picture:
            told = [first + n for first, n in zip(FIRST_WORDS, (o.digit, o.colour, o.row, o.column), strict=True)]
            words[b, o.row : o.row + SIDE, o.column : o.column + SIDE] = told
    return torch.from_numpy(words.reshape(len(objects), CELLS, 4))


def compounds(words: Tensor, table: Tensor) -> Tensor:
    """What a patch should look like to the language model: the sum of its four words, or nothing's word once."""
    inside = (words[..., :1] != ID[NOTHING]).to(table.dtype)
    return table[words].sum(dim=-2) * inside + table[ID[NOTHING]] * (1 - inside)


def lines(objects: Sequence[Sequence[Object]], ids: Sequence[int], seed: int, asked: Sequence[str] = ASKED) -> Lines:
    """A caption and the questions asked about each picture; a pure function of the picture's id and the seed."""
    rows = []
    for picture, i in zip(objects, ids, strict=True):
        rng = np.random.Generator(np.random.SFC64([seed, int(i)]))
        rows.append([captioned(picture), *(_asked(picture, kind, rng) for kind in asked)])
    return lines_of(rows)


def _asked(picture: Sequence[Object], kind: str, rng: np.random.Generator) -> Line:
    if kind in KINDS:
        text, answer = question(picture, kind, rng)
        return KINDS.index(kind), f"{text} answer :", answer
    text, answer = question(picture, "relations", rng)
    (way,) = set(text.split()) & set(_OPPOSITE)
    return WHICH_WAY, f"{text} which :", way if answer == "yes" else _OPPOSITE[way]


def captioned(picture: Sequence[Object]) -> Line:
    """The caption as a line."""
    return CAPTION, "caption :", caption(picture)


def lines_of(rows: Sequence[Sequence[Line]]) -> Lines:
    """Lines (kind, what is given, what is to be told) of each picture, as numbers."""
    found = []
    for row in rows:
        told: list[tuple[int, int, int, int, int]] = []
        for number, (kind, given, wanted) in enumerate(row):
            words = [ID[word] for word in f"{given} {wanted} {END}".split()]
            first = len(given.split()) - 1  # the last given word tells the first wanted one
            told += [
                (word, 1 + CELLS + at, number, words[at + 1] if at >= first else -100, kind if at >= first else -1)
                for at, word in enumerate(words[:-1])
            ]
        found.append(np.array(told))
    padded = np.full((len(found), max(map(len, found)), 5), (ID[PAD], 0, -1, -100, -1))
    for b, numbers in enumerate(found):
        padded[b, : len(numbers)] = numbers
    return Lines(*(torch.from_numpy(np.ascontiguousarray(part)) for part in padded.transpose(2, 0, 1)))


def told_loss(model: Any, visual: Tensor, where: Tensor, text: Lines) -> tuple[Tensor, Tensor]:
    """Cross-entropy of captions and answers.

    Args:
        model: the whole model.
        visual: ``(B, M, 128)`` what stands for the patches.
        where: ``(B, M)`` which patches they are, ascending.
        text: what is told and asked.

    Returns:
        The loss (captions' mean plus answers' mean), and ``(2, 6)``: of each of ``TOLD``, words right and words in all.
    """
    language, count = model.model.language_model, visual.shape[1]
    table = language.embed_tokens.weight
    start = table[ID[START]].expand(len(visual), 1, -1)
    embeds = torch.cat([start, visual, table[text.ids]], dim=1)
    positions = torch.cat([torch.zeros_like(where[:, :1]), 1 + where, text.positions], dim=1)
    line = torch.cat([torch.full((len(visual), 1 + count), -2), text.line], dim=1)
    size = line.shape[1]
    causal = torch.ones(size, size, dtype=torch.bool).tril()
    seen = (line[:, None, :] == line[:, :, None]) | (line[:, None, :] == -2)
    hidden = language(
        inputs_embeds=embeds, attention_mask=(seen & causal)[:, None], position_ids=positions, use_cache=False
    ).last_hidden_state[:, 1 + count :]
    wanted = text.target != -100
    logits = (hidden[wanted] @ table.T).float()
    target, kind = text.target[wanted], text.kind[wanted]
    each = F.cross_entropy(logits, target, reduction="none")
    told = kind == CAPTION
    # The end after an answer is learned at once; only the answer itself counts as right or wrong.
    answers = ~told & (target != _END)
    right = (logits.argmax(dim=1) == target)[told | answers]
    kinds = kind[told | answers]
    tally = torch.stack([torch.bincount(kinds[right], minlength=len(TOLD)), torch.bincount(kinds, minlength=len(TOLD))])
    return each[told].mean() + each[answers].mean() + 0.1 * each[~told & ~answers].mean(), tally


def visual_tokens(model: Any, images: Tensor) -> Tensor:
    """Images -> ``(B, 100, 128)`` visual tokens after the projector; as LLaVA's own, without its capturing hooks."""
    tower = model.model.vision_tower
    hidden = tower.pre_layrnorm(tower.embeddings(images))
    hidden = tower.encoder(inputs_embeds=hidden).last_hidden_state[:, 1:]
    return model.model.multi_modal_projector(hidden)


def label_loss(tokens: Tensor, words: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    """How far visual tokens are from the words of their patches.

    Returns:
        Squared distance plus cross-entropy of each of the four words, and ``(2, 4)`` right and all among objects'.
    """
    tokens = tokens.float()
    outside = words[..., 0] == ID[NOTHING]
    weight = torch.where(outside, BACKGROUND, 1.0)
    weight = weight / weight.sum()
    loss = ((tokens - compounds(words, table)).square().sum(dim=-1) * weight).sum()
    right = []
    for number, group in enumerate(GROUPS):
        scores = SHARPNESS * tokens @ table[[*group, ID[NOTHING]]].T
        target = torch.where(outside, len(group), words[..., number] - group[0])
        loss = loss + (F.cross_entropy(scores.transpose(1, 2), target, reduction="none") * weight).sum()
        right.append((scores.argmax(dim=-1) == target)[~outside].sum())
    return loss, torch.stack([torch.stack(right), (~outside).sum().expand(4)])
