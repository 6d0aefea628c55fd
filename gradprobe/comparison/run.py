"""Every probe on an operator and on the baselines, with the same images, noise and scorer for all."""

import functools
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from gradprobe.budget import check_k
from gradprobe.comparison import schedule
from gradprobe.comparison.agreed import Agreed, left_lines, note_path, read_note, time_in_words, write_note
from gradprobe.comparison.comparison import Comparison, compared
from gradprobe.comparison.sizes import SIZES, Times, estimate
from gradprobe.comparison.timing import timed
from gradprobe.core import AnyOperator, SelectionOperator, Task
from gradprobe.errors import GradprobeError, Notice, UsageError, in_words, nearest
from gradprobe.models.rankings import fault_of
from gradprobe.operators import registry
from gradprobe.parallel.driver import Asked, Crew, answer_all
from gradprobe.parallel.scheme import check_crew
from gradprobe.probes import probe_of
from gradprobe.probes.ask import ask
from gradprobe.probes.contract import Probe, Progress, Resources, Subject, question_of, tokens_kept
from gradprobe.probes.cost.compared import GROUP
from gradprobe.probes.metrics import Plan
from gradprobe.ranges import check_number
from gradprobe.selectors.plan import plan_of
from gradprobe.settings import argument, declared, takes
from gradprobe.store.results import Store, key_of
from gradprobe.tasks import maker
from gradprobe.training.workers import workers_for

Asking = tuple[Probe, Subject, Any]  # a question: probe, subject and settings
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
    reserve: float = argument(0.0, "Seconds of the budget kept for what comes before and after, such as a page.")
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
    began = schedule.clock()
    own = _named(ops)
    named = own | _named([] if given.baselines == "none" else given.baselines, own)
    _check(own, given)
    given = _seeded(given)
    task, name = _opened(given, None)
    k = tokens_kept(task, given.k, given.keep)
    check_k(k, task.n_tokens)
    training = task if given.train_data is None else _opened(given, given.train_data)[0]
    first = SIZES[given.size or next(iter(SIZES))]
    plan = Plan(task, training, named, k, first, given.seed, _selectors(task, k, given.select))
    if given.size is None:
        results, missing, agreed = _answered_in_time(plan, given, began)
        size, lines = agreed.size, tuple(agreed.lines)
    else:
        results, missing = _answered(questions(plan, given.seeds), given)
        size, lines = given.size, ()
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
        plan=lines,
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


def questions(plan: Plan, seeds: Sequence[int] | None = None) -> list[Asking]:
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


def _answered(asked: Sequence[Asking], given: Arguments) -> tuple[dict[str, list[Any]], list[str]]:
    """Ask every question; return results by probe, and what is missing and why."""
    taken, total = _Taken(given, len(asked)), len(asked)
    done = _answered_by_crew(asked, given)
    for number, question in enumerate(asked):
        coming = [other for other in asked[number + 1 :] if other[0] is question[0]]
        taken.take(question, coming, given.force and number not in done, done.get(number, ""))
    taken.resources.report(taken.told, total, total)
    return taken.results, taken.missing


class _Taken:
    """Answers by probe, and what is missing and why."""

    def __init__(self, given: Arguments, total: int, progress: Progress | None = None):
        self.results: dict[str, list[Any]] = {}
        self.missing: list[str] = []
        self.resources = Resources(workers=given.workers, progress=progress or given.progress)
        self.told, self._total, self._number = f"all {total} questions", total, 0
        self._stores = [Store(given.results)]

    @property
    def empty(self) -> bool:
        """True if no question has an answer, or a reason why it has none."""
        return not self.results and not self.missing

    def take(self, question: Asking, coming: Sequence[Asking], force: bool, reason: str = "") -> None:
        """Ask a question, or note why it has no answer."""
        probe, subject, settings = question
        self.resources.report(self.told, min(self._number, self._total), self._total)
        self._number += 1
        try:
            if reason:
                raise GradprobeError(reason)
            later = [(who, how) for _, who, how in coming]
            answer = ask(probe, subject, settings, self._stores, self.resources, force, later)
            self.results.setdefault(probe.name, []).append(answer.result)
        except GradprobeError as error:
            self.missing.append(f"{probe.name} of {subject.name}: {error}")


def _answered_in_time(plan: Plan, given: Arguments, began: float) -> tuple[dict[str, list[Any]], list[str], Agreed]:
    """Ask what the budget has time for; return results by probe, what is missing and why, and what was agreed.

    Raises:
        UsageError: too little time for any question.
        GradprobeError: the note of what was agreed cannot be written.
    """
    crew, asked = Crew(given.jobs, given.cluster).many, _identity(plan, given)
    path, threads = note_path(given.results, asked), workers_for(plan.task, given.workers)
    agreed = read_note(path)
    if agreed is None:
        Store(given.results).check_writable()
        agreed = Agreed(_times(plan))
    count, times = len(given.seeds) if given.seeds else None, {op: Times(*each) for op, each in agreed.times.items()}
    kept = schedule.Schedule(given.budget, SIZES, times, threads, count, began - given.reserve)
    at = functools.cache(lambda name: questions(replace(plan, size=SIZES[name]), given.seeds))
    if crew:
        size = next(iter(agreed.sizes.values()), kept.first_size())
        agreed.sizes, agreed.lines = dict.fromkeys(compared(), size), ["with --jobs the size is only estimated"]
        write_note(path, asked, agreed)
        return *_answered(at(size), given), agreed
    total = at(agreed.sizes.get(schedule.FIRST[0]) or kept.first_size())
    taken, done = _Taken(given, len(total), kept.watched(given.progress)), agreed.done

    def further(name: str, count: int) -> list[Asking]:
        every = questions(replace(plan, size=replace(SIZES[name], seeds=count)))
        last = plan.seed + count - 1
        return [each for each in every if each[0].name == "retention" and each[2].seed == last]

    def stored(question: Asking) -> bool:
        return not given.force and _is_stored(question, given)

    def answer(question: Asking, coming: Sequence[Asking]) -> None:
        taken.take(question, coming, given.force)

    try:
        kept.answer(schedule.Work(at, further, stored, answer), agreed)
    finally:
        if not done and not (agreed.left and taken.empty):
            write_note(path, asked, agreed)
    if agreed.left and taken.empty:
        least = time_in_words(estimate(next(iter(SIZES.values())), times, threads, count))
        told = f"--budget {given.budget:g}s is too short: the smallest comparison takes about {least} here"
        raise UsageError(f"{told}; give a longer one, or --size {next(iter(SIZES))}")
    taken.resources.report(taken.told, len(total), len(total))
    results = {name: taken.results[name] for name in compared() if name in taken.results}
    return results, [*taken.missing, *left_lines(agreed)], agreed


def _times(plan: Plan) -> dict[str, tuple[float, float, float]]:
    """Return seconds an image of each operator that can be timed; what is wrong with others the probes will tell."""
    times = {}
    for name, op in plan.operators.items():
        with suppress(GradprobeError):
            times[name] = astuple(timed(plan.task, op, plan.k, plan.seed, name, GROUP))
    return times


def _is_stored(question: Asking, given: Arguments) -> bool:
    """Tell whether a question has an answer."""
    probe, subject, settings = question
    task = subject.task.with_new_scorer(getattr(settings, "seed", 0))  # random weights have the seed in their name
    return Store(given.results).find(question_of(probe, replace(subject, task=task), settings)) is not None


def _identity(plan: Plan, given: Arguments) -> dict[str, Any]:
    """Return all that decides what a budget buys, in JSON types."""
    codes = [registry.code_of(op) for op in plan.operators.values()]
    asked = {"ops": list(plan.operators), "codes": codes, "k": plan.k, "seed": given.seed, "budget": given.budget}
    asked |= {"task": plan.task.question} | ({"seeds": list(given.seeds)} if given.seeds else {})
    asked |= {} if plan.training is plan.task else {"training": plan.training.question}
    return asked | ({"selectors": list(plan.selectors)} if plan.selectors else {})


def _answered_by_crew(asked: Sequence[Asking], given: Arguments) -> dict[int, str]:
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
    if not (isinstance(given.reserve, int | float) and 0 <= given.reserve < given.budget):
        raise UsageError(f"reserve={in_words(given.reserve)} is not possible; give seconds, less than the budget")


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
