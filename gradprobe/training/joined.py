"""Tasks that share a frozen model, joined into one whose scorers are trained side by side."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from gradprobe.core import Batch, Noise, Selection, SelectionOperator, Task, joined
from gradprobe.errors import GradprobeError
from gradprobe.training.stacked import Stacked


@dataclass(frozen=True, eq=False)
class Joined:
    """S tasks of one frozen model, each with a scorer of its own, as the task of one training.

    Row r of a batch belongs to task ``r mod S``; a step's batch holds those of all of them. The scorers and denoisers
    are stacked copies: `write` brings them back.

    Attributes:
        tasks: Tasks that differ in scorer and denoiser alone.
        seeds: Seed of the order of images and of the noise of each.
        budgets: Tokens kept of each.
    """

    tasks: tuple[Task, ...]
    seeds: tuple[int, ...]
    budgets: tuple[int, ...]

    @cached_property
    def scorer(self) -> Stacked:
        """The scorers, stacked."""
        return Stacked([task.scorer for task in self.tasks])

    @cached_property
    def denoiser(self) -> Stacked | None:
        """The denoisers, stacked; None if the tasks have none."""
        networks = [task.denoiser for task in self.tasks if task.denoiser is not None]
        return Stacked(networks) if networks else None

    @property
    def n_tokens(self) -> int:
        """N."""
        return self.tasks[0].n_tokens

    @property
    def question(self) -> dict[str, Any]:
        """Description of the tasks, which are alike."""
        return self.tasks[0].question

    @property
    def generator(self) -> str:
        """Generator of the noise."""
        return self.tasks[0].generator

    @property
    def skipped(self) -> tuple[str, ...]:
        """Inputs passed over so far by any of them."""
        return tuple(dict.fromkeys(name for task in self.tasks for name in task.skipped))

    def running(self) -> AbstractContextManager[None]:
        """Put the frozen model in evaluation mode meanwhile."""
        return self.tasks[0].running()

    def training_batches(self, size: int, seed: int, start: int = 0) -> Iterator[Batch]:
        """Yield batches of ``S size`` images, those of each task by its own seed.

        Raises:
            GradprobeError: Images have different numbers of tokens, or targets that cannot be joined.
        """
        walks = [task.training_batches(size, own, start) for task, own in zip(self.tasks, self.seeds, strict=True)]
        for batches in zip(*walks, strict=True):
            parts = [batch for batch in batches if isinstance(batch, Batch)]
            if len({part.tokens.patches.shape for part in parts}) != 1 or len(parts) < len(batches):
                raise GradprobeError("images with different numbers of tokens cannot be trained on side by side")
            order = torch.arange(len(parts) * size).reshape(len(parts), size).T.flatten()
            yield joined(parts).subset(order)

    def losses(self, selection: Selection, batch: Batch) -> Tensor:
        """Return the per-image loss, ``(B,)``."""
        return self.tasks[0].losses(selection, batch)

    def write(self) -> None:
        """Write the stacked parameters into the tasks' own networks."""
        self.scorer.write([task.scorer for task in self.tasks])
        if self.denoiser is not None:
            self.denoiser.write([task.denoiser for task in self.tasks if task.denoiser is not None])


@dataclass(frozen=True)
class ByBudget:
    """Operator that keeps another number of tokens in each of S neighbouring rows.

    Attributes:
        operator: Selection operator.
        budgets: Tokens kept of row r, by ``r mod S``.
    """

    operator: SelectionOperator
    budgets: tuple[int, ...]

    def __call__(self, patches: Tensor, scores: Tensor, k: int, noise: Noise) -> Selection:
        """Return the selection for patches ``(B, N, D)`` and scores ``(B, N)``; ``k`` is not read.

        Raises:
            GradprobeError: The operator sends on another number of tokens for another budget.
        """
        parts, places = [], []
        for budget in dict.fromkeys(self.budgets):
            rows = [row for row in range(len(patches)) if self.budgets[row % len(self.budgets)] == budget]
            here = torch.tensor(rows).to(patches.device, non_blocking=True)
            parts.append(self.operator(patches[here], scores[here], budget, noise=rows_of(noise, rows)))
            places.append(here)
        if len({part.tokens.shape[1] for part in parts}) > 1:
            raise GradprobeError("an operator that sends K tokens on cannot be trained with several K side by side")
        back = torch.cat(places).argsort()

        def joint(name: str) -> Tensor | None:
            values = [getattr(part, name) for part in parts]
            return None if values[0] is None else torch.cat(values)[back]

        fields: dict[str, Any] = {name: joint(name) for name in vars(parts[0])}
        return replace(parts[0], **fields)


def rows_of(noise: Noise, rows: Sequence[int]) -> Noise:
    """Return the noise of some rows of a batch."""
    seeds = noise.seed if isinstance(noise.seed, int) else tuple(noise.seed[i] for i in rows)
    return replace(noise, seed=seeds, ids=tuple(noise.ids[i] for i in rows))


def apart(state: Mapping[str, Tensor], count: int) -> list[dict[str, Tensor]]:
    """Split the state of a joined training into those of the single ones: row s of every tensor but a step count."""
    return [{n: value[s] if value.ndim else value for n, value in state.items()} for s in range(count)]


def together(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Stack the states of single trainings into that of a joined one; see `apart`."""
    first = states[0]
    return {n: torch.stack([s[n] for s in states]) if not n.startswith("step.") else first[n] for n in first}
