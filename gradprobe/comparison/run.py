"""Every probe on an operator and on the baselines, with the same images, noise and scorer for all."""

import hashlib
import json
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from gradprobe.budget import check_k
from gradprobe.comparison.comparison import Comparison, compared
from gradprobe.comparison.sizes import SIZES, Times, estimate
from gradprobe.core import AnyOperator, Noise, SelectionOperator, Task, apply, hard_topk
from gradprobe.errors import GradprobeError, Notice, UsageError, in_words, nearest
from gradprobe.files import atomic_write
from gradprobe.models.rankings import fault_of
from gradprobe.operators import registry
from gradprobe.parallel.driver import Asked, Crew, answer_all
from gradprobe.parallel.scheme import check_crew
from gradprobe.probes import probe_of
from gradprobe.probes.ask import ask
from gradprobe.probes.contract import Probe, Progress, Resources, Subject, question_of, tokens_kept
from gradprobe.probes.cost.compared import GROUP
from gradprobe.probes.gradients import score_gradient
from gradprobe.probes.metrics import Plan
from gradprobe.ranges import check_number
from gradprobe.selectors.plan import plan_of
from gradprobe.settings import argument, declared, takes
from gradprobe.store.results import Store, key_of
from gradprobe.tasks import maker
from gradprobe.training.workers import one_thread, workers_for

BASELINES = ("gumbel", "gumbel-softmax", "scale", "vpnoise")


@dataclass(frozen=True)
class Arguments:
    """Keyword arguments of `compare`."""

    k: int | None = argument(None, "Tokens kept, 1..N; or ``keep`` instead.", keyword=False)
    keep: float | None = argument(None, "Tokens kept as a share of N, in (0, 1].")
    baselines: AnyOperator | Sequence[AnyOperator] = argument(BASELINES, "Operators to compare with; ``[]`` for none.")
    task: Task | str | None = argument(
        None, "An open task, or the name of a vision-language model, instead of a backbone."
    )
    backbone: str = argument("scenes", "``scenes`` or a timm vision transformer.")
    weights: str | None = argument(None, "A file, or ``none``; None: the backbone's own.")
    data: str | None = argument(None, "Folder of images; None: the backbone's own.")
    train_data: str | None = argument(None, "Folder that retention trains on; None: ``data``.")
    scorer: str = argument("mlp", "``mlp`` or ``transformer``, with fields.")
    layer: int = argument(0, "Blocks before the insertion point.")
    loss: str = argument("ce", "``ce`` or ``kl``.")
    seed: int = argument(1, "Seed of images, noise and scorer, and the first of the trainings.")
    device: str = argument("cpu", "``cpu``, ``cuda``, ...")
    dtype: str = argument("float32", "``float32``, ``bfloat16`` or ``float64``.")
    generator: str = argument("auto", "Generator of noise: ``host``, ``philox``, or ``auto``.")
    budget: float = argument(600.0, "Seconds; decides the size, by timing every operator first.")
    size: str | None = argument(None, "Name of a size in `SIZES`, instead of a budget.")
    results: Path | str = argument("runs", "Folder of the answers.")
    workers: int | None = argument(None, "Threads; the numbers, but for the cost, do not depend on it.")
    force: bool = argument(False, "Measure again what is stored.")
    command: str = argument("", "Command that the comparison says made it.")
    progress: Progress | None = argument(None, "Called with (description, done, of how many).")
    weights_key: str | None = argument(None, "Which of the models in a weights file; None: by timm's order.")
    image_size: int | str | tuple[int, int] | None = argument(None, "Pixels, or ``HxW``; None: that of the weights.")
    class_order: str | None = argument(None, "Order of the class folders, ``text`` or ``natural``; None: not said.")
    seeds: Sequence[int] | None = argument(
        None, "Seeds that every probe is asked with, but equivalence and cost, which have the first; instead of seed."
    )
    select: Sequence[str] = argument(
        (), "Selectors and plans without training, such as ``fastv@2``, beside the usual rankings."
    )
    jobs: int | None = argument(None, "Processes that answer questions at the same time; None: this one alone.")
    cluster: str | None = argument(None, "Machines that answer: ``dask://HOST:PORT``, ``ray://HOST:PORT``, ``slurm``.")


@takes(Arguments)
def compare(ops: AnyOperator | Sequence[AnyOperator], given: Arguments) -> Comparison:
    """Ask every probe of operators and baselines: coherence, a landscape line, fidelity, equivalence, retention, cost.

    All are asked about the same images with the same noise and the same fresh scorer; the model is opened once. Answers
    that are stored are not computed again; what cannot be measured of an operator is named in ``missing`` and stops
    nothing else. All operators are compared with the first. (Seed 0 of the scenes is lucky: its fresh scorer already
    finds the digit.) The size that a budget bought is kept with the answers, so that the same call goes on where it was
    stopped.

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
    named = own | _named([] if given.baselines == "none" else given.baselines, own)
    _check(own, given)
    given = _seeded(given)
    task, name = _opened(given, None)
    k = tokens_kept(task, given.k, given.keep)
    check_k(k, task.n_tokens)
    size = given.size or _remembered(task, named, k, given)
    training = task if given.train_data is None else _opened(given, given.train_data)[0]
    plan = Plan(task, training, named, k, SIZES[size], given.seed, _selectors(task, k, given.select))
    results, missing = _answered(questions(plan, given.seeds), given)
    settings = {"backbone": name, "k": k, "tokens": task.n_tokens, "size": size, "seed": given.seed}
    settings |= {"seeds": list(given.seeds)} if given.seeds else {}
    settings |= {key: value for key, value in task.question.items() if key not in settings}
    return Comparison(
        title=f"{', '.join(own)}: {name}, K = {k} of {task.n_tokens}",
        ops=tuple(named),
        focus=next(iter(named)),
        results=results,
        settings=settings,
        command=given.command,
        missing=tuple(missing),
    )


def _selectors(task: Task, k: int, select: Sequence[str]) -> tuple[str, ...]:
    """Return the labels of plans that are possible on a task.

    Raises:
        UsageError: one is not, with the reason.
    """
    (one,) = task.batches(1, 1, 0)
    for text in select:
        if (fault := fault_of(task, text, k, one)) is not None:
            raise UsageError(f"--select: {fault}")
    return tuple(dict.fromkeys(plan_of(text).label for text in select))


def questions(plan: Plan, seeds: Sequence[int] | None = None) -> list[tuple[Probe, Subject, Any]]:
    """Return every question of a comparison, probe by probe: its probe, subject and settings.

    Args:
        plan: subject of the comparison.
        seeds: asked by each probe that pools them; None: the plan's, and as many trainings as its size says.

    Raises:
        UsageError: too few images, or a number or name that is not possible.
    """
    size = plan.size.batch_size
    least = 3 * size  # three batches are the fewest with an interval
    if (there := plan.task.available(least)) < least:
        message = f"{there} images are too few for a comparison of this size"
        raise UsageError(f"{message}; give at least {least}, or --size tiny")
    every = []
    for name, place in compared().items():
        probe = probe_of(name)
        plans = [plan]
        if seeds is not None and getattr(place, "POOLS_SEEDS", False):
            plans = [replace(plan, seed=seed, size=replace(plan.size, seeds=1)) for seed in seeds]
        for each in plans:
            asked = place.asked(each) if hasattr(place, "asked") else each.each(_defaults(probe, each))
            for subject, settings in asked:
                question_of(probe, subject, settings)  # refuses what is not possible before any work
                every.append((probe, subject, settings))
    return every


def _defaults(probe: Probe, plan: Plan) -> Any:
    """Return the default settings of a probe that says nothing of sizes, with the seed of the comparison."""
    return probe.settings(seed=plan.seed) if "seed" in declared(probe.settings) else probe.settings()


def _answered(asked: Sequence[tuple[Probe, Subject, Any]], given: Arguments) -> tuple[dict[str, list[Any]], list[str]]:
    """Ask every question; return results by probe, and what is missing and why."""
    results: dict[str, list[Any]] = {}
    missing = []
    resources, total = Resources(workers=given.workers, progress=given.progress), len(asked)
    done = _answered_by_crew(asked, given)
    for number, (probe, subject, settings) in enumerate(asked):
        resources.report(f"all {total} questions", number, total)
        try:
            if reason := done.get(number):
                raise GradprobeError(reason)
            coming = [(who, how) for other, who, how in asked[number + 1 :] if other is probe]
            force = given.force and number not in done
            answer = ask(probe, subject, settings, [Store(given.results)], resources, force, coming)
            results.setdefault(probe.name, []).append(answer.result)
        except GradprobeError as error:
            missing.append(f"{probe.name} of {subject.name}: {error}")
    resources.report(f"all {total} questions", total, total)
    return results, missing


def _answered_by_crew(asked: Sequence[tuple[Probe, Subject, Any]], given: Arguments) -> dict[int, str]:
    """Have other processes answer; return, by place, why a question stays without an answer, empty for the others."""
    crew = Crew(given.jobs, given.cluster)
    if not crew.many:
        return {}
    if given.task is not None and not isinstance(given.task, str):
        words = "no other process has the open task that was given: its questions are asked one after another"
        warnings.warn(Notice(f"{words}; name the model instead (backbone=, weights=, data=)"), stacklevel=5)
        return {}
    places = {"weights": given.weights, "data": given.data, "train_data": given.train_data, "device": given.device}
    where = {name: str(value) for name, value in places.items() if value is not None}
    questions = []
    for probe, subject, settings in asked:
        task = subject.task.with_new_scorer(getattr(settings, "seed", 0))  # random weights have the seed in their name
        questions.append(question_of(probe, replace(subject, task=task), settings))
    to_ask = [Asked(question, where) for question in questions]
    reasons = answer_all(to_ask, [Store(given.results)], crew, given.progress, given.force)
    return {number: reasons.get(key_of(question), "") for number, question in enumerate(questions)}


def _seeded(given: Arguments) -> Arguments:
    """Return the arguments with the first of several seeds as that of the comparison.

    Raises:
        UsageError: seeds that are no whole numbers, one of them twice, or none.
    """
    if given.seeds is None:
        return given
    if given.seed != 1:
        raise UsageError(f"give either --seed {given.seed} or --seeds, not both")
    seeds: list[Any] = [given.seeds] if isinstance(given.seeds, int | str) else list(given.seeds)
    if not seeds or not all(isinstance(seed, int) and not isinstance(seed, bool) for seed in seeds):
        told = f"seeds={in_words(given.seeds)} are not possible"
        raise UsageError(f"{told}; give whole numbers, such as seeds=range(1, 6)")
    for seed in seeds:
        check_number("seeds", seed)
    if twice := [seed for seed in seeds if seeds.count(seed) > 1]:
        raise UsageError(f"seed {twice[0]} is named twice in seeds={seeds}; name each seed once")
    return replace(given, seeds=tuple(sorted(seeds)), seed=min(seeds))


def _check(own: Mapping[str, Any], given: Arguments) -> None:
    check_crew(given.jobs, given.cluster)
    if not own:
        raise UsageError("a comparison needs an operator; give --op NAME or --op my_op.py:MyOp")
    if not isinstance(given.backbone, str):
        raise UsageError("a comparison opens its model by name; pass a model of your own as task=classification(...)")
    if given.size is not None and given.size not in SIZES:
        raise UsageError(f"no size is called {given.size!r}; {nearest(given.size, SIZES)}")
    if not isinstance(given.budget, int | float):
        raise UsageError(f"budget={in_words(given.budget)} is not possible; give seconds, such as budget=600")
    if not given.budget > 0:
        raise UsageError(f"--budget {given.budget:g}s is not possible; give a time such as --budget 10m")


def _opened(given: Arguments, train_data: str | None) -> tuple[Task, str]:
    """Return the task and the name of its model.

    Raises:
        UsageError: an open task and words for another one.
    """
    if given.task is not None and not isinstance(given.task, str):
        if given.backbone != "scenes" or train_data is not None:
            raise UsageError("give either task= (open) or the names of a model and its data")
        return given.task, str(given.task.question.get("backbone", "a model of one's own"))
    if given.task is not None and given.backbone != "scenes":
        raise UsageError(f"give either --task {given.task} (a vision-language model) or --backbone {given.backbone}")
    make = maker("classification" if given.task is None else "captioning")
    name = given.task or given.backbone
    task = make(
        name, weights=given.weights, data=given.data, train_data=train_data, layer=given.layer, loss=given.loss,
        scorer=given.scorer, seed=given.seed, device=given.device, dtype=given.dtype, generator=given.generator,
        weights_key=given.weights_key, image_size=given.image_size, class_order=given.class_order,
    )  # fmt: skip
    return task, name


def _named(
    ops: AnyOperator | Sequence[AnyOperator], others: Mapping[str, SelectionOperator] = MappingProxyType({})
) -> dict[str, SelectionOperator]:
    """Return operators by canonical name.

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


def _remembered(task: Task, named: Mapping[str, SelectionOperator], k: int, given: Arguments) -> str:
    """Return the size that a budget bought when this comparison was first asked for, or buys now.

    Raises:
        GradprobeError: the note of it cannot be written.
    """
    codes = [registry.code_of(op) for op in named.values()]
    seed, budget = given.seed, given.budget
    metadata = {"ops": list(named), "codes": codes, "k": k, "seed": seed, "budget": budget, "task": task.question}
    metadata |= {"seeds": list(given.seeds)} if given.seeds else {}
    key = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode()).hexdigest()[:12]
    path = Path(given.results) / f"compare-{key}.json"
    try:
        noted = json.loads(path.read_text(encoding="utf-8"))["size"]
        if noted in SIZES:
            return noted
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not asked before, or not readable: timed again
    Store(given.results).check_writable()
    times = {}
    for name, op in named.items():
        with suppress(GradprobeError):  # what is wrong with it will be told by the probes
            times[name] = timed(task, op, k, seed, name)
    threads, count = workers_for(task, given.workers), len(given.seeds) if given.seeds else None
    told = {name: round(estimate(size, times, threads, count), 1) for name, size in SIZES.items()} if times else {}
    chosen = next((name for name in reversed(SIZES) if told.get(name, budget + 1) <= budget), next(iter(SIZES)))
    atomic_write(path, json.dumps({**metadata, "size": chosen, "estimated_seconds": told}, indent=2).encode())
    return chosen


def timed(task: Task, operator: SelectionOperator, k: int, seed: int, name: str) -> Times:
    """Return seconds an image of an operator's gradient, its forward pass and the deployed tokens, on one thread."""
    with task.running(), one_thread():
        (batch,) = task.batches(1, task.available(GROUP), seed)
        scores = task.scorer(batch.tokens.patches).detach()
        noise = Noise(seed, batch.ids, generator=task.generator)

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
