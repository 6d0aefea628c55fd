"""``gradprobe landscape``: lines and planes through the scorer's loss, as tables, figures and an interactive page."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from gradprobe.cli import options
from gradprobe.cli.probe import Drawing, Request, command, each_once
from gradprobe.errors import UsageError
from gradprobe.probes.landscape import PROBE
from gradprobe.probes.landscape.notation import FINGERPRINT, parse_checkpoints, parse_grid

PLANE, LINE = "31x31", "81"  # default grids


def _kinds(text: Any) -> Any:
    """Return the kinds of axes of an option, one or several; those through checkpoints take the rest of the text.

    Example:
        >>> _kinds("random"), _kinds("pca,checkpoints:0,100")
        (('random',), ('pca', 'checkpoints:0,100'))
    """
    if not isinstance(text, str):
        return text
    kinds, name, points = text.partition("checkpoints")
    kept = [kind.strip() for kind in kinds.split(",") if kind.strip()]
    return (*dict.fromkeys(kept), *([name + points] if name else [])) or (text,)


Line = Annotated[bool, typer.Option("--line", help="A line along d2 (81 points by default) instead of a plane.")]
Grid = Annotated[
    str | None,
    typer.Option(
        parser=options.swept("grid", str, PLANE),
        metavar=options.KINDS[str][0],
        help="Rows along d1 x columns along d2; 31x31 by default.",
    ),
]
Kinds = Annotated[
    str,
    typer.Option(
        "--axes",
        parser=_kinds,
        metavar=options.KINDS[str][0],
        help="random, pca (of --steps), checkpoints:A,B[,C] (files or training steps).",
    ),
]


def _checkpoints(text: str) -> tuple[int | str, ...]:
    """Return the checkpoints of an axis: training steps, and files that exist."""
    points = parse_checkpoints(text)
    for point in points:
        if isinstance(point, str) and not point.startswith(FINGERPRINT) and not Path(point).is_file():
            problem = "is a folder" if Path(point).is_dir() else "does not exist"
            raise UsageError(
                f"{point} of --axes checkpoints:{text} {problem}; give files or training steps, e.g. checkpoints:0,100"
            )
    return points


def _prepare(request: Request) -> None:
    """Give each of the settings its grid, and its checkpoints, which are typed with the axes."""
    line = request.values["line"]
    if line and (planes := [s.grid for s in request.settings if s.grid is not None and parse_grid(s.grid)[0] > 1]):
        raise UsageError(f"--line has one row, --grid {planes[0]} has more; give its points, e.g. --line --grid {LINE}")
    for i, settings in enumerate(request.settings):
        kind, _, points = settings.axes.replace("checkpoints ", "checkpoints:").partition(":")
        grid = settings.grid or (LINE if line else PLANE)
        request.settings[i] = replace(settings, grid=grid, axes=kind, checkpoints=_checkpoints(points))
    if request.values["surface"] is not None and not any(parse_grid(s.grid)[0] > 1 for s in request.settings):
        raise UsageError("--surface draws a plane, not a line; leave --line out, or draw it with --figure")


def _answer(request: Request, progress: Any) -> list[Any]:
    """Answer each question once, and note the shares of trajectories that principal planes hold."""
    from gradprobe.probes.landscape.view import plane_lines

    answers = each_once(request, progress)
    request.notes += plane_lines([answer.result for answer in answers])
    seeds = list(dict.fromkeys(settings.seed for settings in request.settings))
    if len(seeds) > 1 and any(request.values[name] is not None for name in ("figure", "surface", "page")):
        request.notes.append(f"drawn: seed {seeds[0]}, the first of {len(seeds)}; --seed {seeds[1]} draws another")
    return answers


def _first_seed(request: Request) -> list[Any]:
    """Return the results that are drawn: every seed has directions and images of its own."""
    results = request.results
    return [result for result in results if result.question["seed"] == results[0].question["seed"]]


def _check_surface(path: Path) -> None:
    from gradprobe.plotting.style import check_path

    check_path(path)


def _check_page(path: Path) -> None:
    from gradprobe.probes.landscape.page import check_page

    check_page(path)


def _draw_figure(request: Request, path: Path) -> Path:
    from gradprobe.plotting.style import save_figure
    from gradprobe.probes.landscape.figure import landscape_figure

    return save_figure(landscape_figure(_first_seed(request), request.rows, request.title), path)


def _draw_surface(request: Request, path: Path) -> Path:
    from gradprobe.plotting.style import save_figure
    from gradprobe.probes.landscape.figure import surface_figure
    from gradprobe.probes.landscape.surfaces import full_title

    results = _first_seed(request)
    return save_figure(surface_figure(results, full_title(results, request.title)), path)


def _draw_page(request: Request, path: Path) -> Path:
    from gradprobe.probes.landscape.page import save_page
    from gradprobe.probes.landscape.surfaces import full_title

    results = _first_seed(request)
    return save_page(results, path, full_title(results, request.title))


landscape: Callable[..., None] = command(
    PROBE,
    extra={"line": (Line, False)},
    replaced={"grid": (Grid, None), "axes": (Kinds, "random"), "checkpoints": None},
    drawings={
        "figure": Drawing("Draw the result into this .png, .svg or .pdf.", _check_surface, _draw_figure),
        "surface": Drawing("Draw the surfaces in 3-D into this file.", _check_surface, _draw_surface),
        "page": Drawing("Write an interactive page into this .html.", _check_page, _draw_page),
    },
    prepare=_prepare,
    answer=_answer,
)
