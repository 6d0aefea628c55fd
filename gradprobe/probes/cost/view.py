"""Rows of costs -> tables for the terminal."""

from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Group
from rich.table import Table

from gradprobe.plotting.columns import Cell, Row, number, short

TIME: dict[str, Cell] = {
    "training [95 %]": lambda row: _times(row, "training"),
    "ms": lambda row: "none" if row["gradient"] == "none" else _ms(row["training_ms"]),
    "op.": lambda row: _ms(row["operator_ms"]),
    "share": lambda row: number(row["operator_share"]),
    "deployed [95 %]": lambda row: _times(row, "deployed"),
}
WORK: dict[str, Cell] = {
    "M": lambda row: str(row["sent"]),
    "batch": lambda row: _giga(row["flops_batch"]),
    "all N": lambda row: _giga(row["flops_unpruned"]),
    "scorer": lambda row: _giga(row["flops_scorer"]),
    "training": lambda row: _giga(row["flops_training"]),
    "gradient": lambda row: _giga(row["flops_gradient"]) if row["gradient"] == "yes" else "none",
    "K": lambda row: _giga(row["flops_deployed"]),
    "MB": lambda row: "none" if row["memory"] is None else number(row["memory"] / 1e6),
}


def table(rows: Sequence[Row]) -> Group:
    """Return two tables, time, then FLOPs and memory; legible at 80 columns.

    Args:
        rows: as `gradprobe.probes.cost.result.CostResult.row` makes them.

    Returns:
        What rich prints.
    """
    timed = _table(rows, TIME)
    timed.caption = (
        "training: a training gradient over the unpruned encoder's forward pass, in time; ms: of that gradient, an "
        "image; op.: ms of the operator alone, there and back; share: op. of ms; deployed: forward with K tokens over "
        "forward with all N"
    )
    counted = _table(rows, WORK)
    counted.caption = (
        "GFLOPs an image. batch: embedding (and target of kl); all N, K: encoder, forward; training: encoder, forward, "
        "on the M tokens sent in training; gradient: whole training gradient; MB: kept for its backward, an image"
    )
    return Group(timed, counted)


def lines(rows: Sequence[Row], baseline: str | None) -> list[str]:
    """Return a sentence for each row: its training time over the baseline's, or that it has no gradient.

    Args:
        rows: of the table.
        baseline: the operator they were compared with.
    """
    sentences = []
    for row in rows:
        if row["gradient"] == "none":
            sentences.append(f"{row['op']}: no gradient reaches the scores, so there is no training to time")
        elif row["ratio"] is not None:
            told = _times(row, "ratio")
            sentences.append(f"{row['op']}: a training gradient takes {told} times as long as with {baseline}")
    return sentences


def meaning(rows: Sequence[Row]) -> str:
    """Return the words for the times, and the time of the bare encoder."""
    first = rows[0]
    group = "1 image" if first["images"] == 1 else f"{first['images']} images"
    return (
        f"Times are medians over {first['rounds']} rounds on {group}, ratios within a round; another "
        f"run measures others (--force). The bare encoder, forward and back with all N tokens, takes "
        f"{_times(first, 'encoder')} times its forward pass of {_ms(first['unpruned_ms'])} ms an image; the scorer's "
        f"forward pass takes {_ms(first['scorer_ms'])} ms."
    )


def _times(row: Row, name: str) -> str:
    """Round a ratio of times and its interval to the precision of the timer."""
    value, *ends = (row[name], row[f"{name}_low"], row[f"{name}_high"])
    if value is None:
        return "none"
    digits = 3 if value < 0.1 else 2 if value < 10 else 1
    return f"{number(value, digits)} [{', '.join(number(end, digits) for end in ends)}]"


def _ms(value: float) -> str:
    return number(value, 2 if value < 10 else 1 if value < 100 else 0)


def _giga(flops: float | None) -> str:
    return short(None if flops is None else flops / 1e9)


def _table(rows: Sequence[Row], columns: Mapping[str, Cell]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), caption_justify="left")
    table.add_column("operator", overflow="fold", min_width=16)
    for heading in columns:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(row["op"], *(cell(row) for cell in columns.values()))
    return table
