"""``gradprobe fidelity``: does the gradient point where the deployed hard top-K gets better?"""

import time
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

from gradprobe.cli import options
from gradprobe.cli.output import say, say_json
from gradprobe.errors import UsageError

MEANING = (
    "cos: of the operator's gradient in the scores with that of the deployed loss smoothed by Gaussian noise of "
    "standard deviation σ in the scores (their own spread here is {spread:.2g}), corrected for the noise of both; 1 is "
    "right, 0 unrelated. centred: without the part that moves all scores of an image together. bias²: "
    "|E g - grad|² / |grad|²; left: what is left of it after the best scale, 1 - cos². θ: the same after the scorer's "
    "backward. step: how fast the deployed loss of {held} held-out images falls along -g, per unit of step, steps "
    "relative to the norm of the scorer's parameters."
)
FIRST = 64  # draws of the first answer under a tolerance


def fidelity(
    op: options.Op,
    k: options.K = None,
    keep: options.Keep = None,
    baseline: options.Baseline = options.BASELINE,
    sigma: Annotated[str, typer.Option(help="Smoothing in units of the scores, several: 0.1,0.3,1.")] = "0.1,0.3,1",
    draws: Annotated[int, typer.Option(help="Antithetic pairs for each image, a multiple of 32.")] = 128,
    tolerance: Annotated[
        float | None, typer.Option(help="Double the draws until intervals of cosines are narrower than -+ this.")
    ] = None,
    budget: Annotated[float, typer.Option(help="Seconds that --tolerance may take.")] = 600,
    noise_draws: Annotated[int, typer.Option(help="Draws of the operator's own noise, at least 3.")] = 8,
    images: Annotated[int, typer.Option(help="Images whose gradients are compared.")] = 64,
    held_out: Annotated[int, typer.Option(help="Other images, on which steps are tried.")] = 256,
    ladder: Annotated[
        str, typer.Option(help="Steps relative to the norm of the parameters.")
    ] = "0.0001,0.0003,0.001,0.003,0.01",
    scores: Annotated[str, typer.Option(help="scorer, or random: Gaussian ones, nothing in parameters.")] = "scorer",
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
    as_json: options.Json = False,
    force: options.Force = False,
) -> None:
    """Compare gradients with that of the smoothed deployed loss, and step along them, against a baseline."""
    options.check_budget(k, keep)
    widths = options.numbers("sigma", sigma, float, "0.1,0.3,1")
    steps = options.numbers("ladder", ladder, float, "0.001,0.01")
    if tolerance is not None and not 0 < tolerance < 1:
        raise UsageError(f"--tolerance {tolerance:g} is not possible; give half the width of an interval, e.g. 0.05")
    if not budget > 0:
        raise UsageError(f"--budget {budget:g} is not possible; give seconds, e.g. --budget 600")
    if figure is not None:
        from gradprobe.plotting.style import check_path

        check_path(figure)

    from gradprobe.cli.progress import bars
    from gradprobe.comparison.experiments import Run, ask
    from gradprobe.probes.fidelity.measure import needed, question_of
    from gradprobe.store.results import Store

    operators, base = options.operators(op, baseline)
    make, backbone = options.task_maker(vlm, backbone)
    task = make(
        backbone, weights=weights, data=data, layer=layer, loss=loss, scorer=scorer, seed=seed, device=device,
        dtype=dtype, weights_key=weights_key, image_size=image_size, class_order=class_order,
    )  # fmt: skip
    k = options.budget(k, keep, task.n_tokens)
    where = options.where_of(weights=weights, data=data, device=device, workers=workers)
    settings: dict[str, Any] = {
        "sigmas": widths, "images": images, "scores": scores, "held_out": held_out, "ladder": steps, "seed": seed,
        "noise_draws": noise_draws, "draws": draws,
    }  # fmt: skip
    questions = [question_of(task, operator, k, **settings) for operator in operators.values()]

    def measured(count: int, start: Mapping[str, str]) -> tuple[Any, list[Any]]:
        """The reference of so many draws, and the answer for each operator."""
        asked = [{**question, "draws": count} for question in questions]
        shared = ask(Run(backbone, needed(asked[0]), {**where, **start}), [Store(results)], tell, force)
        return shared, [ask(Run(backbone, question, where), [Store(results)], tell, force) for question in asked]

    with bars() as tell:
        if tolerance is None:
            found, told = measured(draws, {})[1], ""
        else:
            found, told = _until(measured, tolerance, budget)
    first = next((a.result for a in found if a.result.question["op"] == base), None)
    rows = [a.result.row(baseline=None if a.result is first else first, path=a.path) for a in found]
    shown = {n: v for n, v in found[-1].result.question.items() if n not in ("op", "op_code")}
    if as_json:
        shown |= {"baseline": base} | ({"tolerance": told} if told else {})
        say_json({"probe": "fidelity", "settings": shown, "rows": rows, "path": str(results)})
    else:
        _print(rows, shown, base, found, told)
    if figure is not None:
        from gradprobe.plotting.style import save_figure
        from gradprobe.probes.fidelity.figure import fidelity_figure

        title = f"{backbone}, K = {k} of {task.n_tokens}, {images} images"
        save_figure(fidelity_figure([(title, rows)], ()), figure)
        if not as_json:
            say(f"figure: {figure}")


def _until(
    measured: Callable[[int, Mapping[str, str]], tuple[Any, list[Any]]], tolerance: float, budget: float
) -> tuple[list[Any], str]:
    """Answers with more and more draws, and in words what ended it: the tolerance, or the budget."""
    from gradprobe.statistics.agreement import widest

    began, draws = time.perf_counter(), FIRST
    start: dict[str, str] = {}
    while True:
        shared, found = measured(draws, start)
        half = widest([row for row in (a.result.row() for a in found) if row["gradient"] == "yes"])
        reached = "an undefined cosine" if half == float("inf") else f"-+{half:.3f}"
        if half <= tolerance:
            return found, f"tolerance {tolerance:g} reached with {draws} draws: the widest interval is {reached}"
        spent = time.perf_counter() - began
        made = draws if draws == FIRST else draws // 2
        seconds = [a.result.environment["seconds"] for a in (shared, *found)]
        more = seconds[0] * draws / made + sum(seconds[1:])  # as many new draws as there are, and the operators again
        if spent + more > budget:
            why = f"{2 * draws} would take about {more:.0f} s more than the {spent:.0f} s spent"
            return (
                found,
                f"stopped at {draws} draws by --budget {budget:g}: {why}; reached {reached} of -+{tolerance:g}",
            )
        draws, start = 2 * draws, {"start": str(shared.path)}


def _print(rows: list[dict[str, Any]], settings: dict[str, Any], base: str | None, found: list[Any], told: str) -> None:
    from gradprobe.cli.screen import Screen
    from gradprobe.probes.fidelity.view import difference_lines, fidelity_table, reasons

    console = Screen()
    options.warn_random(console, settings["weights"])
    console.print(fidelity_table(rows))
    for line in [*reasons(rows), *difference_lines(rows, base), *([told] if told else [])]:
        console.print(line)
    console.print(MEANING.format(spread=rows[0]["spread"], held=rows[0]["held_out"]))
    options.print_sources(console, found)
