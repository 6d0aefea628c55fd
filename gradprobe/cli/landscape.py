"""``gradprobe landscape``: is the loss surface of the scorer smooth?"""

from pathlib import Path
from typing import Annotated, Any

import typer

from gradprobe.cli import options
from gradprobe.cli.output import say, say_json
from gradprobe.errors import UsageError

MEANING = (
    "A step's size belongs to its grid and its number of images: jumps of a mean loss shrink with more images, a "
    "smooth surface's steps do not."
)


def landscape(
    op: options.Op,
    k: options.K = None,
    keep: options.Keep = None,
    baseline: options.Baseline = options.BASELINE,
    grid: Annotated[str | None, typer.Option(help="Rows along d1 x columns along d2; 31x31 by default.")] = None,
    line: Annotated[bool, typer.Option("--line", help="A line along d2 (81 points by default) for a plane.")] = False,
    reach: Annotated[float | None, typer.Option(help="Half the width in filter units; 0.3 by default.")] = None,
    noise: Annotated[str, typer.Option(help="common: the same in all cells; fresh: its own in each.")] = "common",
    axes: Annotated[
        str, typer.Option(help="random, pca (of --steps), checkpoints:A,B[,C] (files or training steps).")
    ] = "random",
    one_d: Annotated[str, typer.Option(help="Biases and norm layers: zero (stay), vector or element.")] = "zero",
    params: Annotated[str, typer.Option(help="Parameters of the scorer that move: a pattern, e.g. 'hidden.*'.")] = "*",
    images: Annotated[int, typer.Option(help="Images.")] = 32,
    steps: Annotated[int, typer.Option(help="Training steps of the scorer before.")] = 0,
    learning_rate: options.Rate = 2e-4,
    batch_size: Annotated[int, typer.Option(help="Of that training.")] = 16,
    scorer: options.Scorer = "mlp",
    vlm: options.Vlm = None,
    backbone: options.Backbone = "scenes",
    weights: options.Weights = None,
    weights_key: options.WeightsKey = None,
    image_size: options.ImageSize = None,
    data: options.Data = None,
    class_order: options.ClassOrder = None,
    layer: options.Layer = 0,
    loss: options.Loss = "ce",
    seed: options.Seed = 0,
    device: options.Device = "cpu",
    dtype: options.Dtype = "float32",
    workers: options.Workers = None,
    results: options.Results = options.RUNS,
    figure: options.Figure = None,
    surface: Annotated[Path | None, typer.Option(help="Draw the surfaces in 3-D into this file.")] = None,
    page: Annotated[Path | None, typer.Option(help="Write an interactive page into this .html.")] = None,
    as_json: options.Json = False,
    force: options.Force = False,
) -> None:
    """Measure the loss on a plane or line through the scorer's parameters, and how rough it is, against a baseline."""
    options.check_budget(k, keep)
    _check_files(figure, surface, page)

    from gradprobe.cli.progress import bars
    from gradprobe.comparison.experiments import Run, ask
    from gradprobe.probes.landscape.measure import parse_checkpoints, question_of
    from gradprobe.store.results import Store

    kind, _, points = axes.replace("checkpoints ", "checkpoints:").partition(":")
    grid = _grid(grid, line)
    if surface is not None and "x" not in grid:
        raise UsageError("--surface draws a plane, not a line; leave --line out, or draw it with --figure")
    operators, base = options.operators(op, baseline)
    make, backbone = options.task_maker(vlm, backbone)
    task = make(
        backbone, weights=weights, data=data, layer=layer, loss=loss, scorer=scorer, seed=seed, device=device,
        dtype=dtype, weights_key=weights_key, image_size=image_size, class_order=class_order,
    )  # fmt: skip
    k = options.budget(k, keep, task.n_tokens)
    where = options.where_of(weights=weights, data=data, device=device, checkpoints=points or None, workers=workers)
    settings: dict[str, Any] = {
        "grid": grid, "reach": reach, "noise": noise, "one_d": one_d, "params": params, "images": images, "axes": kind,
        "checkpoints": parse_checkpoints(points), "steps": steps, "learning_rate": learning_rate,
        "batch_size": batch_size, "seed": seed,
    }  # fmt: skip
    questions = [question_of(task, operator, k, **settings) for operator in operators.values()]
    with bars() as tell:
        found = [ask(Run(backbone, question, where), [Store(results)], tell, force) for question in questions]
    first = next((a.result for a in found if a.result.question["op"] == base), None)
    rows = [a.result.row(baseline=None if a.result is first else _base(a.result, first), path=a.path) for a in found]
    shown = {n: v for n, v in found[-1].result.question.items() if n not in ("op", "op_code")}
    if as_json:
        shown["baseline"] = base
        say_json({"probe": "landscape", "settings": shown, "rows": rows, "path": str(results)})
    else:
        _print(rows, shown, base, found)
    title = f"{backbone}, K = {k} of {task.n_tokens}, {images} images, {noise} noise"
    for path in _draw([a.result for a in found], title, figure, surface, page):
        if not as_json:
            say(f"drawn: {path}")


def _grid(grid: str | None, line: bool) -> str:
    if grid is None:
        return "81" if line else "31x31"
    if line and "x" in grid.lower():
        raise UsageError(f"--line has one row, --grid {grid} has more; give its points, e.g. --line --grid 81")
    return grid


def _check_files(figure: Path | None, surface: Path | None, page: Path | None) -> None:
    """Refuse files that cannot be made before the work that they would show is done."""
    if figure or surface:
        from gradprobe.plotting.style import check_path

        for path in (figure, surface):
            if path is not None:
                check_path(path)
    if page is not None:
        from gradprobe.probes.landscape.page import check_page

        check_page(page)


def _base(result: Any, first: Any) -> Any:
    """The baseline where it lies on the same grid; principal planes of two operators do not."""
    same = first is not None and all((getattr(result, n) == getattr(first, n)).all() for n in ("a", "b"))
    return first if same else None


def _draw(results: list[Any], title: str, figure: Path | None, surface: Path | None, page: Path | None) -> list[Path]:
    from gradprobe.plotting.style import save_figure

    drawn = []
    if figure is not None:
        from gradprobe.probes.landscape.figure import landscape_figure

        drawn.append(save_figure(landscape_figure(results, title), figure))
    if surface is not None:
        from gradprobe.probes.landscape.figure import surface_figure

        drawn.append(save_figure(surface_figure(results, title), surface))
    if page is not None:
        from gradprobe.probes.landscape.page import save_page

        drawn.append(save_page(results, page, title))
    return drawn


def _print(rows: list[dict[str, Any]], settings: dict[str, Any], base: str | None, found: list[Any]) -> None:
    from gradprobe.cli.screen import Screen
    from gradprobe.probes.landscape.view import landscape_table, ratio_lines

    console = Screen()
    options.warn_random(console, settings["weights"])
    console.print(landscape_table(rows))
    for line in ratio_lines(rows, base):
        console.print(line)
    for a in found:
        if len(a.result.explained):
            second, first = a.result.explained
            off = a.result.residual.max()
            console.print(
                f"{a.result.question['op']}: the plane holds {first:.0%} + {second:.0%} of the trajectory's squared "
                f"distances from its end; checkpoints lie up to {off:.0%} of their distance off it",
                highlight=False,
            )
    console.print(MEANING)
    options.print_sources(console, found)
