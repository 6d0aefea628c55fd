"""Losses of the embedded vision-language model: the tower's on labels, the language model's on captions and answers."""

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
from gradprobe.vlm.embedded import END, ID, NOTHING, PAD, START
from gradprobe.vlm.training.background import SHARPNESS, Background

QUESTIONS = (*["relations"] * 2, *["existence"] * 2, *["attributes"] * 3, *["choice"] * 3)
# Relations come last, with an exercise beside them: the direction itself, before judging a stated one.
LATER_QUESTIONS = (*["relations"] * 3, "existence", *["attributes"] * 3, "choice", *["which way"] * 3)
TEXTS = (*KINDS, "caption", "which way")  # kinds of text that the model learns to produce
CAPTION, WHICH_WAY = len(KINDS), len(KINDS) + 1
_OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
CELLS = GRID * GRID
FEW = 24  # visual tokens in the first stage: all patches of objects and some of the background
FIRST_WORDS = tuple(ID[words[0]] for words in (DIGITS, COLOURS, ROWS, COLUMNS))
GROUPS = tuple(tuple(ID[word] for word in words) for words in (DIGITS, COLOURS, ROWS, COLUMNS))
BLUR = 0.05  # noise in each channel of the sum of words (norm 2) in the place of a patch
Line = tuple[int, str, str]  # index into ``TEXTS``, given text, target text
_END = ID[END]


@dataclass(frozen=True)
class Lines:
    """Caption and questions of each picture, in one sequence after its visual tokens.

    Attributes:
        ids: Words, ``(B, S)``.
        positions: Positions, ``(B, S)``; every line begins right after the visual tokens.
        line: Line of each word, ``(B, S)``: 0 caption, 1.. questions, -1 padding; lines do not attend to each other.
        target: Next word, ``(B, S)``; -100 within given text.
        kind: Index into ``TEXTS`` of each target, ``(B, S)``; -1 within given text.
    """

    ids: Tensor
    positions: Tensor
    line: Tensor
    target: Tensor
    kind: Tensor


def truth(objects: Sequence[Sequence[Object]]) -> Tensor:
    """Return digit, colour, row and column of each patch's object as words, ``(B, 100, 4)``; else ``NOTHING``."""
    words = np.full((len(objects), GRID, GRID, 4), ID[NOTHING], dtype=np.int64)
    for b, picture in enumerate(objects):
        for o in picture:
            values = [first + n for first, n in zip(FIRST_WORDS, (o.digit, o.colour, o.row, o.column), strict=True)]
            words[b, o.row : o.row + SIDE, o.column : o.column + SIDE] = values
    return torch.from_numpy(words.reshape(len(objects), CELLS, 4))


def targets(words: Tensor, table: Tensor, background: Tensor) -> Tensor:
    """Return the target embedding of each patch: the sum of its four words, or that of the background ``(B, M, W)``."""
    return torch.where(words[..., :1] != ID[NOTHING], table[words].sum(dim=-2), background)


def lines(
    objects: Sequence[Sequence[Object]], ids: Sequence[int], seed: int, kinds: Sequence[str] = QUESTIONS
) -> Lines:
    """Return a caption and questions of each picture, a pure function of its id and the seed."""
    rows = []
    for picture, i in zip(objects, ids, strict=True):
        rng = np.random.Generator(np.random.SFC64([seed, int(i)]))
        rows.append([caption_line(picture), *(_question_line(picture, kind, rng) for kind in kinds)])
    return lines_of(rows)


def _question_line(picture: Sequence[Object], kind: str, rng: np.random.Generator) -> Line:
    if kind in KINDS:
        text, answer = question(picture, kind, rng)
        return KINDS.index(kind), f"{text} answer :", answer
    text, answer = question(picture, "relations", rng)
    (way,) = set(text.split()) & set(_OPPOSITE)
    return WHICH_WAY, f"{text} which :", way if answer == "yes" else _OPPOSITE[way]


def caption_line(picture: Sequence[Object]) -> Line:
    """Return the caption as a line."""
    return CAPTION, "caption :", caption(picture)


def lines_of(rows: Sequence[Sequence[Line]]) -> Lines:
    """Return the lines of each picture as tensors."""
    pictures = []
    for row in rows:
        table: list[tuple[int, int, int, int, int]] = []
        for number, (kind, given, target) in enumerate(row):
            words = [ID[word] for word in f"{given} {target} {END}".split()]
            first = len(given.split()) - 1  # the last given word predicts the first target
            table += [
                (word, 1 + CELLS + at, number, words[at + 1] if at >= first else -100, kind if at >= first else -1)
                for at, word in enumerate(words[:-1])
            ]
        pictures.append(np.array(table))
    padded = np.full((len(pictures), max(map(len, pictures)), 5), (ID[PAD], 0, -1, -100, -1))
    for b, numbers in enumerate(pictures):
        padded[b, : len(numbers)] = numbers
    return Lines(*(torch.from_numpy(np.ascontiguousarray(part)) for part in padded.transpose(2, 0, 1)))


def text_loss(model: Any, visual: Tensor, where: Tensor, text: Lines) -> tuple[Tensor, Tensor]:
    """Return the cross-entropy of captions and answers.

    Args:
        model: Vision-language model.
        visual: Visual tokens, ``(B, M, W)``.
        where: Indices of their patches, ``(B, M)`` ascending.
        text: Captions and questions.

    Returns:
        The loss (mean over captions plus mean over answers), and right words and all words of each of ``TEXTS``,
        ``(2, 6)``.
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
    predicted = text.target != -100
    logits = (hidden[predicted] @ table.T).float()
    target, kind = text.target[predicted], text.kind[predicted]
    each = F.cross_entropy(logits, target, reduction="none")
    captions = kind == CAPTION
    # The end after an answer is learned at once, so only the answer itself counts as right or wrong.
    answers = ~captions & (target != _END)
    right = (logits.argmax(dim=1) == target)[captions | answers]
    kinds = kind[captions | answers]
    tally = torch.stack(
        [torch.bincount(kinds[right], minlength=len(TEXTS)), torch.bincount(kinds, minlength=len(TEXTS))]
    )
    return each[captions].mean() + each[answers].mean() + 0.1 * each[~captions & ~answers].mean(), tally


def visual_tokens(model: Any, images: Tensor) -> Tensor:
    """Return the visual tokens of images behind the projector, ``(B, 100, W)``; as LLaVA, without its hooks."""
    return model.model.multi_modal_projector(tower_tokens(model, images))


def tower_tokens(model: Any, images: Tensor) -> Tensor:
    """Return the visual tokens of images before the projector, ``(B, 100, W)``."""
    tower = model.model.vision_tower
    hidden = tower.pre_layrnorm(tower.embeddings(images))
    return tower.encoder(inputs_embeds=hidden).last_hidden_state[:, 1:]


def label_loss(
    tokens: Tensor, words: Tensor, table: Tensor, images: np.ndarray, background: Background
) -> tuple[Tensor, Tensor]:
    """Return the loss of visual tokens ``(B, 100, W)`` against the words of their patches.

    Returns:
        Squared distance plus cross-entropy of each of the four words, and right words and all words of objects'
        patches, ``(2, 4)``.
    """
    tokens = tokens.float()
    outside = words[..., 0] == ID[NOTHING]
    weight = torch.where(outside, background.weight, 1.0)
    weight = weight / weight.sum()
    loss = ((tokens - targets(words, table, background.of(images))).square().sum(dim=-1) * weight).sum()
    none = background.score(tokens)
    right = []
    for number, group in enumerate(GROUPS):
        scores = torch.cat([SHARPNESS * tokens @ table[list(group)].T, none], dim=-1)
        target = torch.where(outside, len(group), words[..., number] - group[0])
        loss = loss + (F.cross_entropy(scores.transpose(1, 2), target, reduction="none") * weight).sum()
        right.append((scores.argmax(dim=-1) == target)[~outside].sum())
    return loss, torch.stack([torch.stack(right), (~outside).sum().expand(4)])
