"""``gradprobe compare``: every probe on my operator and on the baselines."""

import re
import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from gradprobe.cli import completion, options
from gradprobe.cli.output import say_json
from gradprobe.errors import UsageError

BESIDE, MOST = 2.5, 0.25  # importing and drawing a page over importing alone, and its largest share of the budget
UNITS = {"s": 1, "m": 60, "h": 3600}


def compare(
    op: options.Op,
    k: options.K = None,
    keep: options.Keep = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            help="Baseline, repeatable; none for none. Default: gumbel, gumbel-softmax, scale, vpnoise.",
            autocompletion=completion.baselines,
        ),
    ] = None,
    select: Annotated[
        list[str] | None,
        typer.Option(
            help="Selectors or plan without training, repeatable, beside the usual rankings: fastv@2.",
            autocompletion=completion.selectors,
        ),
    ] = None,
    budget: Annotated[str, typer.Option(help="Time it may take, which decides the size: 90s, 10m, 2h.")] = "10m",
    size: Annotated[str | None, typer.Option(help="tiny, small, medium, large or full, instead of --budget.")] = None,
    page: options.Page = None,
    probe: Annotated[
        list[str] | None, typer.Option(help="Probe of a Python file, repeatable, beside the others: my_probe.py:PROBE.")
    ] = None,
    scorer: options.Scorer = "mlp",
    vlm: options.Vlm = None,
    backbone: options.Backbone = "scenes",
    weights: options.Weights = None,
    weights_key: options.WeightsKey = None,
    image_size: options.ImageSize = None,
    data: options.Data = None,
    class_order: options.ClassOrder = None,
    train_data: options.TrainData = None,
    layer: options.Layer = 0,
    loss: options.Loss = "ce",
    seed: options.Seed = 1,
    seeds: Annotated[
        Any,
        typer.Option(
            parser=options.seeds("seeds"),
            metavar=options.SEEDS[0],
            help=f"Seeds of every probe but equivalence and cost, instead of --seed: {options.SEEDS[1]}.",
        ),
    ] = None,
    device: options.Device = "cpu",
    dtype: options.Dtype = "float32",
    generator: options.Generator = "auto",
    workers: options.Workers = None,
    results: options.Results = options.RUNS,
    as_json: options.Json = False,
    force: options.Force = False,
    jobs: options.Jobs = None,
    cluster: options.Cluster = None,
) -> None:
    """Compare operators with baselines by every probe: one table, and one page to send to a co-author."""
    seconds, began = budget_seconds(budget), time.monotonic()
    options.check_budget(k, keep)
    if page != "none":
        from gradprobe.comparison.page import check_report

        check_report(Path(page or "compare.html"))

    from gradprobe.cli.progress import bars
    from gradprobe.comparison.run import BASELINES
    from gradprobe.comparison.run import compare as run
    from gradprobe.comparison.verdict import report_json, verdict_of
    from gradprobe.probes import probe_of

    for name in probe or ():
        probe_of(name)
    others = list(BASELINES) if baseline is None else [name for name in baseline if name != "none"]
    reserve = min(MOST * seconds, (time.monotonic() - began) * (1 if page == "none" else BESIDE))
    with bars() as tell:
        comparison = run(
            op, k, keep=keep, baselines=others, task=vlm, backbone=backbone, weights=weights, weights_key=weights_key,
            image_size=image_size, data=data, class_order=class_order, train_data=train_data, scorer=scorer,
            layer=layer, loss=loss, seed=seed, seeds=seeds, device=device, dtype=dtype, generator=generator,
            budget=seconds, reserve=reserve, size=size, results=results, workers=workers, force=force,
            command=_command(), progress=tell, select=select or (), jobs=jobs, cluster=cluster,
        )  # fmt: skip
    written = None if page == "none" else _written(comparison, Path(page) if page else results / _name(comparison))
    if as_json:
        say_json(report_json(comparison) | {"path": str(results), "page": written and str(written)})
        return

    from gradprobe.cli.screen import Screen
    from gradprobe.comparison.tables import summary_lines, summary_table

    console = Screen()
    console.print(verdict_of(comparison).sentence, style="bold", soft_wrap=True)
    options.warn_random(console, str(comparison.settings["weights"]))
    console.print(summary_table(comparison))
    for line in summary_lines(replace(comparison, missing=())):
        console.print(line)
    for line in comparison.missing:
        console.print(f"missing: {line}", soft_wrap=True)
    reason = "" if size else f" (what {budget} allow here; --size sets it)"
    console.print(f"size: {comparison.settings['size']}{reason}; answers: {results}")
    for line in comparison.plan:
        console.print(f"time: {line}", soft_wrap=True)
    if written:
        console.print(f"page: {written}", soft_wrap=True)


def _written(comparison: Any, path: Path) -> Path:
    from gradprobe.comparison.figures import figures_of
    from gradprobe.comparison.page import write_report

    return write_report(comparison, path, figures_of(comparison))


def _name(comparison: Any) -> str:
    """Return the file name of a comparison's page."""
    op = re.sub(r"[^A-Za-z0-9]+", "-", Path(comparison.focus).name).strip("-")
    return f"compare-{op}-k{comparison.settings['k']}-{comparison.settings['backbone']}.html"


def _command() -> str:
    """Return the command as typed."""
    return shlex.join(["gradprobe", *(a for a in sys.argv[1:] if a != "--debug")])


def budget_seconds(text: str) -> float:
    """Return the seconds of a budget as it is typed.

    Raises:
        UsageError: it is no time.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text.strip())
    if not match or not float(match[1]):
        raise UsageError(f"--budget {text} is not possible; give a time such as --budget 90s, 10m or 2h")
    return float(match[1]) * UNITS[match[2]]
