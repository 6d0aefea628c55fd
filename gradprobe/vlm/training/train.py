"""Training of a pruner for a frozen vision-language model by the loss of captions, as DiffPrune does."""

import dataclasses
import hashlib
import math
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gradprobe.core import Batch, RaggedBatch, SelectionOperator
from gradprobe.deferred import deferring, settle
from gradprobe.errors import GradprobeError, Notice, UsageError
from gradprobe.files import atomic_write
from gradprobe.operators.registry import build, code_of, label
from gradprobe.statistics.estimates import Estimate
from gradprobe.tasks import generator_name
from gradprobe.training.checkpoint import NAME, Checkpoint, read_bytes, unreadable
from gradprobe.training.scorer_trainer import ScorerTrainer
from gradprobe.training.workers import workers_for
from gradprobe.vlm.budgets import Budget
from gradprobe.vlm.captions import CaptionSource
from gradprobe.vlm.deploy import save
from gradprobe.vlm.inputs import inputs_fingerprint
from gradprobe.vlm.model import VLM
from gradprobe.vlm.task import Captioning, task_of
from gradprobe.vlm.training.card import card, facts
from gradprobe.vlm.training.conclusion import unfinished
from gradprobe.vlm.training.memory import memory_advice, rows_of
from gradprobe.vlm.training.need import free_on, need_of
from gradprobe.vlm.training.presets import Settings
from gradprobe.vlm.training.processes import SINGLE, ProcessGroup
from gradprobe.vlm.training.result import TrainingResult, Validation, best
from gradprobe.vlm.training.sharding import shard
from gradprobe.vlm.training.tracking import Log, Record, tracker
from gradprobe.vlm.training.validation import Validator

_BEST = "best."  # begins names of the best scorer's tensors in a checkpoint
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Launch:
    """Circumstances of a run, which do not change what it trains.

    Attributes:
        processes: Processes that share the work.
        tracker: ``trackio``, ``wandb`` or ``tensorboard``; None: ``log.jsonl`` alone.
        command: Command line for the model card.
        tell: Called with a line about the memory that is needed, before the first step.
    """

    processes: ProcessGroup = SINGLE
    tracker: str | None = None
    command: str = ""
    tell: Callable[[str], None] | None = None


def fit(
    vlm: VLM,
    source: CaptionSource,
    out: Path | str,
    settings: Settings,
    *,
    rows: int | None = None,
    restart: bool = False,
    progress: Progress | None = None,
    launch: Launch | None = None,
) -> TrainingResult:
    """Train a scorer (and a denoiser that is left out afterwards) for a frozen model, and write the pruner.

    ``min over theta, phi of -sum_t log p(y_t | y_<t, [P(D_phi(T(X; alpha))); W])`` with ``alpha = Phi_K(S_theta(X) /
    tau)``. Validation is the same loss on fixed held-out captions, with fixed noise at the last temperature, so that
    validations compare; the scorer of the best one is saved. Stopped at any point and called again, the training
    resumes from its last checkpoint and ends with the same scorer, bit for bit.

    Args:
        vlm: Model; it stays as it is, bit by bit, which is checked.
        source: Images with captions.
        out: Folder for the scorer, a model card, a log and the checkpoint.
        settings: Settings of the training.
        rows: Images that the language model reads at a time; more are faster and take more memory. None: 8 on a CPU, on
            a GPU as many as should fit. Where memory runs out, they are halved.
        restart: Whether to ignore a checkpoint in ``out``.
        progress: Callback, called with (text, done, total).
        launch: Process group, tracker and command line; None: one process, the log alone.

    Raises:
        UsageError: Impossible settings, K that keeps every token, or a checkpoint of another training.
        GradprobeError: Not enough memory or disk, a loss that is not finite, or a model that changed.

    Source: DiffPrune, Eq. 2, section 4 and appendix A.
    """
    settings.check()
    if rows is not None and rows < 1:
        raise UsageError(f"--rows {rows} is not possible; give a whole number of at least 1")
    out, launch = Path(out), launch or Launch()
    main = launch.processes.main
    check_whole(vlm)
    weights = fingerprint(vlm.model)
    if launch.processes.sharded:
        shard(vlm, launch.processes.device)
    before = fingerprint(vlm.model)  # of the part that this process holds
    with memory_advice(rows, settings.batch_size, out):
        run = _Run(vlm, source, out, settings, rows, weights, launch.processes)
    if main and (warning := unfinished(settings, run.trainer.recipe.steps)):
        warnings.warn(warning, Notice, stacklevel=2)
    run.check_budget()
    with memory_advice(1, settings.batch_size, out):
        run.check_memory(rows, launch.tell if main else None)
    log = Log(out) if main else None
    try:
        with (
            memory_advice(run.rows, settings.batch_size, out, launch.processes.sharded),
            ExitStack() as stack,
        ):
            if not restart:
                run.resume()
            if log:
                log.truncate(run.trainer.done)
            name = launch.tracker if main else None
            record = stack.enter_context(tracker(name, out, run.config, run.trainer.done))
            run.train(log, record, progress if main else None)
            losses, gain = run.load_best()
    finally:
        if log:
            log.close()
    if fingerprint(vlm.model) != before:
        raise GradprobeError(f"{vlm.name} changed during its training; no pruner was written: please report this")
    result = run.result(losses, gain)
    if main:
        save(out, run.task.scorer, vlm.metadata | facts(result))
        with _disk_advice(out):
            atomic_write(out / "README.md", card(result, launch.command).encode())
    return result


class _Run:
    """Training between its parts: task, trainer, validator, checkpoint."""

    def __init__(
        self,
        vlm: VLM,
        source: CaptionSource,
        out: Path,
        settings: Settings,
        rows: int | None,
        weights: str,
        processes: ProcessGroup,
    ):
        operator = build(settings.op)
        dtype = str(next(vlm.model.parameters()).dtype).removeprefix("torch.")
        data = str(getattr(source, "fingerprint", type(source).__name__))
        names = {"backbone": vlm.name, "weights": weights, "data": data, "dtype": dtype}
        names |= generator_name(settings.generator, vlm.device)
        self.task = task_of(vlm, source, names, scorer=settings.scorer, denoiser=settings.denoiser, seed=settings.seed)
        self.settings, self.out, self.processes = settings, out, processes
        self.budget, name, shard = Budget(settings.k, settings.ratio), label(operator), processes.shard
        recipe = settings.recipe(settings.steps or _epoch(source, settings))
        self.config = _config(self.task, settings, operator, recipe.steps)
        self.parts = self._first_batch()
        self.tokens = [part.tokens.patches.shape[1] for part in self.parts]
        self.rows = rows = rows or processes.smallest(rows_of(vlm, self.parts))
        self.workers = workers = 1 if processes.sharded else workers_for(self.task)
        self.trainer = ScorerTrainer(self.task, operator, self.budget.of, name, recipe, workers, rows=rows, shard=shard)
        self.validator = Validator(self.task, operator, self.budget, settings, name, rows, workers, shard)
        self.best: dict[str, Tensor] = {}
        self.validations: tuple[Validation, ...] = ()
        self.seconds = 0.0

    def check_budget(self) -> None:
        """Refuse a budget that keeps every token."""
        sizes = self.tokens
        if all(self.budget.of(n) >= n for n in sizes):
            option = f"--ratio {self.settings.ratio:g}" if self.settings.k is None else f"--k {self.settings.k}"
            raise UsageError(
                f"{option} keeps every token: the images have {'at most ' * (min(sizes) < max(sizes))}{max(sizes)}; "
                f"possible: --k 1 to --k {max(sizes) - 1}, or --ratio with a share below 1"
            )

    def check_memory(self, rows: int | None, tell: Callable[[str], None] | None) -> None:
        """Tell the memory that is needed; refuse to begin where there is less.

        Args:
            rows: Images at a time that were asked for; None: they may be lowered on a GPU.
            tell: Called with the need; None: nobody.
        """
        settings, device = self.settings, self.task.vlm.device
        spread = len(set((getattr(self.task.vlm.model, "hf_device_map", None) or {}).values())) > 1
        free = free_on("auto" if spread else device)
        seen = self.trainer.recipe.steps * settings.batch_size
        images = min(seen, getattr(self.task.source, "epoch", seen)) + self.validator.examples
        with self.task.running():
            need = need_of(self.trainer, self.task, self.parts, self.rows, self.workers, images)
        if tell:
            tell(need.text(free))
        need.check(free, need.images if rows or device.type == "cpu" or self.processes.sharded else 1)

    def _first_batch(self) -> tuple[Batch, ...]:
        with self.task.running():
            batch = next(self.task.training_batches(self.settings.batch_size, self.settings.seed))
        return batch.parts if isinstance(batch, RaggedBatch) else (batch,)

    def resume(self) -> None:
        """Load the checkpoint, if there is one.

        Raises:
            UsageError: It is of another training.
            GradprobeError: It cannot be read, or lacks a part.
        """
        path = self.out / NAME
        content = self.processes.broadcast(read_bytes(path) if self.processes.main else None)
        if content is None:
            return
        saved = Checkpoint.from_bytes(content, path)
        saved.check_config(self.config, self.out)
        try:
            self.trainer.load_state_dict(saved.tensors)
            self.best = {n.removeprefix(_BEST): t for n, t in saved.tensors.items() if n.startswith(_BEST)}
            self.validations = tuple(Validation(*values) for values in saved.progress["validations"])
            self.seconds = saved.progress["seconds"]
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise unreadable(path, error) from None

    def save(self) -> None:
        """Write the checkpoint."""
        tensors = self.trainer.state_dict() | {f"{_BEST}{n}": t for n, t in self.best.items()}
        validations = [dataclasses.astuple(v) for v in self.validations]
        progress = {"seconds": self.seconds, "validations": validations}
        Checkpoint(self.config, tensors, progress).write(self.out / NAME)

    def train(self, log: Log | None, record: Record, progress: Progress | None) -> None:
        """Train to the last step, or until early stopping."""
        recipe, every = self.trainer.recipe, self.settings.save_every
        if self._stale():
            return
        running: Any = self.trainer.run()  # a generator: closed at once where training ends early
        waiting: deque[tuple[int, dict[str, float]]] = deque()  # lines of steps that a GPU has not finished

        def write(losses: Sequence[float]) -> None:
            while waiting and waiting[0][0] <= len(losses):
                step, values = waiting.popleft()
                values = {"loss": losses[step - 1], **values}
                if log:
                    with _disk_advice(self.out):
                        log.write(step, values)
                record(step, values)

        with self.task.running(), deferring(), closing(running) as steps:
            began = time.monotonic()
            for step in steps:
                values = {"rate": recipe.rate(step - 1)}
                if recipe.tau_start is not None:
                    values["tau"] = recipe.tau(step - 1)
                due = step % every == 0 or step == recipe.steps
                if due and self.validator.examples:
                    self._validate(step)
                    values |= {"validation": self.validations[-1].loss, "deployed": self.validations[-1].deployed}
                now = time.monotonic()
                values["seconds"], self.seconds, began = now - began, self.seconds + now - began, now
                waiting.append((step, values))
                if due:
                    settle()  # no checkpoint holds a scorer that came of a bad gradient
                write(self.trainer.losses if due else self.trainer.known_losses)
                if due and self.processes.main:
                    self.save()
                if progress:
                    progress(f"training {self.config['op']}", step, recipe.steps)
                if due and self._stale():
                    return

    def load_best(self) -> tuple[dict[str, float], Estimate | None]:
        """Load the best scorer; return its losses beside those with all tokens and with random ones, and the gain."""
        if not self.validations:
            return {}, None
        for name, parameter in self.task.scorer.named_parameters():
            parameter.data.copy_(self.best[name])
        chosen = best(self.validations)
        with self.task.running():
            unpruned, (random, gain) = self.validator.unpruned(), self.validator.against_random()
        losses = {"unpruned": unpruned, "random": random, "deployed": chosen.deployed, "training": chosen.loss}
        return losses, gain

    def result(self, losses: dict[str, float], gain: Estimate | None) -> TrainingResult:
        """Return the result of the run."""
        done, trainer = self.trainer.done, self.trainer
        parts = {"scorer": self.task.scorer, "denoiser": self.task.denoiser}
        return TrainingResult(
            out=self.out, config=self.config, steps=done, planned=trainer.recipe.steps,
            step=best(self.validations).step if self.validations else done, validations=self.validations,
            losses=losses, training_loss=trainer.losses[-1] if done else math.nan,
            parameters={n: sum(p.numel() for p in m.parameters()) for n, m in parts.items() if m is not None},
            seconds=self.seconds, skipped=self.task.source.skipped,
            examples={"held_out": self.validator.examples, "seen": done * self.settings.batch_size}, over_random=gain,
        )  # fmt: skip

    def _validate(self, step: int) -> None:
        validation = Validation(step, self.validator.training(), self.validator.deployed())
        self.validations = (*self.validations, validation)
        if best(self.validations) is validation:
            self.best = {n: p.detach().cpu().clone() for n, p in self.task.scorer.named_parameters()}

    def _stale(self) -> bool:
        """Return True if no validation improved for the length of the patience, counted once tau has fallen."""
        if not self.settings.patience or not self.validations:
            return False
        fallen = 0 if self.settings.tau_start is None else self.settings.tau_steps
        since = max(best(self.validations).step, fallen)
        return sum(v.step > since for v in self.validations) >= self.settings.patience


def check_whole(vlm: VLM) -> None:
    """Refuse a model with layers on the host or on disk, which a device map puts there if GPUs are too small.

    Raises:
        GradprobeError: It has some; their parameters would stay on the GPU from the forward pass to the backward.
    """
    places = sorted({str(place) for place in (getattr(vlm.model, "hf_device_map", None) or {}).values()})
    if any(p.is_meta for p in vlm.model.parameters()):
        raise GradprobeError(
            f"{vlm.name} does not fit the GPUs of this machine ({', '.join(places)}), and a scorer cannot be trained "
            "through layers that lie elsewhere: give --dtype bfloat16, or spread it over more (accelerate launch "
            "--use_fsdp)"
        )


def fingerprint(model: nn.Module) -> str:
    """Return ``sha256:`` and 16 hex digits of the hash of all parameters and buffers, bit by bit.

    Example:
        >>> fingerprint(nn.Linear(2, 2)) == fingerprint(nn.Linear(2, 2))
        False
    """
    digest = hashlib.sha256()
    tensors: list[tuple[str, Any]] = [*model.named_parameters(), *model.named_buffers()]
    for name, value in tensors:
        value = value.to_local() if hasattr(value, "to_local") else value  # of processes that share the model
        digest.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return f"sha256:{digest.hexdigest()[:16]}"


def _config(task: Captioning, settings: Settings, operator: SelectionOperator, steps: int) -> dict[str, Any]:
    """Return everything that decides the outcome, in JSON types.

    Patience decides only when the training ends; the task names the generator of the noise.
    """
    chosen = {n: v for n, v in dataclasses.asdict(settings).items() if n not in ("patience", "generator")}
    code = code_of(operator)
    model = {"dim": task.vlm.dim, "inputs": inputs_fingerprint(task.vlm)}
    own = {"op": label(operator), "steps": steps} | ({} if code is None else {"op_code": code})
    return chosen | task.question | model | own


def _epoch(source: CaptionSource, settings: Settings) -> int:
    images = getattr(source, "epoch", None)
    if images is None:
        raise UsageError("these data have no end, so there is no epoch; say how long with --steps, e.g. --steps 400")
    return math.ceil(images / settings.batch_size)


@contextmanager
def _disk_advice(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise GradprobeError(f"cannot write to {out}: {error.strerror or error}; the last checkpoint stays") from None
