"""Prompt in a language model's cache of which visual tokens were dropped, and the calls that go on from it.

Shapes: B rows, S positions of the prompt, S' of them read, T tokens read behind it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gradprobe.errors import UsageError
from gradprobe.vlm.inside_hooks import LayerHooks
from gradprobe.vlm.inside_places import gather_rows
from gradprobe.vlm.prompts import Prompt, Sequence

_HOME = "_gradprobe_prompt"  # attribute of a cache, so that a copy of the cache keeps it


@dataclass(frozen=True, eq=False)
class ReadPrompt:
    """Prompt that was read without its dropped tokens.

    Attributes:
        length: S.
        attended: Mask of the positions read, ``(B, S')``.
        padded: True where some row has padding.
        following: Position id of the next token, ``(B, 1)``.
        counted: The same in a model that is not pruned.
        words: Number of its tokens, padding left out ``(B, 1)``.
        axes: Number of axes of the position ids; 0: they have none.
        layers: Follows the layers where tokens are dropped within the language model; None: nowhere.
    """

    length: int
    attended: Tensor
    padded: bool
    following: Tensor
    counted: Tensor
    words: Tensor
    axes: int = 0
    layers: LayerHooks | None = None

    def __deepcopy__(self, memo: Any) -> "ReadPrompt":
        """Return itself: nothing of it changes once the prompt is read."""
        return self

    @staticmethod
    def of_cache(cache: Any) -> "ReadPrompt | None":
        """Return the prompt that a cache begins with; None: another's, whole."""
        return getattr(cache, _HOME, None)

    def note(self, cache: Any) -> None:
        """Note the prompt in its cache."""
        setattr(cache, _HOME, self)

    def next_call(self, given: Mapping[str, Any], past: int) -> dict[str, Any]:
        """Return the arguments of a call that goes on from the prompt, which counts the dropped tokens too.

        Args:
            given: Arguments of the model, by name.
            past: Tokens in the cache, as its first layer counts them.

        Raises:
            UsageError: More images, a mask that is no row of zeros and ones, or fewer tokens than the cache holds.
        """
        mask, ids, embeds = (given.get(name) for name in ("attention_mask", "input_ids", "inputs_embeds"))
        check_mask(mask)
        tokens = ids if ids is not None else embeds
        assert tokens is not None
        held = self.attended.shape[1] if self.layers is None else self.layers.held
        read = past - held  # behind the prompt
        count = self._count(given, tokens, read)
        if not 1 <= count <= tokens.shape[1]:
            raise UsageError(
                f"the cache holds {self.length + read} tokens of the conversation, dropped ones included, and the call "
                f"gives {tokens.shape[1]}; give the whole conversation with its attention mask, or the new tokens only"
            )
        new = {name: given[name][:, -count:] for name in ("input_ids", "inputs_embeds") if given.get(name) is not None}
        following = self.following + read + torch.arange(count, device=self.following.device)
        new["position_ids"] = following.expand(self.axes, *following.shape) if self.axes else following
        new["attention_mask"] = self._mask(mask, read + count)
        return dict(given) | new

    def _count(self, given: Mapping[str, Any], tokens: Tensor, read: int) -> int:
        """Count the tokens that are new: ``generate`` reckons with a cache that also holds those that were dropped."""
        if tokens.shape[1] == 1:
            return 1
        mask, positions = given.get("attention_mask"), given.get("position_ids")
        if mask is not None and mask.shape[1] > tokens.shape[1]:
            return int(mask.shape[1]) - self.length - read
        if positions is None:
            return int(tokens.shape[1])
        if positions.ndim == 3 and len(positions) == 4:  # of Qwen: the first axis numbers the tokens
            return int(positions[0, 0, -1] - self.words[0, 0]) - read + 1
        return int(positions.reshape(-1, *tokens.shape[:2])[-1, 0, -1] - self.counted[0, 0]) - read + 1

    def _mask(self, given: Tensor | None, behind: int) -> Tensor | None:
        if given is None and not self.padded:
            return None
        attended = self.attended.long()
        tail = attended.new_ones(len(attended), behind)
        if given is not None and given.shape[1] >= self.length + behind:
            tail = given[:, self.length :][:, :behind].to(attended)
        return torch.cat([attended, tail], 1)


def check_mask(mask: Any) -> None:
    """Refuse an attention mask that is no row of zeros and ones for each prompt.

    Raises:
        UsageError: It has four axes, as with a static cache, or is one for each kind of layer.
    """
    if mask is not None and (not isinstance(mask, Tensor) or mask.ndim != 2):
        raise UsageError(
            "an attention mask (B, S) is needed where tokens are dropped; leave other masks and static caches out"
        )


def read_prompt(
    sequence: Sequence, prompt: Prompt, copies: int, compact: bool, layers: LayerHooks | None
) -> ReadPrompt:
    """Return what a prompt leaves behind.

    Args:
        sequence: Its positions that are read, of all copies.
        prompt: All of them, once.
        copies: Copies of each row, side by side.
        compact: True where the position ids of those that are read were renumbered.
        layers: Of `ReadPrompt`.
    """
    attended, axes = sequence.attention_mask > 0, len(prompt.positions) if prompt.positions.ndim == 3 else 0
    counted = following_id(prompt.positions).repeat_interleave(copies, 0)
    following = following_id(sequence.positions) if compact else counted
    words = prompt.attention_mask.sum(1, keepdim=True).repeat_interleave(copies, 0)
    length = prompt.slot.shape[1]
    return ReadPrompt(length, attended, not bool(attended.all()), following, counted, words, axes, layers)


def following_id(positions: Tensor) -> Tensor:
    """Return the position id behind the largest of each row, ``(B, 1)``."""
    return (positions.amax(0) if positions.ndim == 3 else positions).amax(-1, keepdim=True) + 1


def widened(hidden: Tensor, origin: Tensor, length: int) -> Tensor:
    """Return states at all positions of a prompt: those of a dropped token are those of the last one kept before it.

    So each position predicts what comes behind it among the tokens that are read, and a loss of labels of the whole
    length is that of the tokens read.

    Args:
        hidden: ``(B, S', d)``.
        origin: Position of each in the prompt, -1 for padding ``(B, S')``.
        length: S.

    Example:
        >>> states, origin = torch.tensor([[[5.0], [6.0], [7.0]]]), torch.tensor([[-1, 0, 3]])
        >>> widened(states, origin, 5)[0, :, 0].tolist()
        [6.0, 6.0, 6.0, 7.0, 7.0]
    """
    here = torch.zeros(len(origin), length + 1, dtype=torch.long, device=origin.device)
    here.scatter_(1, torch.where(origin < 0, length, origin), 1)
    padding = (origin < 0).sum(1, keepdim=True)
    places = here[:, :length].cumsum(1) - 1 + padding
    return gather_rows(hidden, places.clamp(min=0).clamp(max=hidden.shape[1] - 1))
