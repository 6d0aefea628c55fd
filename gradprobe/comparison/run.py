"""Compare: every probe on one operator and on the baselines, the same images, noise and scorer for all."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from gradprobe.comparison.comparison import Comparison
from gradprobe.comparison.experiments import Progress, Run, ask
from gradprobe.core import AnyOperator, Noise, SelectionOperator, apply, check_k, hard_topk
from gradprobe.errors import GradprobeError, UsageError, in_words, nearest
from gradprobe.files import atomic_write
from gradprobe.models.rankings import RANKINGS, rank_scores
from gradprobe.operators import registry
from gradprobe.operators.temperature import at_temperature, own_tau
from gradprobe.probes import coherence, cost, equivalence, fidelity, landscape, retention
from gradprobe.probes.contract import Ranking, Subject, question_of
from gradprobe.probes.fidelity import LADDER, SIGMAS
from gradprobe.probes.gradients import score_gradient
from gradprobe.probes.questions import tokens_kept
from gradprobe.store.results import Store
from gradprobe.tasks import Classification, classification
from gradprobe.training.workers import one_thread, workers_for

BASELINES = ("gumbel", "gumbel-softmax", "scale", "vpnoise")
HARD = "hard+gather"
SHARP = 0.01  # temperature at which equivalence asks operators that were typed without one
GROUP = 8  # images that are timed
SETUP = 2.5  # seconds that a question takes beside its work: making the task, storing


@dataclass(frozen=True)
class Size:
    """Amount of each probe in a comparison.

    Attributes:
        batches: of coherence.
        batch_size: images in each, and in a training step.
        points: of the landscape line.
        line_images: that its loss is a mean of.
        fidelity_images: whose gradients are compared.
        draws: of the smoothed deployed loss.
        held_out: images that the descent is looked at on.
        equivalence_images: under random scores.
        steps: of training.
        test_images: of retention.
        seeds: of training.
        rounds: of timing.
    """

    batches: int
    batch_size: int
    points: int
    line_images: int
    fidelity_images: int
    draws: int
    held_out: int
    equivalence_images: int
    steps: int
    test_images: int
    seeds: int
    rounds: int


SIZES = {
    "tiny": Size(6, 8, 11, 8, 16, 32, 32, 64, 10, 64, 1, 6),
    "small": Size(12, 8, 21, 16, 32, 64, 64, 256, 30, 256, 2, 9),
    "medium": Size(16, 16, 41, 32, 64, 128, 256, 512, 60, 512, 2, 9),
    "large": Size(32, 16, 41, 64, 96, 128, 256, 1024, 100, 1000, 3, 15),
    "full": Size(64, 16, 81, 64, 192, 256, 256, 2048, 300, 1000, 5, 21),
}


@dataclass(frozen=True)
class Times:
    """Seconds an image on one thread: an operator's gradient, its forward pass, and that of the K deployed tokens."""

    gradient: float
    forward: float
    deployed: float


def compare(
    ops: AnyOperator | Sequence[AnyOperator],
    k: int | None = None,
    *,
    keep: float | None = None,
    baselines: AnyOperator | Sequence[AnyOperator] = BASELINES,
    backbone: str = "scenes",
    weights: str | None = None,
    data: str | None = None,
    train_data: str | None = None,
    scorer: str = "mlp",
    layer: int = 0,
    loss: str = "ce",
    seed: int = 1,
    device: str = "cpu",
    dtype: str = "float32",
    budget: float = 600.0,
    size: str | None = None,
    results: Path | str = "runs",
    workers: int | None = None,
    force: bool = False,
    command: str = "",
    progress: Progress | None = None,
    weights_key: str | None = None,
    image_size: int | str | tuple[int, int] | None = None,
    class_order: str | None = None,
) -> Comparison:
    """Coherence, a landscape line, fidelity, equivalence, retention and cost of operators and baselines.

    All are asked about the same images with the same noise and the same fresh scorer. Answers that are stored are not
    computed again; what cannot be measured of an operator is named in ``missing`` and stops nothing else.

    Args:
        ops: one operator or several, each itself, its name or its class; all others are compared with the first.
        k: tokens kept, 1..N; or ``keep`` instead.
        keep: their share of N, in (0, 1].
        baselines: operators likewise; ``[]`` or ``"none"`` for none.
        backbone: ``scenes`` or a timm vision transformer.
        weights: a file, or ``none``; None: the backbone's own.
        data: folder of images; None: the backbone's own.
        train_data: folder that retention trains on; None: ``data``.
        scorer: ``mlp`` or ``transformer``, with fields.
        layer: blocks before the insertion point.
        loss: ``ce`` or ``kl``.
        seed: of images, noise and scorer, and the first of the trainings. (Seed 0 of the scenes is lucky: its fresh
            scorer already finds the digit.)
        device: ``cpu``, ``cuda``, ...
        dtype: ``float32``, ``bfloat16`` or ``float64``.
        budget: seconds; decides the size, by timing every operator first. The choice is kept with the answers, so that
            the same call goes on where it was stopped.
        size: one of `SIZES` instead.
        results: where answers are kept.
        workers: threads; the numbers, but for the cost, do not depend on it.
        force: measure again what is stored.
        command: what the comparison says made it.
        progress: called with (what, done, of how many).
        weights_key: which of the models in a weights file; None: by timm's order of preference.
        image_size: pixels, or ``"HxW"``; None: that of the weights.
        class_order: order of the class folders, ``text`` or ``natural``; None: not said.

    Returns:
        The comparison, for `gradprobe.comparison.comparison.rows` and `gradprobe.comparison.page.write_report`.

    Raises:
        UsageError: a name, size or number that is not possible.

    Example:
        >>> compare("vpnoise", keep=0.3, size="enormous")
        Traceback (most recent call last):
        gradprobe.errors.UsageError: no size is called 'enormous'; Known: full, large, medium, small, tiny
    """
    own = _named(ops)
    named = own | _named([] if baselines == "none" else baselines, own)
    if not own:
        raise UsageError("a comparison needs an operator; give --op NAME or --op my_op.py:MyOp")
    if not isinstance(backbone, str):
        raise UsageError("a comparison opens its model by name; save your weights and give backbone= and weights=")
    if size is not None and size not in SIZES:
        raise UsageError(f"no size is called {size!r}; {nearest(size, SIZES)}")
    if not isinstance(budget, int | float):
        raise UsageError(f"budget={in_words(budget)} is not possible; give seconds, such as budget=600")
    if not budget > 0:
        raise UsageError(f"--budget {budget:g}s is not possible; give a time such as --budget 10m")

    def task_for(seed: int, scorer: str = scorer) -> Classification:
        return classification(
            backbone, weights=weights, data=data, train_data=train_data, layer=layer, loss=loss, scorer=scorer,
            seed=seed, device=device, dtype=dtype, weights_key=weights_key, image_size=image_size,
            class_order=class_order,
        )  # fmt: skip

    task = task_for(seed)
    k = tokens_kept(task, k, keep)
    check_k(k, task.n_tokens)
    places = {"weights": weights, "data": data, "device": device, "workers": workers}
    where = {name: str(value) for name, value in places.items() if value is not None}
    training = where | ({"train_data": train_data} if train_data else {})
    chosen = size or _remembered(task, named, k, seed, budget, results, workers)
    asked = questions(task_for, named, k, SIZES[chosen], seed)
    found: dict[str, list[Any]] = {}
    missing = []
    tell, total = progress or (lambda what, done, total: None), len(asked)
    for number, question in enumerate(asked):
        tell(f"all {total} questions", number, total)
        files = training if question["probe"] == "retention" and question["steps"] else where
        try:
            answer = ask(Run(backbone, question, files), [Store(results)], progress, force)
            found.setdefault(question["probe"], []).append(answer.result)
        except GradprobeError as error:
            missing.append(f"{question['probe']} of {question['op']}: {error}")
    tell(f"all {total} questions", total, total)
    settings = {"backbone": backbone, "k": k, "tokens": task.n_tokens, "size": chosen, "seed": seed}
    settings |= {name: value for name, value in task.question.items() if name not in settings}
    return Comparison(
        title=f"{', '.join(own)}: {backbone}, K = {k} of {task.n_tokens}",
        ops=tuple(named), focus=next(iter(named)), results=found, settings=settings, command=command,
        missing=tuple(missing),
    )  # fmt: skip


def _named(
    ops: AnyOperator | Sequence[AnyOperator], others: Mapping[str, SelectionOperator] = MappingProxyType({})
) -> dict[str, SelectionOperator]:
    """Operators by canonical name.

    Raises:
        UsageError: two that are different have the same name, here or among the others.
    """
    named: dict[str, SelectionOperator] = {}
    for each in [ops] if isinstance(ops, str) or not isinstance(ops, Sequence) else ops:
        operator = registry.build(each)
        name = registry.label(operator)
        same = named.get(name, others.get(name, operator))
        if same is not operator and same != operator:
            raise UsageError(f"two operators are called {name}; make it a frozen dataclass: its fields are in its name")
        named[name] = operator
    return named


def questions(
    task_for: Callable[..., Classification], operators: Mapping[str, SelectionOperator], k: int, size: Size, seed: int
) -> list[dict[str, Any]]:
    """Every question of a comparison, probe by probe.

    Args:
        task_for: seed, and scorer if need be -> task.
        operators: by canonical name.
        k: tokens kept.
        size: how much of each.
        seed: of all but the further trainings.

    Raises:
        UsageError: a K that is not possible.
    """
    task, every, s = task_for(seed), list(operators.values()), size
    n = task.available
    least = 3 * s.batch_size  # three batches are the fewest with an interval
    if n(least) < least:
        told = f"{n(least)} images are too few for a comparison of this size"
        raise UsageError(f"{told}; give at least {least}, or --size tiny")
    batches = n(s.batches * s.batch_size) // s.batch_size
    images, held_out = s.fidelity_images, s.held_out
    if (there := n(images + held_out)) < images + held_out:
        images, held_out = there - there // 2, there // 2
    agreement = coherence.CoherenceSettings(batches=batches, batch_size=s.batch_size, seed=seed)
    asked = [question_of(coherence.PROBE, Subject(task, op, k), agreement) for op in every]
    line = landscape.LandscapeSettings(grid=str(s.points), images=n(s.line_images), seed=seed)
    asked += [question_of(landscape.PROBE, Subject(task, op, k), line) for op in every]
    if k < task.n_tokens:
        agreeing = fidelity.FidelitySettings(draws=s.draws, images=images, held_out=held_out, seed=seed)
        asked += [question_of(fidelity.PROBE, Subject(task, op, k), agreeing) for op in every]
    sharp = [op if own_tau(op) else registry.build(at_temperature(op, SHARP)) for op in every]
    sharp = [registry.build(HARD), *(op for op in sharp if registry.label(op) != HARD)]
    ranks = equivalence.EquivalenceSettings(images=n(s.equivalence_images), seed=seed)
    asked += [question_of(equivalence.PROBE, Subject(task, op, k), ranks) for op in sharp]
    timing = cost.CostSettings(images=n(GROUP), rounds=s.rounds, seed=seed)
    asked += [question_of(cost.PROBE, Subject(task, op, k), timing) for op in every]
    test = n(s.test_images)
    for each in range(seed, seed + s.seeds):
        own, (one,) = task_for(each), task.batches(1, 1, seed)
        floor = retention.RetentionSettings(steps=0, images=test, seed=each)
        asked += [
            question_of(retention.PROBE, Subject(own, Ranking(name), k), floor)
            for name in RANKINGS if rank_scores(task, name, one, seed) is not None
        ]  # fmt: skip
        asked += [question_of(retention.PROBE, Subject(own, op, k), _recipe(op, s, test, each)) for op in every]
    return asked


def _recipe(operator: SelectionOperator, size: Size, images: int, seed: int) -> retention.RetentionSettings:
    """Return the settings of a training: tau falls, but for operators that were typed with one of their own."""
    settings = retention.RetentionSettings(steps=size.steps, batch_size=size.batch_size, images=images, seed=seed)
    return replace(settings, tau_start=None, tau_end=None) if own_tau(operator) else settings


def estimate(size: Size, times: Mapping[str, Times], threads: int) -> float:
    """Seconds that a comparison of this size will take, from what was timed.

    Args:
        size: of the comparison.
        times: by operator.
        threads: at work.

    Example:
        >>> one = {"lapsum+vpnoise": Times(gradient=0.01, forward=0.003, deployed=0.001)}
        >>> estimate(SIZES["full"], one, 2) > 2 * estimate(SIZES["tiny"], one, 2)
        True
    """
    s, h = size, next(iter(times.values())).deployed
    total = len(SIGMAS) * h * (2 * s.draws * s.fidelity_images + len(LADDER) * s.held_out)  # the shared reference
    for t in times.values():
        total += 2 * s.batches * s.batch_size * t.gradient + s.points * s.line_images * t.forward
        total += 8 * s.fidelity_images * t.gradient + len(LADDER) * s.held_out * h
        total += s.equivalence_images * t.forward + threads * s.rounds * GROUP * (2 * t.gradient + 4 * t.forward)
        looked_at = 10 * min(256, s.test_images) + s.test_images
        total += s.seeds * (1.2 * s.steps * s.batch_size * t.gradient + looked_at * h)
    asked = len(times) * (5 + s.seeds) + 4 * s.seeds
    return 1.3 * total / threads + SETUP * asked


def _remembered(
    task: Classification, named: Mapping[str, SelectionOperator], k: int, seed: int, budget: float,
    results: Path | str, workers: int | None,
) -> str:  # fmt: skip
    """The size that a budget bought when this comparison was first asked for, or buys now.

    Raises:
        GradprobeError: the note of it cannot be written.
    """
    codes = [registry.code_of(op) for op in named.values()]
    about = {"ops": list(named), "codes": codes, "k": k, "seed": seed, "budget": budget, "task": task.question}
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:12]
    path = Path(results) / f"compare-{key}.json"
    try:
        noted = json.loads(path.read_text(encoding="utf-8"))["size"]
        if noted in SIZES:
            return noted
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not asked before, or not readable: timed again
    Store(results).check_writable()
    times = {}
    for name, op in named.items():
        with suppress(GradprobeError):  # what is wrong with it will be told by the probes
            times[name] = timed(task, op, k, seed, name)
    threads = workers_for(task, workers)
    told = {name: round(estimate(size, times, threads), 1) for name, size in SIZES.items()} if times else {}
    chosen = next((name for name in reversed(SIZES) if told.get(name, budget + 1) <= budget), next(iter(SIZES)))
    atomic_write(path, json.dumps({**about, "size": chosen, "estimated_seconds": told}, indent=2).encode())
    return chosen


def timed(task: Classification, operator: SelectionOperator, k: int, seed: int, name: str) -> Times:
    """Seconds an image of an operator's gradient, of its forward pass and of the deployed tokens, on one thread."""
    with task.running(), one_thread():
        (batch,) = task.batches(1, task.available(GROUP), seed)
        scores, noise = task.scorer(batch.tokens.patches).detach(), Noise(seed, batch.ids)

        def gradient() -> None:
            score_gradient(task, operator, k, batch, scores, noise, name)

        def forward() -> None:
            with torch.no_grad():
                task.losses(apply(operator, batch.tokens.patches, scores, k, noise, name), batch)

        def kept() -> None:
            with torch.no_grad():
                task.losses(hard_topk(batch.tokens.patches, scores, k), batch)

        return Times(*(_fastest(run) / len(batch.ids) for run in (gradient, forward, kept)))


def _fastest(run: Callable[[], None]) -> float:
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
