"""``gradprobe equivalence``: does an operator restrict the tokens as much as hard top-K does?"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from gradprobe.cli import options
from gradprobe.cli.output import say, say_json
from gradprobe.errors import UsageError

BASELINE = "hard"
SHARP = ("hard+zero", "lapsum+mean", "scale", "vpnoise", "vpnoise:sigma=unit", "softtopk")
SHOWN = ("hard", "hard+zero", "scale:tau=0.01", "vpnoise:tau=0.01", "vpnoise:tau=0.1", "vpnoise")
MEANING = (
    "Scores are random, the same for all operators. gap: share of right answers less the baseline's on the same "
    "images. equivalent: the gap is shown to be below the margin (two one-sided tests at 5 %); small gap: it is, and "
    "yet it is not 0; different: it is not 0, and not shown to be below the margin; undecided: neither."
)


def equivalence(
    k: Annotated[str | None, typer.Option(help="Tokens kept, 1..N; several: 49,98,147.")] = None,
    keep: Annotated[str | None, typer.Option(help="Tokens kept as shares of N: 0.25,0.5,0.75; instead of --k.")] = None,
    op: Annotated[
        list[str] | None,
        typer.Option(help="Operator, repeatable, at the sharp tau unless one is typed; default: those of the paper."),
    ] = None,
    sharp: Annotated[float, typer.Option(help="Temperature of operators typed without one.")] = 0.01,
    taus: Annotated[str, typer.Option(help="Also at these temperatures: 0.001,0.01,0.1,1.")] = "",
    margin: Annotated[float, typer.Option(help="A gap of accuracy below this counts as none.")] = 0.01,
    images: Annotated[int, typer.Option(help="Images.")] = 512,
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
    pictures: Annotated[
        Path | None, typer.Option(help="Draw the first images as the operators leave them: .png, .svg or .pdf.")
    ] = None,
    as_json: options.Json = False,
    force: options.Force = False,
) -> None:
    """Accuracy under random scores against hard top-K's, and whether the gap is smaller than a margin."""
    if bool(k) == bool(keep):
        raise UsageError("give either --k (tokens kept, e.g. --k 49,98,147) or --keep (their shares, 0.25,0.5,0.75)")
    counts = options.numbers("k", k, int, "49,98,147")
    shares = options.numbers("keep", keep, float, "0.25,0.5,0.75")
    for share in shares:
        options.check_budget(None, share)
    ladder = options.numbers("taus", taus, float, "0.001,0.01,0.1,1")
    if not 0 < margin < 1:
        raise UsageError(f"--margin {margin:g} is not possible; give a share of the images such as 0.01")

    from gradprobe.cli.progress import bars
    from gradprobe.comparison.experiments import Run, ask
    from gradprobe.probes.equivalence.measure import UNUSED, question_of
    from gradprobe.store.results import Store
    from gradprobe.tasks import classification

    for file in (figure, pictures):
        if file is not None:
            from gradprobe.plotting.style import check_path

            check_path(file)
    operators = _operators(op or SHARP, sharp, ladder)
    task = classification(
        backbone, weights=weights, data=data, layer=layer, loss=loss, scorer=UNUSED, seed=seed, device=device,
        dtype=dtype, weights_key=weights_key, image_size=image_size, class_order=class_order,
    )  # fmt: skip
    budgets = sorted({*counts, *(options.budget(None, share, task.n_tokens) for share in shares)})
    where = options.where_of(weights=weights, data=data, device=device, workers=workers)
    questions = [question_of(task, o, each, images=images, seed=seed) for each in budgets for o in operators.values()]
    with bars() as tell:
        found = [ask(Run(backbone, question, where), [Store(results)], tell, force) for question in questions]
    base = next(iter(operators))
    bases = {a.result.question["k"]: a.result for a in found if a.result.question["op"] == base}
    rows = []
    for a in found:
        other = bases[a.result.question["k"]]
        rows.append(a.result.row(baseline=None if other is a.result else other, path=a.path, margin=margin))
    shown = {n: v for n, v in found[-1].result.question.items() if n not in ("op", "op_code", "k")}
    if as_json:
        settings = shown | {"baseline": base, "margin": margin}
        answer = {"probe": "equivalence", "settings": settings, "rows": rows, "path": str(results)}
        say_json(answer)
    else:
        _print(rows, shown, base, found)
    drawn = []
    if figure is not None:
        from gradprobe.plotting.style import save_figure
        from gradprobe.probes.equivalence.figure import equivalence_chart

        drawn.append(save_figure(equivalence_chart(rows, backbone), figure))
    if pictures is not None:
        from gradprobe.plotting.style import save_figure
        from gradprobe.probes.equivalence.patches import patch_rows
        from gradprobe.probes.equivalence.pictures import pictures_of

        strips = pictures_of(task, list(operators.values()), budgets, images=min(2, images), seed=seed)
        drawn.append(save_figure(patch_rows(strips), pictures))
    for path in drawn:
        if not as_json:
            say(f"drawn: {path}")


def draw_fig4(experiment: Any, answers: Sequence[Any]) -> Any:
    """Figure 4 of a preset: a scene as some operators leave it, and the stored answers."""
    from gradprobe.comparison.experiments import panels
    from gradprobe.data.image_source import SceneSource
    from gradprobe.operators.registry import build
    from gradprobe.probes.equivalence.figure import fig4
    from gradprobe.probes.equivalence.pictures import scene_pictures

    budgets = sorted({a.run.question["k"] for a in answers if a.run.question["k"] < a.result.tokens})
    strips = scene_pictures(SceneSource().probe(0, 1, 0), [build(spec) for spec in SHOWN], budgets, 0)
    return fig4(panels(answers), experiment.paper, experiment.baseline, strips)


def _operators(specs: Sequence[str], sharp: float, ladder: Sequence[float]) -> dict[str, Any]:
    """Operators by canonical name, the baseline first, each once: as typed or sharp, then up the ladder."""
    from gradprobe.operators.registry import build, label
    from gradprobe.operators.temperature import at_temperature

    found = [build(BASELINE)]
    for spec in specs:
        typed = build(spec)
        found.append(typed if re.search(r"[:,]tau=", spec) else at_temperature(typed, sharp))
        found += [at_temperature(typed, tau) for tau in ladder]
    return {label(operator): operator for operator in found}


def _print(rows: list[dict[str, Any]], settings: dict[str, Any], base: str, found: list[Any]) -> None:
    from gradprobe.cli.screen import Screen
    from gradprobe.probes.equivalence.view import equivalence_table, verdict_lines

    console = Screen()
    options.warn_random(console, settings["weights"])
    console.print(equivalence_table(rows))
    for line in verdict_lines(rows, base):
        console.print(line)
    console.print(MEANING)
    options.print_sources(console, found)
