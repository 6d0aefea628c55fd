"""Table 5: what each part of DiffPrune is worth, from answers of the retention probe; nothing here needs torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gradprobe.errors import UsageError
from gradprobe.probes.retention.result import RetentionResult, over_seeds, seed_groups

RANKED = "ranked:"


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
    """A way to train the scorer.

    Attributes:
        name: what the table calls it.
        op: the operator it is trained through.
        denoiser: what stands behind the operator, ``none`` for nothing.
        cells: by K, as far as there are answers.
    """

    name: str
    op: str
    denoiser: str
    cells: Mapping[int, Cell]


def variants(results: Sequence[RetentionResult], paper: Sequence[Mapping[str, Any]]) -> list[Variant]:
    """The rows of the ablation: the preset's variants in its order, then rankings that need no training.

    Args:
        results: of the retention probe, any number of seeds.
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
    found = []
    for table in paper:
        which = (table["op"], table["denoiser"])
        claimed = dict(zip(table["k"], table.get("retention", ()), strict=False))
        cells = {}
        for k in table["k"]:
            if group := groups.get((which, k)):
                base = None if which == first else groups.get((first, k))
                row = over_seeds(group, base)
                cells[k] = Cell(row, claimed[k] / 100 if k in claimed else None)
        found.append(Variant(table["variant"], *which, cells))
    ranked = sorted({variant for variant, _ in groups if variant[0].startswith(RANKED)})
    for which in ranked:
        cells = {k: Cell(over_seeds(g, groups.get((first, k))), None) for (v, k), g in groups.items() if v == which}
        found.append(Variant(f"by {which[0].removeprefix(RANKED)}, untrained", *which, cells))
    return found


def verdicts(found: Sequence[Variant]) -> list[str]:
    """Sentences on each variant of the paper: does it fall behind the first as it does there, budget by budget.

    Fewer than 5 seeds decide nothing, whatever the interval.
    """
    from gradprobe.statistics.ratios import FEWEST_SEEDS

    told = []
    for variant in found[1:]:
        compared = [(k, c) for k, c in sorted(variant.cells.items()) if c.paper is not None]
        if not compared:
            continue
        says = []
        for k, cell in compared:
            claimed = 100 * (cell.paper - found[0].cells[k].paper)  # type: ignore[operator]
            low, high = cell.row["difference_low"], cell.row["difference_high"]
            ours = 100 * cell.row["difference"]
            count = cell.row["difference_seeds"]
            if count < FEWEST_SEEDS:
                verdict = f"undecided ({count} seed{'s' * (count > 1)})"
            elif low is None or low <= 0 <= high:
                verdict = "undecided"
            else:
                verdict = "reproduced" if (ours < 0) == (claimed < 0) else "the other way round"
            span = "" if low is None else f" [{100 * low:.1f}, {100 * high:.1f}]"
            says.append(f"K = {k}: {ours:+.1f}{span} points, paper {claimed:+.1f}: {verdict}")
        told.append(f"{variant.name} against {found[0].name}: " + "; ".join(says))
    return told


def _variant_of(result: RetentionResult) -> tuple[str, str]:
    asked = result.question
    return str(asked["op"]), str(asked.get("denoiser", "none"))
