"""Outcome of a search at several budgets: plans, rows and a table."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from rich import box
from rich.table import Table

from gradprobe.plotting.shown import Shown
from gradprobe.selectors.plan import save_plan
from gradprobe.selectors.schedule import runs_of
from gradprobe.vlm.search.asked import Search
from gradprobe.vlm.search.deployed import Deployed, plan_of_counts
from gradprobe.vlm.search.grid import Measurements, best
from gradprobe.vlm.search.predictor_deployed import Schedules
from gradprobe.vlm.search.predictor_file import SUFFIX, save_predictor
from gradprobe.vlm.search.predictor_training import Predicted
from gradprobe.vlm.search.search import Found


@dataclass(frozen=True, repr=False)
class Front(Shown):
    """Schedules that a search chose, beside those of a grid.

    Attributes:
        asked: Model, data, selector, kernel and settings.
        found: One for each budget, ascending.
        whole: Outcome with all tokens in all layers.
        grid: Measured schedules of the grid; None where it was not asked for.
        predicted: Predictor of a schedule for each image; None where it was not asked for.
    """

    asked: Search
    found: tuple[Found, ...]
    whole: Deployed
    grid: Measurements | None = None
    predicted: Predicted | None = None
    _shown_by: ClassVar[str] = "gradprobe.vlm.search.shown"

    def rows(self) -> list[dict[str, Any]]:
        """Return the unpruned model, then each budget with predictor and grid's best within it, ready for JSON."""
        spending = self.asked.spending
        rows = [self._row("all tokens", (spending.tokens,) * spending.layers, self.whole)]
        for each in self.found:
            row = self._row(self.asked.kernel.label, each.counts, each.deployed) | {"budget": each.budget}
            rows.append(row | {"seconds": each.seconds, "iterates": list(each.iterates)})
            if self.predicted is not None:
                at = {schedules.budget: schedules for schedules in self.predicted.schedules}
                rows.append(self._predicted_row(at[each.budget]))
            if self.grid is not None and (counts := best(self.grid, spending, each.budget)) is not None:
                rows.append(self._row("grid", counts, self.grid.outcomes[counts]) | {"budget": each.budget})
        return rows

    def grid_rows(self) -> list[dict[str, Any]]:
        """Return all schedules of the grid, ready for JSON."""
        return [self._row("grid", *each) for each in (self.grid.outcomes.items() if self.grid else ())]

    def save_plans(self, out: Path) -> list[Path]:
        """Write a plan for each budget.

        Args:
            out: Its name, ``.json``; of several budgets each is put into it: ``plan-0.3.json``.

        Raises:
            GradprobeError: A file cannot be written.
        """
        spending, vlm = self.asked.spending, self.asked.task.vlm
        names = plan_files(out, [each.budget for each in self.found])
        for name, each in zip(names, self.found, strict=True):
            plan = plan_of_counts(self.asked.selector, each.counts)
            save_plan(plan, name, model=vlm.name, layers=spending.layers, tokens=spending.tokens)
        return names

    def save_predictor(self, out: Path) -> Path | None:
        """Write the predictor beside the plans; None without one.

        Args:
            out: Name of the plan, ``.json``.

        Raises:
            GradprobeError: The file cannot be written.
        """
        return None if self.predicted is None else save_predictor(self.predicted.predictor, predictor_file(out))

    def _predicted_row(self, schedules: Schedules) -> dict[str, Any]:
        measured = schedules.deployed
        accuracy = None if measured.accuracy is None else asdict(measured.accuracy)
        row = {"schedule": "predictor", **schedules.row(self.asked.spending), **asdict(measured)}
        return row | {"plan": None, "accuracy": accuracy, "budget": schedules.budget}

    def _row(self, name: str, counts: Sequence[int], measured: Deployed) -> dict[str, Any]:
        accuracy, average = measured.accuracy, sum(counts) / len(counts)
        plan = plan_of_counts(self.asked.selector, counts).label
        share = float(self.asked.spending.share(counts))
        row = {"schedule": name, "share": share, "average": average, "counts": list(counts), **asdict(measured)}
        return row | {"plan": plan, "accuracy": None if accuracy is None else asdict(accuracy)}


def plan_files(out: Path, budgets: Sequence[float]) -> list[Path]:
    """Return the name of the plan of each budget.

    Example:
        >>> [path.name for path in plan_files(Path("plan.json"), [0.3, 0.4])]
        ['plan-0.3.json', 'plan-0.4.json']
    """
    return [out] if len(budgets) == 1 else [out.with_name(f"{out.stem}-{each:g}{out.suffix}") for each in budgets]


def predictor_file(out: Path) -> Path:
    """Return the name of the predictor beside a plan.

    Example:
        >>> predictor_file(Path("plan.json")).name
        'plan.predictor.safetensors'
    """
    return out.with_name(f"{out.stem}{SUFFIX}")


def front_table(rows: Sequence[dict[str, Any]]) -> Table:
    """Tabulate schedules, in 80 columns.

    Args:
        rows: As `Front.rows` makes them.
    """
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1))
    for name in ("budget", "schedule", "share", "mean", "tokens x layers", "loss", "acc., %", "95 %"):
        table.add_column(name, justify="left" if name in ("schedule", "tokens x layers") else "right")
    for row in rows:
        runs = ", ".join(f"{run[0]:.0f} x{len(run)}" for run in runs_of(row["counts"], key=round))
        budget = f"{row['budget']:g}" if "budget" in row and row["schedule"] not in ("grid", "predictor") else ""
        numbers = f"{row['share']:.4f}", f"{row['average']:.1f}", runs, f"{row['loss']:.4f}"
        table.add_row(budget, row["schedule"], *numbers, *_percents(row["accuracy"]))
    table.caption = (
        f"share: FLOPs that visual tokens take in the language model, of those with all tokens; mean: tokens a layer; "
        f"loss, acc.: captions and right answers of {rows[0]['images']} held-out images, by whose loss schedules are "
        "chosen"
    )
    if any(row["schedule"] == "predictor" for row in rows):
        table.caption += "; predictor: a schedule for each image, share and tokens on average over images"
    if any(row["schedule"] == "grid" for row in rows):
        table.caption += "; grid: the least loss of the grid within the budget above"
    return table


def _percents(accuracy: dict[str, float] | None) -> tuple[str, str]:
    if accuracy is None:
        return "–", "–"
    value, low, high = (100 * accuracy[name] for name in ("value", "low", "high"))
    return f"{value:.1f}", f"{low:.1f}–{high:.1f}"
