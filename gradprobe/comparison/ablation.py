"""Table 5, the worth of each part of DiffPrune, from answers of the retention probe; nothing here needs torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gradprobe.errors import UsageError
from gradprobe.probes.retention.result import RetentionResult, over_seeds, seed_groups
from gradprobe.settings import RANKED

TIE = 0.0005  # retentions that the paper prints alike


@dataclass(frozen=True)
class Cell:
    """One variant at one budget, ours beside the paper's.

    Attributes:
        row: as `gradprobe.probes.retention.result.over_seeds` makes it; its difference is to the first variant.
        paper: the paper's retention, a share; None: the paper has no such variant.
    """

    row: Mapping[str, Any]
    paper: float | None


@dataclass(frozen=True)
class Variant:
    """Way to train the scorer.

    Attributes:
        name: name in the table.
        op: operator it is trained through.
        denoiser: denoiser behind the operator, ``none`` for none.
        cells: cells by K, as far as there are answers.
    """

    name: str
    op: str
    denoiser: str
    cells: Mapping[int, Cell]


def variants(results: Sequence[RetentionResult], paper: Sequence[Mapping[str, Any]]) -> list[Variant]:
    """Return the rows of the ablation: the preset's variants in its order, then rankings that need no training.

    Args:
        results: results of the retention probe, any number of seeds.
        paper: tables of the preset: ``variant``, ``op``, ``denoiser``, ``k`` and, where the paper has it,
            ``retention`` in percent, one a K.

    Raises:
        UsageError: a table lacks a field, or there is no answer to the first variant.
    """
    groups = {(_variant_of(g[0]), g[0].question["k"]): g for g in seed_groups(results)}
    if not paper or any(name not in table for table in paper for name in ("variant", "op", "denoiser", "k")):
        raise UsageError("an ablation's [[paper]] tables need variant, op, denoiser and k; see table5_ablation.toml")
    first = (paper[0]["op"], paper[0]["denoiser"])
    if not any(variant == first for variant, _ in groups):
        raise UsageError(f"there is no answer to {paper[0]['variant']} yet, with which the others are compared")
    rows = []
    for table in paper:
        key = (table["op"], table["denoiser"])
        claimed = dict(zip(table["k"], table.get("retention", ()), strict=False))
        cells = {}
        for k in table["k"]:
            if group := groups.get((key, k)):
                row = over_seeds(group, None if key == first else groups.get((first, k)))
                cells[k] = Cell(row, claimed[k] / 100 if k in claimed else None)
        rows.append(Variant(table["variant"], *key, cells))
    for key in sorted({variant for variant, _ in groups if variant[0].startswith(RANKED)}):
        cells = {k: Cell(over_seeds(g, groups.get((first, k))), None) for (v, k), g in groups.items() if v == key}
        rows.append(Variant(f"by {key[0].removeprefix(RANKED)}, untrained", *key, cells))
    return rows


def verdicts(rows: Sequence[Variant]) -> list[str]:
    """Return a sentence on each variant of the paper: its distance from the first, budget by budget, and the paper's.

    Fewer than 5 seeds decide nothing, whatever the interval. A budget at which the paper lacks one of the two is left
    out; one at which there is nothing to compare with yet says so.

    Args:
        rows: as `variants` returns them.
    """
    sentences = []
    for variant in rows[1:]:
        pairs = [(k, cell, rows[0].cells.get(k)) for k, cell in sorted(variant.cells.items())]
        parts = [_verdict(*pair, rows[0].name) for pair in pairs if _claimed(*pair[1:])]
        if parts:
            sentences.append(f"{variant.name} against {rows[0].name}: " + "; ".join(parts))
    return sentences


def _claimed(cell: Cell, first: Cell | None) -> bool:
    """Tell whether the paper has both; where the first has no answer at this budget, whether it has the other."""
    return cell.paper is not None and (first is None or first.paper is not None)


def _verdict(k: int, cell: Cell, first: Cell | None, baseline: str) -> str:
    from gradprobe.statistics.ratios import FEWEST_SEEDS

    if first is None:
        return f"K = {k}: undecided (no answer to {baseline})"
    low, high, count = (cell.row[f"difference_{name}"] for name in ("low", "high", "seeds"))
    if cell.row["difference"] is None:
        return f"K = {k}: undecided ({'a retention is undefined' if count else 'no seed in common'})"
    claimed, ours = 100 * ((cell.paper or 0) - (first.paper or 0)), 100 * cell.row["difference"]
    if count < FEWEST_SEEDS:
        verdict = f"undecided ({count} seed{'s' * (count > 1)})"
    elif low is None or low <= 0 <= high:
        verdict = "undecided"
    elif abs(claimed) < 100 * TIE:
        verdict = "decided"  # the paper has no order that it could be
    else:
        verdict = "reproduced" if (ours < 0) == (claimed < 0) else "the other way round"
    span = "" if low is None else f" [{100 * low:.1f}, {100 * high:.1f}]"
    claim = f"{claimed:+.1f}".replace("-0.0", "0.0").replace("+0.0", "0.0")
    return f"K = {k}: {ours:+.1f}{span} points, paper {claim}: {verdict}"


def _variant_of(result: RetentionResult) -> tuple[str, str]:
    asked = result.question
    return str(asked["op"]), str(asked.get("denoiser", "none"))


def tokens_of(experiment: Any) -> int:
    """Return N of the model that an ablation's preset is about."""
    return int(experiment.paper[0]["tokens"])
