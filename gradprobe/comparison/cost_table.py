"""Table 4, FLOPs of pruning methods beside the paper's FLOPs and latencies, from the model's configuration alone.

Nothing is measured: latencies are the paper's. Three counts stand side by side, see ``docs/vlm-cost.md``: the paper's,
linear layers and ``lm_head`` on every position; the language model up to the first token; and the selector's own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gradprobe.errors import UsageError
from gradprobe.selectors.schedule import Counts

if TYPE_CHECKING:
    from gradprobe.vlm.costs.flops import Flops

LATENCIES = ("encoder", "pruner", "prefill", "ttft")  # milliseconds
QUOTED = ("flops", *LATENCIES)
MEASURE = "gradprobe vlm cost --model llava-hf/llava-1.5-7b-hf --k 64 --measure --device cuda"
KEYS = ("method", "loc", "select", "scorer", "k", "average", *QUOTED)


@dataclass(frozen=True)
class CostRow:
    """Method in a model, counted.

    Attributes:
        method: Its name.
        loc: Place of the pruning, as the paper has it.
        label: What a user types to select so; empty for the unpruned model.
        counts: Tokens of each layer.
        as_paper: FLOPs as the paper counts them.
        language: FLOPs of the language model up to the first token.
        selector: FLOPs of the scorer or the selectors; None where they do not tell theirs.
        around: FLOPs of the vision tower and the projector.
        paper: The paper's numbers by their key in the preset: ``flops`` in T, the others in ms.
    """

    method: str
    loc: str
    label: str
    counts: Counts
    as_paper: int
    language: int
    selector: int | None
    around: int
    paper: Mapping[str, float]

    @property
    def total(self) -> int:
        """All up to the first token, of the selector as far as it is known."""
        return self.around + self.language + (self.selector or 0)

    @property
    def share(self) -> float:
        """FLOPs of the selector over those of the language model."""
        return (self.selector or 0) / self.language


def cost_rows(experiment: Any) -> list[CostRow]:
    """Return the rows of a preset, in its order.

    Args:
        experiment: Preset whose [table] has ``model`` and ``text_tokens``, and whose [[paper]] tables have ``method``
            and, but for the unpruned model, ``k`` or ``average`` with ``select`` or ``scorer``; the paper's numbers are
            ``flops``, ``encoder``, ``pruner``, ``prefill`` and ``ttft``.

    Raises:
        UsageError: The preset lacks a key or has an unknown one, or a plan or budget that is not possible.
        GradprobeError: transformers is missing.
    """
    model, text = experiment.table.get("model"), experiment.table.get("text_tokens")
    if not isinstance(model, str) or not isinstance(text, int) or not experiment.paper:
        raise UsageError(
            f'{experiment.name} needs a [table] with model = "llava-hf/llava-1.5-7b-hf" and text_tokens = 97, and '
            "[[paper]] tables; see table4_cost.toml"
        )
    for row in experiment.paper:
        if "method" not in row or (unknown := [key for key in row if key not in KEYS]):
            wrong = f"an unknown key {unknown[0]!r}" if "method" in row else "a row without a method"
            raise UsageError(f"{experiment.name} has {wrong}; a [[paper]] table takes {', '.join(KEYS)}")
    return [_row(row, model, text) for row in experiment.paper]


def _row(row: Mapping[str, Any], model: str, text: int) -> CostRow:
    from gradprobe.vlm.costs.flops import SCORER, cost  # torch, and transformers
    from gradprobe.vlm.costs.plans import plan_cost

    uncounted = False
    if "select" in row:
        plan = _plan(row)
        name = "average" if "average" in row else "k"
        k, average = ([row[each]] if each == name and not plan.budgeted else [] for each in ("k", "average"))
        counted = plan_cost(model, [plan], k=k, average=average, text_tokens=text).plans[-1]
        label, counts, flops, uncounted = plan.label, counted.counts, counted.flops, bool(counted.uncounted)
    else:
        label = row.get("scorer", "")
        if label and "k" not in row:
            raise UsageError(f"{row['method']}: {label} needs k, the tokens that it leaves; write: k = 64")
        every = cost(model, k=[row["k"]] if label else [], text_tokens=text, scorer=label or SCORER).flops
        flops = every[1] if label else every[0]
        layers = len(plan_cost(model, ["random"], k=[1], text_tokens=text).plans[0].counts.layers)
        counts = Counts(flops.kept, (), (flops.kept,) * layers, float(flops.kept))
    return _counted(row, label, counts, flops, uncounted)


def _plan(row: Mapping[str, Any]) -> Any:
    from gradprobe.selectors.plan import plan_of

    plan = plan_of(row["select"])
    if not plan.budgeted and ("k" in row) == ("average" in row):
        raise UsageError(f"{row['method']}: {plan.label} needs k or average, the tokens that it leaves; write: k = 64")
    return plan


def _counted(row: Mapping[str, Any], label: str, counts: Counts, flops: "Flops", uncounted: bool) -> CostRow:
    return CostRow(
        method=row["method"], loc=row.get("loc", ""), label=label, counts=counts, as_paper=flops.paper,
        language=flops.prefill, selector=None if uncounted else flops.scorer, around=flops.vision + flops.projector,
        paper={key: float(row[key]) for key in QUOTED if key in row},
    )  # fmt: skip


def verdicts(rows: Sequence[CostRow]) -> list[str]:
    """Return sentences: the paper's FLOPs against ours, and selectors whose own FLOPs are worth a word.

    Args:
        rows: As `cost_rows` returns them.
    """
    quoted = [row for row in rows if "flops" in row.paper]
    parts = [f"{row.method} {row.as_paper / 1e12:.2f} T, paper {row.paper['flops']:.2f} T" for row in quoted]
    sentences = [f"FLOPs as the paper counts them: {'; '.join(parts)}"] if parts else []
    by_share = sorted((row for row in rows if row.selector), key=lambda row: -row.share)
    if by_share:
        shares = ", ".join(f"{row.method} {_percent(row.share)}" for row in by_share)
        sentences.append(f"the selector's own FLOPs over the language model's: {shares}")
    timed = [row for row in rows if row.paper.get("pruner") and row.paper.get("prefill") and row.selector is not None]
    if timed:
        of_time = [row.paper["pruner"] / row.paper["prefill"] for row in timed]
        both = [f"{r.method} {_percent(time)} and {_percent(r.share)}" for r, time in zip(timed, of_time, strict=True)]
        sentences.append(
            f"the paper's time of the pruner over that of the prefill, and our FLOPs likewise: {', '.join(both)}"
        )
    if whole := next((row for row in rows if not row.label), None):
        known = [row for row in rows if row is not whole and row.selector is not None]
        saved = [f"{row.method} {row.total / whole.total:.2f}" for row in known]
        sentences.append(f"all FLOPs up to the first token over those of {whole.method}: {', '.join(saved)}")
    sentences.append(f"latencies are the paper's; ours wait for a GPU: {MEASURE}")
    return sentences


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
