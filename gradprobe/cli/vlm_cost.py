"""``gradprobe vlm cost``: cost of a VLM and its pruner up to the first token."""

from dataclasses import asdict
from typing import Annotated

import typer

from gradprobe.cli import options
from gradprobe.cli.output import say, say_json
from gradprobe.errors import UsageError


def cost(
    model: Annotated[str, typer.Option(help="One of the paper's models by hub id, photos-vlm, or a folder.")],
    k: Annotated[str | None, typer.Option(help="Visual tokens kept, e.g. 64,128,192.")] = None,
    ratio: Annotated[str | None, typer.Option(help="The same as shares of N; 0.111 without either.")] = None,
    text_tokens: Annotated[int, typer.Option(help="Length of the prompt, special tokens included.")] = 97,
    image_size: Annotated[str | None, typer.Option(help="Height x width, e.g. 672x672.")] = None,
    scorer: Annotated[str, typer.Option(help="Its name and fields.")] = "transformer:depth=2,width=1024,heads=16",
    denoiser: Annotated[str, typer.Option(help="Its name; it is not deployed, only its parameters count.")] = "token",
    measure: Annotated[bool, typer.Option("--measure", help="Time the parts too, with random weights.")] = False,
    passes: Annotated[int, typer.Option(help="Timed passes, after warm-up.")] = 30,
    device: options.Device = "cpu",
    dtype: Annotated[
        str | None, typer.Option(help="When timed: float32, bfloat16 or float16; by default float16 on a GPU.")
    ] = None,
    figure: options.Figure = None,
    as_json: options.Json = False,
) -> None:
    """Count FLOPs and parameters of each part, unpruned and with K tokens, from the configuration alone: no weights.

    With --measure also time each part, on a GPU by CUDA events.
    """
    counts = options.numbers("k", k, int, "64,128,192")
    shares = options.numbers("ratio", ratio, float, "0.111,0.222")
    if device != "cpu" and not measure:
        raise UsageError(f"--device {device} goes with --measure, which times the parts there")
    if dtype is not None and not measure:
        raise UsageError(f"--dtype {dtype} goes with --measure: FLOPs do not depend on it")
    if figure is not None:
        from gradprobe.plotting.style import check_path

        check_path(figure)

    from gradprobe.vlm.costs.dimensions import size_of
    from gradprobe.vlm.costs.flops import cost as count

    report = count(
        model,
        k=counts,
        ratio=shares,
        text_tokens=text_tokens,
        image_size=size_of(image_size),
        scorer=scorer,
        denoiser=denoiser,
    )
    if measure:
        report = report.measured(device, passes, dtype)
    rows, timing = report.rows(), report.timing
    layout = asdict(report.layout) | {"tokens": report.layout.tokens, "placeholders": report.layout.placeholders}
    settings = {
        "model": report.model,
        "family": report.family,
        "layout": layout,
        "text_tokens": report.text_tokens,
        "scorer": report.scorer,
        "denoiser": report.denoiser,
        "parameters": report.parameters,
        "device": timing and timing.device,
        "dtype": timing and timing.dtype,
        "passes": passes if measure else None,
        "environment": timing and timing.environment,
    }
    if as_json:
        say_json({"probe": "vlm-cost", "settings": settings, "rows": rows})
    else:
        from gradprobe.cli.screen import Screen
        from gradprobe.vlm.costs.figure import cost_lines, cost_tables

        console = Screen()
        console.print(cost_tables(rows))
        for line in cost_lines(settings, rows):
            console.print(line)
        if timing is not None:
            console.print(f"Timed on {timing.device}, {timing.dtype}, random weights, {passes} passes in turns.")
    if figure is not None:
        from gradprobe.plotting.style import save_figure
        from gradprobe.vlm.costs.figure import vlm_cost_figure

        save_figure(vlm_cost_figure(rows, f"{model}, {text_tokens} text tokens"), figure)
        if not as_json:
            say(f"figure: {figure}")
