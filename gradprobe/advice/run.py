"""Advise: rank the candidates for a model, data and budget, train the best of them, and name the one to use."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradprobe.advice import measures
from gradprobe.advice.advice import Advice
from gradprobe.advice.asking import Means
from gradprobe.advice.candidates import Candidate, candidates
from gradprobe.advice.costs import Costs, remembered, timed
from gradprobe.advice.halving import halved
from gradprobe.advice.model import Model, check_model, opened
from gradprobe.advice.plan import Wanted, planned
from gradprobe.advice.questions import Asking
from gradprobe.advice.rows import Evidence
from gradprobe.advice.verdict import advice_of
from gradprobe.budget import check_budget, check_k
from gradprobe.core import AnyOperator
from gradprobe.errors import UsageError, in_words
from gradprobe.operators import registry
from gradprobe.parallel.scheme import check_crew
from gradprobe.probes.contract import Progress, Resources, tokens_kept
from gradprobe.probes.retention import RetentionSettings
from gradprobe.ranges import check_number
from gradprobe.settings import argument, takes
from gradprobe.store.results import Store

SEEDS = (1, 2, 3)  # seed 0 of the scenes is lucky: its fresh scorer already finds the digit
BATCH_SIZE = 16
BUDGET = 900.0  # seconds


@dataclass(frozen=True)
class Arguments(Model):
    """Keyword arguments of `advise`."""

    k: int | None = argument(None, "Tokens kept, 1..N-1; or ``keep`` instead.", keyword=False)
    keep: float | None = argument(None, "Tokens kept as a share of N, in (0, 1).")
    ops: AnyOperator | Sequence[AnyOperator] = argument((), "Operators of your own, beside the registered ones.")
    budget: float = argument(BUDGET, "Seconds that it may take.")
    seeds: Sequence[int] | None = argument(
        None, "Seeds of the last trainings, all of them; None: as many of 1, 2, 3 as the budget allows."
    )
    steps: int = argument(RetentionSettings.steps, "Steps of a training of full length.")
    batch_size: int = argument(BATCH_SIZE, "Images in a training step.")
    confirm: bool = argument(True, "Train the best candidates.")
    results: Path | str = argument("runs", "Folder of the answers.")
    workers: int | None = argument(None, "Threads; the numbers do not depend on it.")
    jobs: int | None = argument(None, "Processes that share the questions; None: this one asks them all.")
    cluster: str | None = argument(None, "Scheduler whose workers share the questions: ``dask://HOST:PORT``, ...")
    progress: Progress | None = argument(None, "Called with (description, done, of how many).")


@takes(Arguments)
def advise(given: Arguments) -> Advice:
    """Advise on the operator to train for this model, these data and this number of tokens.

    Every registered operator is a candidate, with two temperature schedules where its weights have a temperature. Where
    a measure of the fresh scorer is confirmed to predict retention (`gradprobe.advice.measures.CONFIRMED`), it ranks
    them and the best eight are trained; else all are. Trainings go by successive halving and are ordinary questions of
    the retention probe, so what is stored is not trained again, and the same call goes on where it was stopped.

    Returns:
        The advice; `gradprobe.advice.page.write_advice` writes its page.

    Raises:
        UsageError: a name or number that is not possible, or a budget too short for any schedule.

    Example:
        >>> advise(58, budget=0)
        Traceback (most recent call last):
        gradprobe.errors.UsageError: --budget 0s is not possible; give a time such as --budget 15m
    """
    _check(given)
    ops = [given.ops] if isinstance(given.ops, str) or not isinstance(given.ops, Sequence) else given.ops
    every, measure, seeds = candidates(ops), measures.CONFIRMED, tuple(given.seeds or SEEDS)
    task, name = opened(given, seeds[0])
    k = tokens_kept(task, given.k, given.keep)
    check_k(k, task.n_tokens)
    if k == task.n_tokens:
        raise UsageError(f"k={k} keeps every token, so there is nothing to choose; give --k 1 to --k {k - 1}")
    resources = Resources.of(given)
    means = Means((Store(given.results),), resources, given.jobs, given.cluster)
    costs, note = _costs(task, every, k, seeds[0], given)
    every = sorted((c for c in every if c.op in costs.step), key=lambda c: costs.step[c.op])  # equals: the cheaper
    wanted = Wanted(given.budget, given.steps, given.batch_size, seeds, given.seeds is not None, given.confirm)
    try:
        plan = planned(task, [c.op for c in every], costs, wanted)
    except UsageError as error:
        if note is None:
            raise
        raise UsageError(f"{error}, or remove {note}, the timing of an earlier call, to time anew") from None
    asking = Asking(given, task, k, given.batch_size, seeds, means, plan)
    placed, failed, spent = asking.measured(every, measure) if measure else ([], {}, 0.0)
    order = {each.label: i for i, each in enumerate(placed)}
    entering = sorted((c for c in every if not measure or c.label in order), key=lambda c: order.get(c.label, 0))
    rungs = halved(entering[: plan.entering], plan.rungs, asking.trained)
    floors = asking.floors() if rungs else {}
    failed = {**costs.failed, **failed}
    evidence = Evidence(entering, costs, placed, rungs, floors, failed, plan, spent)
    return advice_of(evidence, asking, measure, name, given)


def _costs(task: Any, every: Sequence[Candidate], k: int, seed: int, given: Arguments) -> tuple[Costs, Path | None]:
    """Return the seconds of a training step of each operator, and the note of an earlier call that they are from.

    They are timed when this advice is first asked for: the note is None then.
    """
    operators = {c.op: c.operator for c in every}
    codes = [registry.code_of(op) for op in operators.values()]
    about: dict[str, Any] = {"ops": list(operators), "codes": codes, "k": k, "seed": seed, "task": task.question}
    device = str(next(task.scorer.parameters()).device)
    about |= {"batch_size": given.batch_size, "device": device, "workers": given.workers}
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:12]
    Store(given.results).check_writable()

    note, now = Path(given.results) / f"advise-{key}.json", list[Costs]()

    def make() -> Costs:
        fresh = task.with_new_scorer(seed)
        now.append(timed(fresh, operators, k, seed, given.batch_size, given.workers, given.progress))
        return now[0]

    return remembered(note, about, make), None if now else note


def _check(given: Arguments) -> None:
    check_budget(given.k, given.keep)
    check_model(given)
    check_crew(given.jobs, given.cluster)
    if given.is_open and (given.jobs, given.cluster) != (None, None):
        raise UsageError("workers open models by name; give a name instead of task=, or leave jobs and cluster out")
    if not isinstance(given.budget, int | float) or isinstance(given.budget, bool):
        raise UsageError(f"budget={in_words(given.budget)} is not possible; give seconds, such as budget=900")
    if not 0 < given.budget < float("inf"):
        raise UsageError(f"--budget {given.budget:g}s is not possible; give a time such as --budget 15m")
    check_number("steps", given.steps, 1)
    check_number("batch-size", given.batch_size)
    for seed in given.seeds or ():
        check_number("seeds", seed)
    if given.seeds is not None and not 0 < len(set(given.seeds)) == len(given.seeds):
        raise UsageError(f"--seeds {','.join(map(str, given.seeds))} is not possible; name at least one, and each once")
    if not given.confirm and measures.CONFIRMED is None:
        raise UsageError(
            "--no-confirm leaves nothing to go by, since no measure of the fresh scorer is confirmed "
            "(experiments/predict_confirm.toml); leave it out"
        )
