"""``gradprobe vlm cost``: cost of a VLM and its pruner up to the first token."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gradprobe.cli import completion, options
from gradprobe.cli.output import say, say_json
from gradprobe.errors import UsageError

if TYPE_CHECKING:
    from gradprobe.vlm.costs.flops import VLMCost
    from gradprobe.vlm.costs.plans import PlanCost

SCORER, DENOISER = "transformer:depth=2,width=1024,heads=16", "token"  # of a pruner that is trained


def cost(
    model: Annotated[str, typer.Option(help="One of the paper's models by hub id, photos-vlm, or a folder.")],
    k: Annotated[str | None, typer.Option(help="Visual tokens kept, e.g. 64,128,192.")] = None,
    ratio: Annotated[str | None, typer.Option(help="The same as shares of N; 0.111 without either.")] = None,
    text_tokens: Annotated[int, typer.Option(help="Length of the prompt, special tokens included.")] = 97,
    image_size: Annotated[str | None, typer.Option(help="Height x width, e.g. 672x672.")] = None,
    select: Annotated[
        list[str] | None,
        typer.Option(
            help="Plan of selectors instead of a scorer, repeatable: divprune, fastv@2, plan.json.",
            autocompletion=completion.selectors,
        ),
    ] = None,
    average: Annotated[
        str | None, typer.Option(help="With --select: mean visual tokens over the layers, instead of --k.")
    ] = None,
    scorer: Annotated[str, typer.Option(help="Its name and fields.")] = SCORER,
    denoiser: Annotated[str, typer.Option(help="Its name; it is not deployed, only its parameters count.")] = DENOISER,
    measure: Annotated[bool, typer.Option("--measure", help="Time the parts too, with random weights.")] = False,
    passes: Annotated[int, typer.Option(help="Timed passes, after warm-up.")] = 30,
    device: options.Device = "cpu",
    dtype: Annotated[
        str | None, typer.Option(help="When timed: float32, bfloat16 or float16; by default float16 on a GPU.")
    ] = None,
    trust: options.Trust = None,
    figure: options.Figure = None,
    as_json: options.Json = False,
) -> None:
    """Count FLOPs and parameters of each part, unpruned and with K tokens, from the configuration alone: no weights.

    With --measure also time each part, on a GPU by CUDA events. With --select count plans, each layer at its own number
    of tokens.
    """
    counts = options.numbers("k", k, int, "64,128,192")
    shares = options.numbers("ratio", ratio, float, "0.111,0.222")
    averages = options.numbers("average", average, float, "64,128,192")
    if device != "cpu" and not measure:
        raise UsageError(f"--device {device} goes with --measure, which times the parts there")
    if dtype is not None and not measure:
        raise UsageError(f"--dtype {dtype} goes with --measure: FLOPs do not depend on it")
    if averages and not select:
        raise UsageError(f"--average {average} goes with --select, as in --select fastv@2; without it give --k")
    if select and measure:
        raise UsageError("--measure times the trained pruner only; leave --select out")
    if select and (scorer, denoiser) != (SCORER, DENOISER):
        option = f"--scorer {scorer}" if scorer != SCORER else f"--denoiser {denoiser}"
        raise UsageError(f"{option} is of a trained pruner, and --select counts plans; give one of them")
    if figure is not None:
        from gradprobe.plotting.style import check_path

        check_path(figure)

    from gradprobe.vlm.costs.dimensions import size_of

    budgets: dict[str, Any] = {"k": counts, "ratio": shares}
    image: dict[str, Any] = {"text_tokens": text_tokens, "image_size": size_of(image_size)}
    report: VLMCost | PlanCost
    chosen: dict[str, Any]
    if select:
        from gradprobe.selectors.plan import plan_of, split_plans
        from gradprobe.vlm.costs.plans import plan_cost

        plans = [plan_of(text, trust=trust or ()) for texts in select for text in split_plans(texts)]
        report = plan_cost(model, plans, average=averages, **budgets, **image)
        chosen = {"scorer": None, "denoiser": None, "select": [plan.label for plan in plans]}
        timing = None
    else:
        from gradprobe.vlm.costs.flops import cost as count

        report = count(model, scorer=scorer, denoiser=denoiser, **budgets, **image)
        if measure:
            report = report.measured(device, passes, dtype)
        chosen = {"scorer": report.scorer, "denoiser": report.denoiser}
        timing = report.timing
    rows = report.rows()
    layout = asdict(report.layout) | {"tokens": report.layout.tokens, "placeholders": report.layout.placeholders}
    settings = {
        "model": report.model,
        "family": report.family,
        "layout": layout,
        "text_tokens": report.text_tokens,
        **chosen,
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
