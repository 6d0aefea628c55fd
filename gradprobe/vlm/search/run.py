"""Searches at several budgets, with the grid beside them, and what they leave in a folder."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from gradprobe.vlm.search.asked import Search
from gradprobe.vlm.search.grid import Measurements, measurements, schedules
from gradprobe.vlm.search.predictor_training import Predicted, check_predictor, trained
from gradprobe.vlm.search.result import Front
from gradprobe.vlm.search.search import search

GRID = "schedules.json"
PREDICTOR = "predictor.safetensors"


def front_of(
    asked: Search,
    budgets: Sequence[float],
    folder: Path,
    *,
    grid: Sequence[int] | None = None,
    predictor: bool = False,
    restart: bool = False,
    progress: Callable[[str, int, int], None] = lambda description, done, total: None,
) -> Front:
    """Search at each budget, and measure the unpruned model, a predictor and a grid.

    Args:
        asked: Model, data, selector, kernel and settings.
        budgets: Shares of the FLOPs of all visual tokens.
        folder: Checkpoints and measured schedules; what is there is not done again.
        grid: Counts of the grid's schedules, none for shares of N; None: no grid.
        predictor: Train a predictor of a schedule for each image between the budgets.
        restart: Forget what is there.
        progress: Called with (description, done, of how many).

    Raises:
        UsageError: What is asked is not possible with this model, or the folder holds another search.
        GradprobeError: A loss is no finite number, or a file cannot be read or written.
    """
    asked.check(budgets)
    if predictor:
        check_predictor(asked)
    spending, files = asked.spending, [folder / f"{each:g}.safetensors" for each in budgets]
    wanted = [] if grid is None else schedules(spending, grid, max(budgets))
    if restart:
        for file in (*files, folder / GRID, folder / PREDICTOR):
            file.unlink(missing_ok=True)
    everything = (spending.tokens,) * spending.layers
    whole = measurements(asked, [everything], folder / GRID).outcomes[everything]
    found = tuple(
        search(asked, each, file, partial(progress, f"budget {each:g}"))
        for each, file in zip(budgets, files, strict=True)
    )
    predicted: Predicted | None = None
    if predictor:
        predicted = trained(asked, sorted(budgets), folder / PREDICTOR, partial(progress, "predictor"))
    measured: Measurements | None = None
    if grid is not None:
        measured = measurements(asked, wanted, folder / GRID, partial(progress, "grid"))
    return Front(asked, found, whole, measured, predicted)
