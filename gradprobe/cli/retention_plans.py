"""Plans of selectors beside trained operators in ``gradprobe retention``: those asked for, and tokens at each layer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gradprobe.errors import UsageError
from gradprobe.settings import RANKED


@dataclass(frozen=True)
class Asked:
    """A plan and the tokens that its last stage leaves.

    Attributes:
        label: Canonical text.
        k: Tokens left.
        budget: K, or the average over layers that was asked for.
    """

    label: str
    k: int
    budget: float


def plans_asked(task: Any, text: str | None, budgets: Sequence[int], averages: Sequence[float] | None) -> list[Asked]:
    """Return the plans that were asked for, which must be possible, or all usual ones that the task allows.

    Args:
        task: Frozen model and data.
        text: List of plans, ``none``, or None for the usual ones.
        budgets: K.
        averages: Mean tokens over the layers of the language model, instead of K; None: K.

    Raises:
        UsageError: An unknown selector, or one that this task does not allow, with the reason.
    """
    from gradprobe.models.rankings import USUAL, fault_of
    from gradprobe.selectors.plan import plan_of, split_plans

    if text == "none":
        return []
    names = list(USUAL) if text is None else list(dict.fromkeys(plan_of(each).label for each in split_plans(text)))
    (one,) = task.batches(1, 1, 0)
    asked = []
    for name in names:
        pairs = [(k, float(k)) for k in budgets]
        if averages is not None:
            pairs = [(plan_of(name).counts(task.n_tokens, task.layers, average=a).last, a) for a in averages]
        fault = next((each for k, _ in pairs if (each := fault_of(task, name, k, one))), None)
        if fault is None:
            asked += [Asked(name, k, budget) for k, budget in pairs]
        elif text is not None:
            known = ", ".join([*(each for each in USUAL if fault_of(task, each, budgets[0], one) is None), "none"])
            raise UsageError(
                f"--rankings {name} is not possible with this model and images ({fault}); possible: {known}"
            )
    return asked


def rankings_of(task: Any, text: str | None, budgets: Sequence[int]) -> list[str]:
    """Return the labels of the plans that were asked for, which must be possible, or all usual ones, see `plans_asked`.

    Raises:
        UsageError: An unknown selector, or one that this task does not allow.
    """
    return list(dict.fromkeys(plan.label for plan in plans_asked(task, text, budgets, None)))


def tokens_read(task: Any, op: str, k: int) -> dict[str, Any]:
    """Return the visual tokens that each layer of the language model reads, their mean, and the share of FLOPs.

    Args:
        task: Frozen model and data; {} of one without a language model.
        op: Operator, or a plan behind ``ranked:``.
        k: Tokens kept, or left behind the last stage.
    """
    if task.layers is None:
        return {}
    from gradprobe.selectors.plan import plan_of
    from gradprobe.vlm.costs.prefill import prefill_flops

    counts = [k] * task.layers
    if op.startswith(RANKED):
        counts = list(plan_of(op.removeprefix(RANKED)).counts(task.n_tokens, task.layers, k=k).layers)
    (one,) = task.batches(1, 1, 0)
    text = one.target.caption if one.target.question is None else one.target.question
    words = int(text.prompt.attention_mask.sum()) - task.n_tokens
    whole = prefill_flops(task.vlm, [task.n_tokens + words] * len(counts))
    share = prefill_flops(task.vlm, [n + words for n in counts]) / whole
    return {"layers": counts, "average": sum(counts) / len(counts), "prefill_share": share}


def layer_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a sentence on each row whose layers read different numbers of tokens, which K does not tell."""
    from itertools import groupby

    lines = []
    for row in rows:
        if len(set(row.get("layers", ()))) > 1:
            runs = ", ".join(f"{n} x{len(list(run))}" for n, run in groupby(row["layers"]))
            lines.append(
                f"by {str(row['op']).removeprefix(RANKED)} at K = {row['k']}: tokens x layers {runs}, "
                f"{row['average']:.1f} a layer on average, {100 * row['prefill_share']:.0f} % of the prefill's FLOPs"
            )
    if lines:
        lines.append("rank methods at equal averages only: --average 33,22 gives each plan the K that has it")
    return lines
