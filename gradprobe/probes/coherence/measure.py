"""Coherence: do the gradients of different batches point the same way?"""

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gradprobe.core import AnyOperator, Batch, Noise, SelectionOperator, Task, check_k
from gradprobe.operators import registry
from gradprobe.probes.coherence.result import CoherenceResult
from gradprobe.probes.gradients import centred, gram_by_group, real_parameters, score_gradient, write_scorer_gradient
from gradprobe.probes.questions import (
    Progress,
    asked_of,
    check_counts,
    check_same,
    environment,
    operator_and_k,
    operator_of,
    task_of,
)
from gradprobe.ranges import check_numbers
from gradprobe.training.train import LEARNING_RATE, train


def coherence(
    task: Task,
    operator: AnyOperator,
    k: int | None = None,
    *,
    keep: float | None = None,
    batches: int = 32,
    batch_size: int = 16,
    draws: int = 2,
    steps: int = 0,
    learning_rate: float = LEARNING_RATE,
    seed: int = 0,
    progress: Progress | None = None,
) -> CoherenceResult:
    """Inner products of the scorer's gradients over batches and noise draws, theta fixed, raw and centred.

    The coherence is the mean cosine over pairs of batches with other data and other noise,
    ``C = mean_{b != b', r != r'} cos(g_br, g_b'r')``. Noise is keyed by an image's place in its batch, not by the
    image, so that draw r is the same noise in every batch: only then does ``C_data`` (other batch, same draw) isolate
    the data.

    Args:
        task: frozen model, scorer and data; its scorer is trained in place if ``steps`` > 0.
        operator: what selects: itself, its name or its class.
        k: tokens kept, 1..N; or ``keep`` instead.
        keep: their share of N, in (0, 1].
        batches: B, at least 3 for an interval.
        batch_size: images in a batch.
        draws: R, at least 2, so that the operator's own noise can be told from the data's.
        steps: train the scorer through the operator this many steps first.
        learning_rate: of that training.
        seed: of the order of images, of the noise and of the training.
        progress: called with (what, done, of how many).

    Returns:
        A result whose ``row()`` gives the table's numbers.

    Raises:
        UsageError: a number outside what is possible.
        GradprobeError: a loss or gradient that is not finite, too few images, or an operator that breaks its contract.

    Source: DiffPrune, section 3 and Fig. 1c, which gives no formula; this one fits its bars.
    """
    operator, k = operator_and_k(task, operator, k, keep)
    name = registry.label(operator)
    question = question_of(
        task, operator, k, batches=batches, batch_size=batch_size, draws=draws, steps=steps,
        learning_rate=learning_rate, seed=seed,
    )  # fmt: skip
    tell = progress or (lambda what, done, total: None)
    started = time.perf_counter()
    probed = task.batches(batches, batch_size, seed)  # refuses at once if there are too few images
    with task.running():
        train(
            task, operator, k, name, steps=steps, seed=seed, batch_size=batch_size, learning_rate=learning_rate,
            progress=progress,
        )  # fmt: skip
        parameters = list(real_parameters(task.scorer).values())
        rows = _Rows(batches, draws, parameters)
        for b, batch in enumerate(probed):
            _measure(task, operator, k, name, batch, b, seed, parameters, rows)
            tell(f"{name}: gradients", b + 1, batches)
    groups, sizes = _groups(task.scorer)
    shape = (len(groups), batches, draws, batches, draws)
    grams = [gram_by_group(part.flatten(0, 1), sizes).reshape(shape).numpy() for part in (rows.raw, rows.centred)]
    return CoherenceResult(
        question=question,
        groups=groups,
        gradient="yes" if rows.energy.any() else "none",
        gram=np.stack(grams).astype(np.float32),  # a cosine needs no more, and the store is half as large
        energy=rows.energy,
        common=rows.common,
        losses=rows.losses,
        spread=rows.spread,
        environment=environment(time.perf_counter() - started, task.skipped),
    )


def question_of(
    task: Task, operator: SelectionOperator, k: int, *, batches: int, batch_size: int, draws: int,
    steps: int, learning_rate: float, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """The question that a result answers: all that decides its numbers, in JSON types.

    Raises:
        UsageError: a number outside what is possible.
    """
    check_k(k, task.n_tokens)
    check_counts({"batches": (batches, 3), "batch-size": (batch_size, 1), "draws": (draws, 2), "steps": (steps, 0)})
    check_numbers({"seed": seed, "learning_rate": learning_rate})
    real_parameters(task.scorer)
    settings: dict[str, Any] = {
        "batches": batches, "batch_size": batch_size, "draws": draws, "steps": steps, "seed": seed
    }  # fmt: skip
    if steps:
        settings["learning_rate"] = learning_rate
    return asked_of("coherence", task, operator, k, settings)


def answer(question: Mapping[str, Any], where: Mapping[str, str], progress: Progress | None = None) -> CoherenceResult:
    """Answer a question as it is stored, with the files it is about.

    Args:
        question: as `question_of` writes it.
        where: ``weights``, ``data`` and ``device``, where they differ from the defaults.
        progress: called with (what, done, of how many).

    Raises:
        GradprobeError: it cannot be answered here, or it is about other weights or images than these.
    """
    task, operator = task_of(question, where), operator_of(question)
    settings = {name: question[name] for name in ("k", "batches", "batch_size", "draws", "steps", "seed")}
    settings["learning_rate"] = question.get("learning_rate", LEARNING_RATE)
    check_same(question_of(task, operator, **settings), question)
    return coherence(task, operator, **settings, progress=progress)


class _Rows:
    """Gradient rows of all batches and draws, and the per-batch numbers beside them."""

    def __init__(self, batches: int, draws: int, parameters: list[nn.Parameter]):
        shape = (batches, draws, sum(p.numel() for p in parameters))
        self.raw = torch.zeros(shape, dtype=parameters[0].dtype)
        self.centred = torch.zeros(shape, dtype=parameters[0].dtype)
        self.energy, self.common, self.losses = (np.zeros((batches, draws)) for _ in range(3))
        self.spread = np.zeros(batches)
        self.deterministic = False

    def repeat(self, b: int, r: int) -> None:
        """Draw r of batch b is what draw 0 was."""
        for each in (self.raw, self.centred, self.energy, self.common, self.losses):
            each[b, r] = each[b, 0]


def _measure(
    task: Task, operator: SelectionOperator, k: int, name: str, batch: Batch, b: int, seed: int,
    parameters: list[nn.Parameter], rows: _Rows,
) -> None:  # fmt: skip
    scores = task.scorer(batch.tokens.patches)
    noise = Noise(seed, range(len(batch.ids)))
    rows.spread[b] = float(scores.detach().std(-1).mean())
    first: Tensor | None = None
    for r in range(rows.raw.shape[1]):
        if r and rows.deterministic:
            rows.repeat(b, r)
            continue
        found = score_gradient(task, operator, k, batch, scores, noise.draw(r), f"{name} (batch {b + 1}, draw {r + 1})")
        rows.losses[b, r] = float(found.losses.double().mean())
        u = found.u
        if u is None:
            continue
        if b == 0 and r == 1:  # the self-test: two draws of the first batch give the very same gradient
            rows.deterministic = first is not None and torch.equal(u, first)
        first = u if first is None else first
        write_scorer_gradient(rows.raw[b, r], scores, parameters, u)
        write_scorer_gradient(rows.centred[b, r], scores, parameters, centred(u))
        rows.energy[b, r] = float(u.double().square().sum())
        rows.common[b, r] = float(u.double().mean(-1).square().sum() * u.shape[-1])


def _groups(scorer: nn.Module) -> tuple[tuple[str, ...], list[int]]:
    """Parameter groups by module: ``hidden``, ``out``; ``blocks.0``, ``blocks.1``, ``norm``, ``out``."""
    sizes: dict[str, int] = {}
    for full, parameter in scorer.named_parameters():
        if parameter.requires_grad:
            head, *rest = full.split(".")
            group = f"{head}.{rest[0]}" if rest and rest[0].isdigit() else head
            sizes[group] = sizes.get(group, 0) + parameter.numel()
    return tuple(sizes), list(sizes.values())
