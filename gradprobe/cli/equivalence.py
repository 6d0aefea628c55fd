"""``gradprobe equivalence``: sharp operators beside hard top-K, at one budget or several."""

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from gradprobe.cli import options
from gradprobe.cli.probe import Drawing, Request, combinations, command
from gradprobe.errors import UsageError
from gradprobe.probes.equivalence import PROBE

SHARP = ("hard+zero", "lapsum+mean", "scale", "vpnoise", "vpnoise:sigma=unit", "softtopk")

PICTURES = "Draw the first images as the operators leave them: .png, .svg or .pdf."
Ops = Annotated[
    list[str] | None,
    typer.Option(help="Operator, repeatable, at the sharp tau unless one is typed; default: those of the paper."),
]
Sharp = Annotated[float, typer.Option(help="Temperature of operators typed without one.")]
Taus = Annotated[str | None, typer.Option(help="Also at these temperatures: 0.001,0.01,0.1,1.")]
Margin = Annotated[float, typer.Option(help="A gap of accuracy below this counts as none.")]


def _prepare(request: Request) -> None:
    """Put operators typed without a temperature at the sharp one, and at those of the ladder."""
    from gradprobe.operators.registry import build, label
    from gradprobe.operators.temperature import at_temperature

    values = request.values
    if not 0 < values["margin"] < 1:
        raise UsageError(f"--margin {values['margin']:g} is not possible; give a share of the images such as 0.01")
    ladder = options.numbers("taus", values["taus"], float, "0.001,0.01,0.1,1")
    operators = [build(PROBE.baseline)]
    for name in values["op"] or SHARP:
        typed = build(name)
        operators.append(typed if re.search(r"[:,]tau=", name) else at_temperature(typed, values["sharp"]))
        operators += [at_temperature(typed, tau) for tau in ladder]
    request.operators = {label(operator): operator for operator in operators}
    request.base = label(operators[0])
    request.shown["margin"] = values["margin"]


def _answer(request: Request, progress: Any) -> list[Any]:
    """Answer the questions of one budget after those of another, as the table shows them."""
    together = sorted(combinations(request), key=lambda each: each[1])
    return [request.ask(operator, k, settings, progress) for operator, k, settings in together]


def _pictures(request: Request, path: Path) -> Path:
    from gradprobe.plotting.style import save_figure
    from gradprobe.probes.equivalence.patches import patch_rows
    from gradprobe.probes.equivalence.pictures import pictures_of

    settings, operators = request.settings[0], list(request.operators.values())
    images = min(2, settings.images)
    strips = pictures_of(request.task, operators, request.budgets, images=images, seed=settings.seed)
    return save_figure(patch_rows(strips), path)


def _check_path(path: Path) -> None:
    from gradprobe.plotting.style import check_path

    check_path(path)


equivalence = command(
    PROBE,
    extra={"sharp": (Sharp, 0.01), "taus": (Taus, None), "margin": (Margin, 0.01)},
    replaced={"op": (Ops, None), "baseline": None, "scorer": None},
    drawings={"pictures": Drawing(PICTURES, _check_path, _pictures)},
    prepare=_prepare,
    answer=_answer,
    told=lambda request: {"margin": request.values["margin"]},
)
