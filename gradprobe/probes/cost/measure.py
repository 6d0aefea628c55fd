"""Cost: what does a training gradient through an operator take, and what does the deployed model?"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from gradprobe.core import AnyOperator, Batch, Noise, Selection, SelectionOperator, Task, apply, hard_topk
from gradprobe.probes.contract import Budget, Reporting, Resources, Subject, question_of
from gradprobe.probes.cost import PROBE, CostSettings
from gradprobe.probes.cost.result import CostResult
from gradprobe.probes.environment import environment
from gradprobe.probes.gradients import ScoreGradient, refuse_nonfinite, score_gradient
from gradprobe.settings import takes
from gradprobe.training.surrogate_loss import TWIN
from gradprobe.training.workers import one_thread

WARM_UP = 2  # rounds that are not kept


@dataclass(frozen=True, kw_only=True)
class Arguments(Reporting, CostSettings, Budget):
    """Keyword arguments of `cost`."""


@takes(Arguments)
def cost(task: Task, operator: AnyOperator, given: Arguments) -> CostResult:
    """Measure FLOPs, seconds and saved bytes of a training gradient through an operator, beside the bare encoder's.

    FLOPs and bytes are the same in every run; seconds are not, so measuring the same question again gives others. On a
    CPU torch runs on one thread, and seconds are those that it computes. In each round everything is timed once, in the
    same order and with the same noise, so that a ratio within a round means the same on a busy machine.

    Returns:
        A result whose ``row()`` gives the table's numbers.

    Raises:
        UsageError: a number outside what is possible.
        GradprobeError: a loss, score or gradient that is not finite, too few images, or an operator that breaks its
            contract.

    Example:
        >>> import gradprobe as gp
        >>> task = gp.classification("scenes")
        >>> row = cost(task, gp.build("gumbel"), 58, images=1, rounds=6).row()
        >>> round(row["flops_deployed"] / row["flops_unpruned"], 2)
        0.26
    """
    return measure(Subject.of(task, operator, given), given, Resources.of(given))


def measure(subject: Subject, settings: CostSettings, resources: Resources) -> CostResult:
    """Answer the question of a subject and settings, see `cost`."""
    question = question_of(PROBE, subject, settings)
    task, name, images = subject.task, subject.name, settings.images
    started = time.perf_counter()
    with task.running(), one_thread():
        with counted() as of_batch:
            (batch,) = task.batches(1, images, settings.seed)
        with torch.no_grad(), counted() as of_scorer:
            scores = task.scorer(batch.tokens.patches)
        refuse_nonfinite(scores, "score", name, batch)
        noise = Noise(settings.seed, batch.ids, generator=task.generator)
        work = _Work(task, subject.operator, subject.k, batch, scores, noise, name)
        with counted() as of_gradient:
            u = work.training().u
        trains = u is not None and bool(u.any())
        flops: dict[str, float | None] = {"batch": of_batch.get_total_flops(), "scorer": of_scorer.get_total_flops()}
        flops |= {"gradient": of_gradient.get_total_flops() if trains else None}
        for what, run in {"unpruned": work.unpruned, "training": work.sent, "deployed": work.deployed}.items():
            with counted() as counter:
                run()
            flops[what] = counter.get_total_flops()
        memory: dict[str, float | None] = dict.fromkeys(("training", "operator", "peak"))
        if trains:
            memory = {"training": _kept(work.training), "operator": _kept(work.selections)}
            memory["peak"] = _peak(work.training, scores.device)
        rounds = settings.rounds
        seconds = _timed(
            work, trains, rounds, scores.device, lambda done: resources.report(f"{name}: rounds", done, rounds)
        )
        sent = work.selections()[0].tokens.shape[1]
    return CostResult(
        question=question,
        gradient="yes" if trains else "none",
        sent=sent,
        flops={what: count and count / images for what, count in flops.items()},
        memory={what: count and count / images for what, count in memory.items()},
        environment=environment(time.perf_counter() - started, task.skipped) | _accelerator(scores.device),
        **seconds,
    )


def check(subject: Subject, settings: CostSettings) -> dict[str, str]:
    """Return the device, on which no other probe's numbers depend, as a key of the question."""
    return {"device": next(subject.task.scorer.parameters()).device.type}


@dataclass(frozen=True)
class _Work:
    """The calls that are measured, all on the same images, scores and noise."""

    task: Task
    op: SelectionOperator
    k: int
    batch: Batch
    scores: Tensor
    noise: Noise
    name: str

    @torch.no_grad()
    def unpruned(self) -> Tensor:
        """Run the encoder's forward pass on all N tokens."""
        return self.task.losses(self._everything(), self.batch)

    def backward(self) -> Tensor:
        """Run the same, and back to its tokens."""
        everything = self._everything()
        leaf = everything.tokens.detach().requires_grad_()
        losses = self.task.losses(replace(everything, tokens=leaf), self.batch)
        return torch.autograd.grad(losses.sum(), leaf)[0]

    @torch.no_grad()
    def scorer(self) -> Tensor:
        """Run the scorer's forward pass."""
        return self.task.scorer(self.batch.tokens.patches)

    def selections(self, leaf: Tensor | None = None) -> list[Selection]:
        """Run the operator alone, as a training gradient does: twice where it gives a log-probability."""
        leaf = self.scores.detach().requires_grad_() if leaf is None else leaf
        patches, noise = self.batch.tokens.patches, self.noise
        first = apply(self.op, patches, leaf, self.k, noise, self.name)
        if first.log_prob is None:
            return [first]
        return [first, apply(self.op, patches, leaf, self.k, noise.draw(noise.index + TWIN), self.name)]

    @torch.no_grad()
    def sent(self) -> None:
        """Run the encoder's forward pass on the tokens sent in training."""
        for selection in self.selections():
            self.task.losses(selection, self.batch)

    def operator_backward(self, upstream: Callable[[Tensor], Tensor]) -> None:
        """Run the operator alone and back to the scores, from a gradient of each of its outputs."""
        leaf = self.scores.detach().requires_grad_()
        first, *twin = self.selections(leaf)
        outputs = [first.tokens, first.key_bias, first.self_bias, first.penalty]
        outputs += [selection.log_prob for selection in (first, *twin)]
        graphs = [each for each in outputs if each is not None and each.requires_grad]
        torch.autograd.grad(graphs, leaf, [upstream(each) for each in graphs], allow_unused=True)

    def training(self) -> ScoreGradient:
        """Run the whole training gradient in the scores."""
        return score_gradient(self.task, self.op, self.k, self.batch, self.scores, self.noise, self.name)

    @torch.no_grad()
    def deployed(self) -> Tensor:
        """Run hard top-K and the encoder's forward pass on its K tokens."""
        return self.task.losses(hard_topk(self.batch.tokens.patches, self.scores, self.k), self.batch)

    def _everything(self) -> Selection:
        return Selection(self.batch.tokens.patches, torch.ones_like(self.scores))


def _timed(
    work: _Work, trains: bool, rounds: int, device: torch.device, done: Callable[[int], None]
) -> dict[str, np.ndarray]:
    """Seconds of each call in each round, all calls once a round."""
    random = np.random.default_rng(0)
    drawn: dict[torch.Size, Tensor] = {}

    def upstream(output: Tensor) -> Tensor:
        if output.shape not in drawn:  # drawn in the first warm-up, so that no round times it
            drawn[output.shape] = torch.from_numpy(random.standard_normal(output.shape)).to(output)
        return drawn[output.shape]

    calls: dict[str, Callable[[], Any]] = {
        "unpruned": work.unpruned,
        "backward": work.backward,
        "scorer": work.scorer,
        "operator": work.selections,
    }
    if trains:
        calls |= {"operator_backward": lambda: work.operator_backward(upstream), "training": work.training}
    calls["deployed"] = work.deployed
    seconds = {name: np.zeros(rounds if name in calls else 0) for name in (*calls, "operator_backward", "training")}
    for round_ in range(-WARM_UP, rounds):
        for name, call in calls.items():
            begun = _now(device)
            call()
            if round_ >= 0:
                seconds[name][round_] = _now(device) - begun
        if round_ >= 0:
            done(round_ + 1)
    return seconds


def counted() -> FlopCounterMode:
    """Count 2 for each multiply-add of matrix products, convolutions and attention (a context)."""
    aten = torch.ops.aten
    fused: dict[Any, Any] = {  # on a CPU, which older versions of torch count as nothing
        aten._scaled_dot_product_flash_attention_for_cpu: _attention,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    }
    return FlopCounterMode(display=False, custom_mapping=fused)


def _attention(query, key, value, *others, out_shape=None, **options) -> int:
    """``Q K^T`` and the product with V, from the shapes ``(B, heads, tokens, width)``."""
    return sdpa_flop_count(query, key, value)


def _attention_backward(upstream, query, key, value, *others, out_shape=None, **options) -> int:
    """Five such products: ``Q K^T`` once more, and two to each side of the two."""
    return sdpa_backward_flop_count(upstream, query, key, value)


def _kept(call: Callable[[], Any]) -> int:
    """Bytes that a call makes and autograd keeps for its backward, each storage once.

    What is kept by two calls alike was there before them: the frozen model's parameters, the batch's own tokens.
    """
    first = _storages(call)  # alive during the second call, so that no address is used again
    return sum(storage.nbytes() for address, storage in _storages(call).items() if address not in first)


def _storages(call: Callable[[], Any]) -> dict[int, torch.UntypedStorage]:
    """Return the storages that autograd keeps in a call, by address."""
    storages: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        call()
    return storages


def _peak(call: Callable[[], Any], device: torch.device) -> int | None:
    """Bytes allocated on a GPU at the most during a call, above what there was; None on a CPU."""
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call()
    return torch.cuda.max_memory_allocated(device) - before


def _now(device: torch.device) -> float:
    """Seconds: on a GPU by the clock, once it has done what it was given; else that this thread has computed.

    The backward of a CPU graph runs in the thread that asks for it, so with torch on one thread that is everything; and
    other programs that wait for the same core do not lengthen it.
    """
    if device.type != "cuda":
        return time.thread_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def _accelerator(device: torch.device) -> dict[str, str]:
    """Return the name of a GPU."""
    return {"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}
