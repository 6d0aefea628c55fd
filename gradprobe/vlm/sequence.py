"""Input sequences of the language model: text, newlines and the visual tokens that are kept."""

from collections.abc import Sequence as Several
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from gradprobe.deferred import refuse
from gradprobe.errors import UsageError
from gradprobe.vlm.families.base import attended_positions
from gradprobe.vlm.model import VLM
from gradprobe.vlm.prompts import Prompt, Sequence


def assemble(
    vlm: VLM, prompt: Prompt, tokens: Several[Tensor], index: Several[Tensor] | None = None, pad: str = "right"
) -> Sequence:
    """Join text, newlines and the kept visual tokens, in their original order, at their original positions.

    Dropped tokens leave no gap in the sequence, only in its position ids; padding of the prompt is taken out and put
    back on one side. All visual tokens pass the projector in one call; gradients reach them.

    Args:
        vlm: The model.
        prompt: B rows.
        tokens: ``(M_r, D)`` for each row, before the projector; ``(0, D)`` or ``(0,)`` for a row without images.
        index: ``(M_r,)`` for each row: numbers of these tokens among the visual tokens of the row, ascending. None: all
            of them.
        pad: Side on which shorter rows are padded: ``left`` to generate, ``right`` to train.

    Raises:
        UsageError: Tokens, index and prompt do not fit together.
    """
    if pad not in ("left", "right"):
        raise UsageError(f"pad={pad!r} is not possible; give left or right")
    ids, slot = prompt.input_ids, prompt.slot
    visual = slot >= 0
    here = visual & _kept(prompt, tokens, index).to(ids.device, non_blocking=True).gather(1, slot.clamp(min=0))
    with torch.no_grad():
        embeds = vlm.model.get_input_embeddings()(ids)
        newline = vlm.family.newline(vlm.model)
        if newline is not None:
            embeds = torch.where((slot == -2)[..., None], newline.to(embeds), embeds)
    streams: list[Tensor] = []
    if any(len(some) for some in tokens):
        every = torch.cat([some.to(ids.device) for some in tokens if len(some)])
        empty = torch.zeros_like(embeds)
        streams = [empty.masked_scatter(here[..., None], added.to(embeds)) for added in vlm.streams(every)]
        embeds = embeds.masked_scatter(here[..., None], vlm.project(every).to(embeds.dtype))
    return _close_up([embeds, *streams], prompt, (prompt.attention_mask > 0) & (here | ~visual), pad)


def _kept(prompt: Prompt, tokens: Several[Tensor], index: Several[Tensor] | None) -> Tensor:
    """Return a mask of the visual tokens of each row that are kept, ``(B, most of a row)``."""
    totals = [sum(counts) for counts in prompt.counts]
    if index is None:
        for row, (total, some) in enumerate(zip(totals, tokens, strict=True)):
            if len(some) != total:
                raise UsageError(f"row {row} has {total} visual tokens and {len(some)} are given; say which: index")
        return torch.ones(len(totals), max([*totals, 1]), dtype=torch.bool)
    lengths = [len(which) for which in index]
    for row, (some, length) in enumerate(zip(tokens, lengths, strict=True)):
        if len(some) != length:
            raise _misplaced(row, totals[row], len(some), index[row])
    device, most = index[0].device, max([*totals, 1])
    at = pad_sequence([which.to(device, non_blocking=True) for which in index], batch_first=True)
    ends, sizes = (torch.tensor(each)[:, None].to(device, non_blocking=True) for each in (lengths, totals))
    there = torch.arange(at.shape[1], device=device) < ends
    wrong = (there & ((at < 0) | (at >= sizes))).any(1) | (there[:, 1:] & (at[:, 1:] <= at[:, :-1])).any(1)

    def error(bad: Tensor) -> UsageError:
        row = int(bad.nonzero()[0])
        return _misplaced(row, totals[row], len(tokens[row]), index[row])

    refuse(wrong, error)
    places = torch.where(there, at.clamp(0, most - 1), most)  # padding goes to a column of its own
    return torch.zeros(len(totals), most + 1, dtype=torch.bool, device=device).scatter(1, places, True)[:, :most]


def _misplaced(row: int, total: int, given: int, which: Tensor) -> UsageError:
    return UsageError(
        f"row {row} has {total} visual tokens; {given} tokens cannot stand at {which.tolist()[:20]}: give one "
        "ascending index a token"
    )


def compact(sequence: Sequence) -> Sequence:
    """Renumber the positions that are kept: 0, 1, 2, ..., as if the others had never been there.

    Raises:
        UsageError: Positions have three axes, in which a token has no place among those that are left.
    """
    if sequence.positions.ndim == 3:
        raise UsageError("positions with time, height and width cannot be renumbered; leave --positions compact out")
    return replace(sequence, positions=attended_positions(sequence.attention_mask))


def _close_up(states: Several[Tensor], prompt: Prompt, keep: Tensor, pad: str) -> Sequence:
    """Move the positions to keep ``(B, S)`` side by side, and pad."""
    length = int(keep.sum(1).max())
    order = (~keep if pad == "right" else keep).long().argsort(stable=True, dim=1)
    order = order[:, :length] if pad == "right" else order[:, order.shape[1] - length :]
    real = keep.gather(1, order)
    moved = [each.gather(1, order[..., None].expand(-1, -1, each.shape[-1])) for each in states]
    embeds, *streams = (torch.where(real[..., None], each, 0) for each in moved)
    positions = prompt.positions.gather(-1, order.expand(*prompt.positions.shape[:-1], -1))
    positions = torch.where(real, positions, 0)
    slot = torch.where(real, prompt.slot.gather(1, order), -1)
    return Sequence(embeds, real.long(), positions, torch.where(real, order, -1), slot, tuple(streams))
