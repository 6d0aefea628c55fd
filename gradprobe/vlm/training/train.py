"""Training a pruner for a vision-language model, as DiffPrune does: the model frozen, the loss that of captions."""

import dataclasses
import hashlib
import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gradprobe.core import SelectionOperator
from gradprobe.errors import GradprobeError, Notice, UsageError
from gradprobe.files import open_regular
from gradprobe.operators.registry import build, code_of, label
from gradprobe.statistics.estimates import Estimate
from gradprobe.training.train import Fitting
from gradprobe.training.workers import groups_of, workers_for
from gradprobe.vlm.captions import CaptionSource
from gradprobe.vlm.deploy import Budget, save
from gradprobe.vlm.inputs import inputs_fingerprint
from gradprobe.vlm.model import VLM
from gradprobe.vlm.task import Captioning, task_of
from gradprobe.vlm.training.card import card, facts
from gradprobe.vlm.training.checkpoints import NAME, Checkpoint, check_same, write_checkpoint
from gradprobe.vlm.training.conclusion import unfinished
from gradprobe.vlm.training.presets import Settings
from gradprobe.vlm.training.processes import ALONE, Processes
from gradprobe.vlm.training.result import TrainingResult, Validation, best
from gradprobe.vlm.training.tracking import Log, Tell, tracker
from gradprobe.vlm.training.validation import Judge

ROWS = {"cpu": 8, "cuda": 4}  # images that the language model reads at a time
Progress = Callable[[str, int, int], None]


def fit(
    vlm: VLM,
    source: CaptionSource,
    out: Path | str,
    settings: Settings,
    *,
    rows: int | None = None,
    progress: Progress | None = None,
    team: Processes = ALONE,
    track: str | None = None,
    restart: bool = False,
    command: str = "",
) -> TrainingResult:
    """Train a scorer (and a denoiser that is left out afterwards) for a frozen model, and write the pruner.

    ``min over theta, phi of -sum_t log p(y_t | y_<t, [P(D_phi(T(X; alpha))); W])`` with ``alpha = Phi_K(S_theta(X) /
    tau)``. Validation is the same loss on fixed held-out captions with fixed noise at the last temperature, so that
    all validations compare; the scorer of the best one is kept. Stopped at any point and called again, the training
    goes on from its last checkpoint and ends with the very same scorer.

    Args:
        vlm: the model; it stays as it is, bit by bit, which is checked.
        source: images with captions.
        out: folder for ``pruner.safetensors``, ``pruner.json``, a card, a log and the checkpoint.
        settings: how.
        rows: images that the language model reads at a time; more are faster and take more memory.
        progress: called with (what, done, of how many).
        team: the processes that share the work.
        track: ``trackio``, ``wandb`` or ``tensorboard``; None: the log alone.
        restart: ignore a checkpoint in ``out``.
        command: the line that the card says it was made by.

    Raises:
        UsageError: settings that mean nothing, K that keeps every token, or a checkpoint of another training.
        GradprobeError: no memory or disk left, a loss that is not finite, or a model that changed.

    Source: DiffPrune, Eq. 2, section 4 and appendix A.
    """
    settings.check()
    if rows is not None and rows < 1:
        raise UsageError(f"--rows {rows} is not possible; give a whole number of at least 1")
    operator = build(settings.op)
    out, rows = Path(out), rows or ROWS.get(vlm.device.type, 4)
    base = fingerprint(vlm.model)
    dtype = str(next(vlm.model.parameters()).dtype).removeprefix("torch.")
    names = {"backbone": vlm.name, "weights": base, "data": _data(source), "dtype": dtype}
    task = task_of(vlm, source, names, scorer=settings.scorer, denoiser=settings.denoiser, seed=settings.seed)
    steps = settings.steps or _epoch(source, settings)
    if team.first and (warning := unfinished(settings, steps)):
        warnings.warn(warning, Notice, stacklevel=2)
    question = _question(task, settings, steps, label(operator))
    run = _Run(task, operator, settings, steps, question, rows, team, out)
    with _memory_told(rows, settings.batch_size, out):
        run.check_budget()
    log = Log(out) if team.first else None
    try:
        with (
            _memory_told(rows, settings.batch_size, out),
            tracker(track if team.first else None, out, question) as tell,
        ):
            run.go_on(restart)
            if log:
                log.go_on(len(run.fitting.losses))
            run.train(log, tell, progress if team.first else None)
            losses, gain = run.keep_best()
    finally:
        if log:
            log.close()
    if fingerprint(vlm.model) != base:
        raise GradprobeError(f"{vlm.name} changed during its training; no pruner was written: please report this")
    trained = run.trained(losses, gain)
    if team.first:
        save(out, task.scorer, vlm.about | facts(trained))
        _write(out / "README.md", card(trained, command).encode())
    return trained


class _Run:
    """One training: the parts that `fit` puts in order."""

    def __init__(
        self, task: Captioning, operator: SelectionOperator, settings: Settings, steps: int, question: dict[str, Any],
        rows: int, team: Processes, out: Path,
    ):  # fmt: skip
        self.task, self.settings, self.question, self.team, self.out = task, settings, question, team, out
        self.budget = Budget(settings.k, settings.ratio)
        name = label(operator)
        self.fitting = Fitting(
            task, operator, self.budget.of, name, settings.recipe(steps), workers_for(task), rows=rows, share=team.share
        )
        self.judge = Judge(task, operator, self.budget, settings, name, rows, team.share)
        self.best: dict[str, Tensor] = {}
        self.validations: tuple[Validation, ...] = ()
        self.seconds = 0.0

    def check_budget(self) -> None:
        """Refuse a budget under which nothing is pruned."""
        with self.task.running():
            batch = next(self.task.training_batches(self.settings.batch_size, self.settings.seed))
        sizes = [group.tokens.patches.shape[1] for group in groups_of(batch)]
        if all(self.budget.of(n) >= n for n in sizes):
            asked = f"--ratio {self.settings.ratio:g}" if self.settings.k is None else f"--k {self.settings.k}"
            raise UsageError(
                f"{asked} keeps every token: the images have {'at most ' * (min(sizes) < max(sizes))}{max(sizes)}; "
                f"possible: --k 1 to --k {max(sizes) - 1}, or --ratio with a share below 1"
            )

    def go_on(self, restart: bool) -> None:
        """Take over what the checkpoint says, if there is one."""
        path, content = self.out / NAME, None
        if self.team.first and not restart and path.exists():
            try:
                with open_regular(path) as file:
                    content = file.read()
            except OSError as error:
                raise GradprobeError(f"{path} cannot be read: {error.strerror or error}") from None
        content = self.team.given(content)
        if content is None:
            return
        there = Checkpoint.of(content, path)
        check_same(there.question, self.question, self.out)
        device = next(self.task.scorer.parameters()).device
        self.fitting.put_back({n: t if n.startswith("step.") else t.to(device) for n, t in there.state.items()})
        self.best, self.validations, self.seconds = there.best, there.validations, there.seconds

    def train(self, log: Log | None, tell: Tell, progress: Progress | None) -> None:
        """To the last step, or until validation has not become better for long."""
        recipe, every = self.fitting.recipe, self.settings.save_every
        if self._stale():
            return
        running: Any = self.fitting.run()  # a generator: closed at once where training ends early
        with self.task.running(), closing(running) as steps:
            began = time.monotonic()
            for step in steps:
                values = {"loss": self.fitting.losses[-1], "rate": recipe.rate(step - 1)}
                if recipe.tau_start is not None:
                    values["tau"] = recipe.tau(step - 1)
                due = step % every == 0 or step == recipe.steps
                if due and self.judge.examples:
                    self._validate(step)
                    values |= {"validation": self.validations[-1].loss, "deployed": self.validations[-1].deployed}
                now = time.monotonic()
                values["seconds"], self.seconds, began = now - began, self.seconds + now - began, now
                if log:
                    with _disk_told(self.out):
                        log.write(step, values)
                tell(step, values)
                if due and self.team.first:
                    state = self.fitting.state()
                    made = Checkpoint(state, self.best, self.question, self.validations, self.seconds)
                    write_checkpoint(self.out, made.content())
                if progress:
                    progress(f"training {self.question['op']}", step, recipe.steps)
                if due and self._stale():
                    return

    def keep_best(self) -> tuple[dict[str, float], Estimate | None]:
        """Put the best scorer back, and measure it beside the model with all tokens and with random ones."""
        if not self.validations:
            return {}, None
        for name, parameter in self.task.scorer.named_parameters():
            parameter.data.copy_(self.best[name])
        chosen = best(self.validations)
        with self.task.running():
            unpruned, (random, gain) = self.judge.unpruned(), self.judge.against_random()
        losses = {"unpruned": unpruned, "random": random, "deployed": chosen.deployed, "training": chosen.loss}
        return losses, gain

    def trained(self, losses: dict[str, float], gain: Estimate | None) -> TrainingResult:
        """What came of it."""
        done, source = len(self.fitting.losses), self.task.source
        parts = {"scorer": self.task.scorer, "denoiser": self.task.denoiser}
        return TrainingResult(
            out=self.out, config=self.question, steps=done, planned=self.fitting.recipe.steps,
            step=best(self.validations).step if self.validations else done, validations=self.validations,
            losses=losses, training_loss=self.fitting.losses[-1] if done else math.nan,
            parameters={n: sum(p.numel() for p in m.parameters()) for n, m in parts.items() if m is not None},
            seconds=self.seconds, skipped=source.skipped,
            examples={"held_out": self.judge.examples, "seen": done * self.settings.batch_size}, over_random=gain,
        )  # fmt: skip

    def _validate(self, step: int) -> None:
        found = Validation(step, self.judge.training(), self.judge.deployed())
        self.validations = (*self.validations, found)
        if best(self.validations) is found:
            self.best = {n: p.detach().cpu().clone() for n, p in self.task.scorer.named_parameters()}

    def _stale(self) -> bool:
        """Whether validation has not become better for as long as patience lasts, tau being where it stays."""
        if not self.settings.patience or not self.validations:
            return False
        fallen = 0 if self.settings.tau_start is None else self.settings.tau_steps
        since = max(best(self.validations).step, fallen)
        return sum(v.step > since for v in self.validations) >= self.settings.patience


def fingerprint(model: nn.Module) -> str:
    """``sha256:`` and 16 hex digits of the hash of all parameters and buffers, bit by bit.

    Example:
        >>> fingerprint(nn.Linear(2, 2)) == fingerprint(nn.Linear(2, 2))
        False
    """
    digest = hashlib.sha256()
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        digest.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return f"sha256:{digest.hexdigest()[:16]}"


def _question(task: Captioning, settings: Settings, steps: int, op: str) -> dict[str, Any]:
    """What decides the outcome, in JSON types; how long patience lasts decides when it ends alone."""
    chosen = {n: v for n, v in dataclasses.asdict(settings).items() if n != "patience"}
    code = code_of(build(settings.op))
    third = {} if code is None else {"op_code": code}
    model = {"dim": task.vlm.dim, "inputs": inputs_fingerprint(task.vlm)}
    return chosen | task.question | {"op": op, "steps": steps} | model | third


def _data(source: CaptionSource) -> str:
    return str(getattr(source, "fingerprint", type(source).__name__))


def _epoch(source: CaptionSource, settings: Settings) -> int:
    images = getattr(source, "epoch", None)
    if images is None:
        raise UsageError("these data have no end, so there is no epoch; say how long with --steps, e.g. --steps 400")
    return math.ceil(images / settings.batch_size)


def _write(path: Path, content: bytes) -> None:
    from gradprobe.files import atomic_write

    with _disk_told(path.parent):
        atomic_write(path, content)


@contextmanager
def _disk_told(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise GradprobeError(f"cannot write to {out}: {error.strerror or error}; the last checkpoint stays") from None


@contextmanager
def _memory_told(rows: int, batch_size: int, out: Path) -> Iterator[None]:
    """Errors of a full memory, with what to lower."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        text = str(error).lower()
        full = isinstance(error, (torch.OutOfMemoryError, MemoryError))
        if not full and "out of memory" not in text and "can't allocate memory" not in text:
            raise
        stays = "; the last checkpoint stays" if (out / NAME).exists() else ""
        raise GradprobeError(
            f"out of memory with {rows} images at a time: lower --rows (below {rows}), then --batch-size (below "
            f"{batch_size}), or give --dtype bfloat16{stays}"
        ) from None
