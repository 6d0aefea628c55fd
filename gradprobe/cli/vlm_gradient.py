"""``gradprobe vlm search-gradient``: the search's gradient, beside that of the deployed loss."""

from pathlib import Path
from typing import Annotated

import typer

from gradprobe.cli import options
from gradprobe.cli.output import say, say_json
from gradprobe.cli.vlm_selected import DEFAULT, Captions, Inside, Kernel, Model, Precision
from gradprobe.errors import UsageError


def search_gradient(
    select: Inside,
    budget: Annotated[float, typer.Option(help="Share of the FLOPs of all visual tokens, in (0, 1]: 0.4.")],
    out: Annotated[Path, typer.Option(help="File to write, .json; finished pieces lie beside it.")],
    at: Annotated[
        list[str] | None,
        typer.Option(help="Schedule, repeatable: start, a plan.json of vlm search, or numbers of the kernel."),
    ] = None,
    model: Model = DEFAULT,
    data: Captions = None,
    kernel: Kernel = "free",
    batches: Annotated[int, typer.Option(help="Batches whose gradients are compared, at least 3.")] = 16,
    batch_size: Annotated[int, typer.Option(help="Images of a batch.")] = 16,
    draws: Annotated[int, typer.Option(help="Antithetic pairs of the smoothing, at least 8.")] = 32,
    sigma: Annotated[str, typer.Option(help="Smoothing of the deployed loss, in tokens: 1,4.")] = "1,4",
    softness: Annotated[
        str, typer.Option(help="Temperatures, as shares of a layer's tokens: 0.2,0.1,0.05,0.02.")
    ] = "0.2,0.1,0.05,0.02",
    held_out: Annotated[int, typer.Option(help="Images on which steps are tried, and of the line.")] = 128,
    ladder: Annotated[str, typer.Option(help="Steps, in tokens: 1,4.")] = "1,4",
    reach: Annotated[float, typer.Option(help="Half the length of the line, in tokens.")] = 12,
    seed: Annotated[int, typer.Option(help="Of images, smoothing, line and a random selector.")] = 0,
    device: options.Device = "cpu",
    dtype: Precision = "float32",
    figure: options.Figure = None,
    as_json: options.Json = False,
) -> None:
    """Probe the gradient that vlm search follows: do batches agree on it, and does the deployed loss fall along it?

    Interrupted, it goes on where it was; pieces lie in a folder OUT.pieces.
    """
    if out.suffix != ".json":
        raise UsageError(f"--out {out} is no name of a result; it must end in .json: --out {out.with_suffix('.json')}")

    from gradprobe.files import check_place
    from gradprobe.vlm.search.asked import Search, check_named, selector_of
    from gradprobe.vlm.search.gradient.settings import GradientSettings
    from gradprobe.vlm.search.kernels import kernel_of

    check_place(out)
    if figure is not None:
        from gradprobe.plotting.style import check_path

        check_path(figure)
    settings = GradientSettings(
        batches, batch_size, draws, options.numbers("sigma", sigma, float, "1,4"), _shares(softness), held_out,
        options.numbers("ladder", ladder, float, "1,4"), reach, seed,
    )  # fmt: skip
    chosen, shape = selector_of(select), kernel_of(kernel)
    check_named(chosen, [budget])
    if data is None:
        from gradprobe.vlm.picture_source import check_captions

        check_captions(model, "--model")

    from gradprobe.cli.progress import bars
    from gradprobe.cli.screen import Screen
    from gradprobe.vlm.search.gradient.measure import search_gradient as measure
    from gradprobe.vlm.search.gradient.shown import content, tables
    from gradprobe.vlm.task import captioning

    asked = Search(captioning(model, data=data, device=device, dtype=dtype), chosen, shape, settings.of_search)
    folder = out.with_name(f"{out.stem}.pieces")
    with bars() as progress:
        result = measure(asked, budget, at or ["start"], settings, folder, progress)
    result.save(out)
    if as_json:
        say_json(content(result))
    else:
        console = Screen()
        for part in filter(None, tables(result)):
            console.print(part)
        say(f"wrote {out}")
    if figure is not None:
        result.save(figure)
        if not as_json:
            say(f"figure: {figure}")


def _shares(text: str) -> tuple[float, ...]:
    try:
        return tuple(sorted({float(each) for each in text.split(",")}, reverse=True))
    except ValueError:
        raise UsageError(
            f"--softness {text} is not possible; give numbers such as --softness 0.2,0.1,0.05,0.02"
        ) from None
