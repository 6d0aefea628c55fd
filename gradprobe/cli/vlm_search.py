"""``gradprobe vlm search``: the schedule of visual tokens over layers that loses least within a budget of FLOPs."""

from pathlib import Path
from typing import Annotated, Any

import typer

from gradprobe.cli import options
from gradprobe.cli.output import say, say_json
from gradprobe.cli.vlm_selected import DEFAULT, Captions, Inside, Kernel, Model, Precision
from gradprobe.errors import UsageError


def search(
    select: Inside,
    budget: Annotated[str, typer.Option(help="Shares of the FLOPs of all visual tokens, in (0, 1]: 0.3,0.4,0.5.")],
    out: Annotated[Path, typer.Option(help="Plan to write, .json; of several budgets plan-0.3.json and so on.")],
    model: Model = DEFAULT,
    data: Captions = None,
    kernel: Kernel = "free",
    constraint: Annotated[
        str, typer.Option(help="Augmented Lagrangian: equal (spends the budget) or at-most (may leave some).")
    ] = "equal",
    outer: Annotated[int, typer.Option(help="Updates of the multiplier.")] = 6,
    inner: Annotated[int, typer.Option(help="Steps of Adam between two of them.")] = 6,
    batch_size: Annotated[int, typer.Option(help="Images of a step.")] = 16,
    validation: Annotated[int, typer.Option(help="Held-out images by whose loss schedules are chosen.")] = 128,
    learning_rate: Annotated[float, typer.Option(help="Of Adam.")] = 0.2,
    seed: Annotated[int, typer.Option(help="Of the images, and of a random selector.")] = 0,
    grid: Annotated[bool, typer.Option("--grid", help="Measure the schedules of a few counts beside it.")] = False,
    grid_counts: Annotated[
        str | None, typer.Option(help="Those counts, e.g. 100,50,11; N and four shares of it by default.")
    ] = None,
    predictor: Annotated[
        bool, typer.Option("--predictor", help="Train a predictor of a schedule for each image and budget, too.")
    ] = False,
    device: options.Device = "cpu",
    dtype: Precision = "float32",
    restart: Annotated[bool, typer.Option("--restart", help="Begin anew; forget what a search left there.")] = False,
    figure: options.Figure = None,
    as_json: options.Json = False,
) -> None:
    """Search by gradient for the number of visual tokens that each layer reads; interrupted, it goes on where it was.

    What is done lies beside the plan, in a folder PLAN.search.
    """
    budgets = options.numbers("budget", budget, float, "0.3,0.4,0.5")
    counts = options.swept("grid-counts", int, "100,50,11")(grid_counts) or ()
    if counts and not grid:
        raise UsageError(f"--grid-counts {grid_counts} goes with --grid")
    if out.suffix != ".json":
        raise UsageError(f"--out {out} is no name of a plan; it must end in .json: --out {out.with_suffix('.json')}")

    from gradprobe.files import check_place
    from gradprobe.vlm.search.asked import Search, Settings, check_named, selector_of
    from gradprobe.vlm.search.kernels import kernel_of
    from gradprobe.vlm.search.result import front_table, plan_files, predictor_file

    for name in [*plan_files(out, budgets), *([predictor_file(out)] if predictor else [])]:
        check_place(name)
    if figure is not None:
        from gradprobe.plotting.style import check_path

        check_path(figure)
    form: Any = constraint
    settings = Settings(form, outer, inner, batch_size, validation, learning_rate, seed=seed)
    chosen, shape = selector_of(select), kernel_of(kernel)
    check_named(chosen, budgets)
    if data is None:
        from gradprobe.vlm.picture_source import check_captions

        check_captions(model, "--model")

    from gradprobe.cli.progress import bars
    from gradprobe.vlm.search.run import front_of
    from gradprobe.vlm.task import captioning

    folder = out.with_name(f"{out.stem}.search")
    with options.working_in(folder, work="the search"):
        asked = Search(captioning(model, data=data, device=device, dtype=dtype), chosen, shape, settings)
        with bars() as progress:
            measured = counts if grid else None
            front = front_of(
                asked, budgets, folder, grid=measured, predictor=predictor, restart=restart, progress=progress
            )
        paths = front.save_plans(out)
        saved = front.save_predictor(out)
    rows = front.rows()
    if as_json:
        told = {"question": asked.question_at(budgets[0]) | {"budget": budgets}, "text_tokens": asked.spending.text}
        plans = {"plans": [str(path) for path in paths], "rows": rows, "grid": front.grid_rows()}
        if front.predicted is not None:
            each = {"seconds": front.predicted.seconds, "iterates": list(front.predicted.iterates)}
            plans["predictor"] = {"path": str(saved), **each}
        say_json({"probe": "vlm-search", **told, **plans, "grid_seconds": front.grid and front.grid.seconds})
    else:
        from gradprobe.cli.screen import Screen

        console = Screen()
        console.print(front_table(rows))
        seconds = ", ".join(f"{each.seconds:.0f} s at {each.budget:g}" for each in front.found)
        others = f"; predictor: {front.predicted.seconds:.0f} s" if front.predicted else ""
        others += f"; grid: {front.grid.seconds:.0f} s" if front.grid else ""
        console.print(f"searched for {seconds}{others}")
        for path in [*paths, *([saved] if saved else [])]:
            console.print(f"wrote {path}", soft_wrap=True)
        use = f"gradprobe vlm generate --model {model} --select {paths[0]} --image x.jpg --prompt ..."
        console.print(f"to use it: {use}", soft_wrap=True)
        if saved:
            console.print(f"a schedule for each image: --select {saved}@{budgets[0]:g}", soft_wrap=True)
    if figure is not None:
        from gradprobe.plotting.style import save_figure
        from gradprobe.vlm.search.figure import front_figure

        save_figure(front_figure(rows, front.grid_rows(), f"{model}, {select}, {shape.label}"), figure)
        if not as_json:
            say(f"figure: {figure}")
