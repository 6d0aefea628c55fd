"""Tables and a figure of the FLOPs and milliseconds of a pruned VLM."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich import box
from rich.console import Group
from rich.table import Table

from gradprobe.errors import UsageError
from gradprobe.plotting.columns import Row, number
from gradprobe.plotting.style import BLACK, BLUE, GREEN, GREY, ORANGE, PAGE, SKY, look
from gradprobe.selectors.schedule import runs_of

UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"))
FLOPS = {
    "paper's": "paper",
    "vision": "vision",
    "scorer": "scorer",
    "proj.": "projector",
    "linear": "linear",
    "attn": "attention",
    "head": "head",
    "all": "total",
}
PLANS = {"selector": "selector", "LM": "prefill", "all": "total", "paper's": "paper"}
PARTS = {"encoder": "encoder", "pruner": "pruner", "prefill": "prefill", "TTFT": "ttft"}
COLOURS = {"vision": SKY, "scorer": ORANGE, "selector": ORANGE, "projector": GREEN, "language model": BLUE}
TIMED = {"encoder": SKY, "pruner": ORANGE, "prefill": BLUE}
PAPER_TRAINABLE = 84_000_000  # appendix A


def flops_table(rows: Sequence[Row]) -> Table:
    """Tabulate FLOPs of each part for each number of tokens kept, in 80 columns.

    Args:
        rows: As ``VLMCost.rows`` makes them.
    """
    scale, unit = _unit(max(row["total"] for row in rows))
    table = _table("kept", "length", *FLOPS)
    for row in rows:
        table.add_row(_kept(row), str(row["sequence"]), *(_figures(row[name] / scale) for name in FLOPS.values()))
    table.caption = (
        f"{unit}FLOPs. paper's: linear layers of the language model and its head, on every position, nothing else. The "
        "others are what the first token takes: attn where a query has a key (causal half), head on the last position "
        "only; all: their sum"
    )
    return table


def plan_table(rows: Sequence[Row]) -> Table:
    """Tabulate the tokens that each layer reads and the FLOPs, for each plan and budget, in 80 columns.

    Args:
        rows: As ``PlanCost.rows`` makes them.
    """
    scale, unit = _unit(max(row["total"] for row in rows))
    table = _table("plan", "tokens x layers", "mean", *PLANS)
    for row in rows:
        runs = ", ".join(f"{run[0]} x{len(run)}" for run in runs_of(row["counts"], key=lambda count: count))
        cells = ["–" if row[name] is None else _figures(row[name] / scale) for name in PLANS.values()]
        table.add_row(_folded(row["plan"] or "all", 20), _folded(runs, 15), number(row["average"], 1), *cells)
    table.caption = (
        f"{unit}FLOPs. tokens x layers: visual tokens that the layers read, in order; mean: over the layers. LM: the "
        "language model up to the first token, each layer at its own number of tokens; all: with vision tower, "
        "selector and projector; paper's: linear layers of the language model and its head, on every position, nothing "
        "else"
    )
    return table


def time_table(rows: Sequence[Row]) -> Table | None:
    """Tabulate milliseconds of each part beside the paper's; None where neither was measured nor reported."""
    if not any(row["measured"] or row["paper_table_4"] for row in rows):
        return None
    scale, unit = _unit(max(row["total"] for row in rows))
    table = _table("", "kept", f"{unit}FLOPs", *PARTS, "prefill ×")
    first = next((row["paper_table_4"] for row in rows if row["paper_table_4"]), None)
    for row in rows:
        if measured := row["measured"]:
            cells = [_ms(measured[name]) for name in PARTS.values()]
            value, low, high = (number(measured[f"prefill_speedup{end}"]) for end in ("", "_low", "_high"))
            times = f"{value} [{low}, {high}]" if row["pruned"] else value
            flops = number(row["paper"] / scale)
            table.add_row("here", _kept(row), flops, *cells, times)
        if (paper := row["paper_table_4"]) and first:
            cells = [_ms(paper[name]) for name in PARTS.values()]
            times = number(first["prefill"] / paper["prefill"])
            table.add_row("paper", _kept(row), number(paper["flops"] * 1e12 / scale), *cells, times)
    table.caption = (
        "Milliseconds, and FLOPs as the paper counts them. encoder: vision tower; pruner: scorer, top-K and gather; "
        "prefill: projector and language model; prefill ×: times faster than unpruned. here: medians, the ratio within "
        "a pass with its 95 % interval (--json has all); paper: Table 4, FP16 on one A6000, means"
    )
    return table


def cost_tables(rows: Sequence[Row]) -> Group:
    """Put both tables one above the other; of plans there is one."""
    if "plan" in rows[0]:
        return Group(plan_table(rows))
    return Group(*(table for table in (flops_table(rows), time_table(rows)) if table is not None))


def cost_lines(settings: Mapping[str, Any], rows: Sequence[Row]) -> list[str]:
    """Describe the visual tokens of the image, the parameters of each part, and the share of the scorer.

    Args:
        settings: ``model``, ``family``, ``layout``, ``text_tokens``, ``scorer``, ``denoiser`` and ``parameters``; no
            scorer where plans were counted.
        rows: Of the tables.
    """
    model, layout, sizes = settings["model"], settings["layout"], settings["parameters"]
    size, seen = (" x ".join(map(str, layout[name])) for name in ("size", "seen"))
    tiles = "" if layout["tiles"] == 1 else f" in {layout['tiles'] - 1} tiles of it and an overview"
    newlines = f" and {layout['newlines']} newline tokens" if layout["newlines"] else ""
    lines = [
        f"{model}: an image of {size} is seen at {seen}{tiles}: {layout['tokens']} visual tokens{newlines}, "
        f"with {settings['text_tokens']} text tokens.",
        "Parameters: " + ", ".join(f"{name} {_million(sizes[name])}" for name in sizes if sizes[name]) + ".",
    ]
    if uncounted := dict.fromkeys(name for row in rows for name in row.get("uncounted", ())):
        lines.append(f"Not counted, as they do not tell their own FLOPs: {', '.join(uncounted)}.")
    if settings["scorer"] is None:
        return lines
    trained = sizes["scorer"] + sizes["denoiser"]
    lines.append(
        f"Trained ({settings['scorer']}, denoiser {settings['denoiser']}): {_million(trained)}. The paper says about "
        f"{PAPER_TRAINABLE // 10**6} M, which three blocks of width 1024 (37.8 M with the usual FFN of 4096) would "
        f"reach with an FFN of about {round(ffn_for(PAPER_TRAINABLE), -2):,}."
    )
    pruned = [row for row in rows if row["pruned"]]
    if pruned:
        shares = ", ".join(f"{100 * row['scorer_share']:.2f} % at K = {row['kept']}" for row in pruned)
        lines.append(f"The scorer's share of the FLOPs up to the first token: {shares}.")
    if any(row["measured"] for row in pruned):
        shares = ", ".join(
            f"{100 * row['measured']['pruner'] / row['measured']['ttft']:.2f} % at K = {row['kept']}" for row in pruned
        )
        lines.append(f"The pruner's share of the time to the first token: {shares}.")
    return lines


def ffn_for(total: int, width: int = 1024, blocks: int = 3) -> int:
    """Return the FFN width with which blocks of a width have so many weights: ``total = blocks (4 d^2 + 2 d f)``.

    Example:
        >>> ffn_for(84_000_000)  # what the paper's "approximately 84M" would need; 4096 is usual
        11624
    """
    return round((total / blocks - 4 * width**2) / (2 * width))


def vlm_cost_figure(rows: Sequence[Row], title: str) -> Figure:
    """Draw FLOPs of each part for each number of tokens, and milliseconds where they were measured.

    Black marks are the paper's numbers: FLOPs by its own counting, and time to the first token.

    Args:
        rows: As ``VLMCost.rows`` or ``PlanCost.rows`` makes them.
        title: Above the bars.

    Raises:
        UsageError: No rows.
    """
    if not rows:
        raise UsageError("no cost to draw; give at least one number of tokens")
    measured = all(row["measured"] for row in rows)
    plans = "plan" in rows[0]
    names = [_plan_name(row) if plans else _kept(row) for row in rows]
    chooser = "selector" if plans else "scorer"
    scale, unit = _unit(max(row["total"] for row in rows))
    with look():
        figure = Figure(figsize=(PAGE, 1.25 + 0.34 * len(rows) + 0.16 * sum(name.count("\n") for name in names)))
        axes = figure.subplots(1, 1 + measured, sharey=True, squeeze=False)[0]
        parts = [
            {
                "vision": row["vision"] / scale,
                chooser: (row[chooser] or 0) / scale,
                "projector": row["projector"] / scale,
                "language model": row["prefill"] / scale,
            }
            for row in rows
        ]
        _stack(axes[0], parts, {part: COLOURS[part] for part in parts[0]})
        axes[0].set_xlabel(f"{unit}FLOPs up to the first token")
        axes[0].set_title(title)
        _marks(axes[0], rows, "flops", 1e12 / scale)
        if measured:
            _stack(axes[1], [row["measured"] for row in rows], TIMED)
            axes[1].set_xlabel("milliseconds up to the first token")
            _marks(axes[1], rows, "ttft", 1.0)
        axes[0].set_yticks(range(len(rows)), names)
        axes[0].set_ylabel("average visual tokens" if plans else "visual tokens")
        axes[0].set_ylim(len(rows) - 0.5, -0.5)
        handles = {
            label: handle for each in axes for handle, label in zip(*each.get_legend_handles_labels(), strict=True)
        }
        labels = sorted(handles, key=lambda label: label.startswith("Table 4"))  # bars first
        figure.legend([handles[label] for label in labels], labels, loc="outside lower center", ncols=len(labels))
    return figure


def _stack(axes: Axes, rows: Sequence[Mapping[str, float]], colours: Mapping[str, str]) -> None:
    for name, colour in colours.items():
        before = list(colours)[: list(colours).index(name)]
        left = [sum(row[each] for each in before) for row in rows]
        axes.barh(range(len(rows)), [row[name] for row in rows], 0.62, left=left, color=colour, label=name)
    for y, row in enumerate(rows):
        whole = sum(row[name] for name in colours)
        axes.annotate(f"{whole:.3g}", (whole, y), (4, 0), textcoords="offset points", va="center", color=GREY)
    axes.set_xlim(0, 1.12 * max(sum(row[name] for name in colours) for row in rows))
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")


def _marks(axes: Axes, rows: Sequence[Row], what: str, scale: float) -> None:
    points = [(row["paper_table_4"][what] * scale, y) for y, row in enumerate(rows) if row["paper_table_4"]]
    if points:
        x, y = zip(*points, strict=True)
        label = "Table 4, as the paper counts" if what == "flops" else "Table 4"
        axes.plot(x, y, "|", color=BLACK, markersize=13, markeredgewidth=1.4, label=label)
        axes.set_xlim(right=max(axes.get_xlim()[1], 1.12 * max(x)))


def _table(first: str, *columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), caption_justify="left")
    table.add_column(first, no_wrap=True)
    for heading in columns:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _figures(value: float) -> str:
    return number(value, 3 if value < 10 else 2 if value < 100 else 1)


def _ms(value: float) -> str:
    return number(value, 2 if value < 100 else 1)


def _kept(row: Row) -> str:
    return str(row["kept"]) if row["pruned"] else f"all {row['kept']}"


def _plan_name(row: Row) -> str:
    return f"{_folded(row['plan'], 22)}\n{number(row['average'], 1)}" if row["plan"] else f"all {row['kept']}"


def _folded(text: str, width: int) -> str:
    """Break a text into lines behind its commas, semicolons and colons.

    Example:
        >>> _folded("pyramiddrop@8,16,24:keep=0.5,0.25", 20).splitlines()
        ['pyramiddrop@8,16,24:', 'keep=0.5,0.25']
    """
    lines = [""]
    for piece in re.findall(r"[^,;:]*[,;:]?\s*", text):
        if len(lines[-1] + piece.rstrip()) > width and lines[-1]:
            lines.append("")
        lines[-1] += piece
    return "\n".join(line.rstrip() for line in lines)


def _million(count: int) -> str:
    return f"{count / 1e6:,.1f} M" if count >= 1e5 else f"{count / 1e6:.3f} M"


def _unit(most: float) -> tuple[float, str]:
    return next(((scale, unit) for scale, unit in UNITS if most >= scale), UNITS[-1])
