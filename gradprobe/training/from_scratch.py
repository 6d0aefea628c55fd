"""Training of the embedded models from scratch: a resumable loop with a progress bar."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn

from gradprobe.errors import GradprobeError, UsageError
from gradprobe.training.checkpoint import Checkpoint, adamw_state, load_adamw_state
from gradprobe.training.precision import check_same_precision, choose

THREADS = 2
REPORT_EVERY = 25
FIRST_ID = 10**9  # ids of a seed's images begin at its multiple


class Part(NamedTuple):
    """Part of a step: gradients and loss, weighted so that parts add up, and counts such as right answers."""

    gradients: Sequence[Tensor | None]
    loss: float
    counts: tuple[Tensor, ...]


@dataclass(frozen=True)
class Step:
    """State of a training after a step.

    Attributes:
        done: Number of steps.
        seconds: Time of all runs together.
        loss: Loss of this step.
        counts: Counts of this step.
    """

    done: int
    seconds: float
    loss: float
    counts: tuple[Tensor, ...]


@dataclass(frozen=True)
class Trainer:
    """Trainer of an embedded model; stopped at any point and resumed, it ends with the same weights, bit for bit.

    Nothing random happens after the initial weights: the images of a step follow from its number. Its jobs run side by
    side, each on one thread, so that no sum depends on the number of threads.

    Attributes:
        model: Network, trained in place.
        recipe: Dataclass with ``steps``, ``rate``, ``decay`` and ``save_every``.
        jobs: Function (step, precision) -> jobs, each of which returns a `Part`.
        rate: Function from a step to its learning rate.
        betas: Betas of AdamW.
        timed: Steps that are timed to choose the precision.
    """

    model: nn.Module
    recipe: Any
    jobs: Callable[[int, str], Sequence[Callable[[], Part]]]
    rate: Callable[[int], float]
    betas: tuple[float, float] = (0.9, 0.999)
    timed: tuple[int, ...] = (0,)

    def run(self, checkpoint: Path, resume: bool = True, precision: str = "bfloat16") -> Iterator[Step]:
        """Train to the end of the recipe, yielding after each step.

        Args:
            checkpoint: File that is replaced every ``recipe.save_every`` steps and at the end.
            resume: Whether to resume from that file where there is one.
            precision: ``float32`` or ``bfloat16``, of matrix products and convolutions.

        Raises:
            UsageError: The checkpoint is of another recipe or precision.
            GradprobeError: The checkpoint cannot be read, or the loss is not finite.
        """
        recipe, parameters = self.recipe, self._parameters()
        optimiser = torch.optim.AdamW(
            [p for _, p in parameters], lr=recipe.rate, weight_decay=recipe.decay, betas=self.betas
        )
        done, spent = 0, 0.0
        if resume and (saved := self.saved(checkpoint)):
            check_same_precision(precision, saved.progress["precision"])
            for name, parameter in parameters:
                parameter.data.copy_(saved.tensors[f"model.{name}"])
            load_adamw_state(optimiser, parameters, saved.tensors)
            done, spent = saved.progress["done"], saved.progress["seconds"]
        began = time.monotonic() - spent
        with _workers() as workers:
            for step in range(done, recipe.steps):
                parts = list(workers.map(lambda job: job(), self.jobs(step, precision)))
                loss = sum(part.loss for part in parts)
                if not math.isfinite(loss):
                    raise GradprobeError(f"the loss is {loss} at step {step}; try a smaller rate than {recipe.rate}")
                gradients = [part.gradients for part in parts]
                workers.submit(_descend, optimiser, [p for _, p in parameters], gradients, self.rate(step)).result()
                seconds = time.monotonic() - began
                if (step + 1) % recipe.save_every == 0 or step + 1 == recipe.steps:
                    tensors = {f"model.{n}": p for n, p in parameters} | adamw_state(optimiser, parameters)
                    progress = {"done": step + 1, "seconds": seconds, "precision": precision}
                    Checkpoint(asdict(recipe), tensors, progress).write(checkpoint)
                counts = tuple(sum(values[1:], values[0]) for values in zip(*(p.counts for p in parts), strict=True))
                yield Step(step + 1, seconds, loss, counts)

    def run_with_bar(
        self, checkpoint: Path, resume: bool, precision: str, report: Callable[[Sequence[Step]], str]
    ) -> dict[str, Any]:
        """Train with a progress bar on stderr.

        Args:
            checkpoint: File as `run` takes it.
            resume: Whether to resume from that file where there is one.
            precision: ``float32``, ``bfloat16`` or ``auto``: that of the checkpoint, else the faster one.
            report: Function from the last `REPORT_EVERY` steps to a line about them.

        Returns:
            Progress of the last checkpoint: ``precision``, ``seconds`` and ``done``.
        """
        console = Console(stderr=True)
        precision, reason = self.choose_precision(checkpoint, resume, precision)
        console.print(reason, highlight=False)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        steps: list[Step] = []
        with Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=console) as bar:
            task = bar.add_task("training", total=self.recipe.steps)
            for step in self.run(checkpoint, resume, precision):
                steps.append(step)
                bar.update(task, completed=step.done)
                if step.done % REPORT_EVERY == 0:
                    line = f"step {step.done}: {report(steps)}, {step.seconds:.0f} s"
                    bar.console.print(line, highlight=False, soft_wrap=True)
                    steps = []
        saved = self.saved(checkpoint)
        assert saved is not None
        return dict(saved.progress)

    def saved(self, checkpoint: Path) -> Checkpoint | None:
        """Read the checkpoint; None if there is none.

        Raises:
            UsageError: It is of another recipe, or was written by an earlier version.
            GradprobeError: It cannot be read.
        """
        saved = Checkpoint.read(checkpoint)
        if saved is not None:
            saved.check_config(asdict(self.recipe), checkpoint.parent)
        elif (older := checkpoint.with_suffix(".pt")).exists():
            raise UsageError(f"{older} is of an earlier version and cannot be resumed; delete it to begin anew")
        return saved

    def choose_precision(self, checkpoint: Path, resume: bool, precision: str) -> tuple[str, str]:
        """Choose the precision of the training, with the reason; see `gradprobe.training.precision.choose`."""
        saved = self.saved(checkpoint) if resume else None
        with _workers() as workers:

            def step(precision: str) -> None:
                for number in self.timed:
                    list(workers.map(lambda job: job(), self.jobs(number, precision)))

            return choose(precision, saved.progress["precision"] if saved else None, step)

    def _parameters(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]


def fresh(make: Callable[[], nn.Module], seed: int) -> Any:
    """Return a network with seeded initial values; the global RNG stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def check_recipe(recipe: Any, *names: str) -> None:
    """Refuse a recipe whose named numbers are below 1, or whose seed is negative.

    Raises:
        UsageError: The message names the number.
    """
    for name in names:
        if getattr(recipe, name) < 1:
            raise UsageError(f"{name}={getattr(recipe, name)}: train-scenes needs a whole number from 1 on")
    if recipe.seed < 0:
        raise UsageError(f"seed={recipe.seed}: a seed is a whole number from 0 on")


def _workers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS, initializer=torch.set_num_threads, initargs=(1,))


def _descend(
    optimiser: torch.optim.Optimizer,
    parameters: Sequence[Tensor],
    parts: Sequence[Sequence[Tensor | None]],
    rate: float,
) -> None:
    for parameter, *gradients in zip(parameters, *parts, strict=True):
        present = [gradient for gradient in gradients if gradient is not None]
        parameter.grad = torch.stack(present).sum(dim=0) if present else None
    nn.utils.clip_grad_norm_(parameters, 1.0)
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.step()
