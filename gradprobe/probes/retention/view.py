"""Table of retention for the terminal, and sentences that compare operators."""

from collections.abc import Sequence
from itertools import groupby

from rich import box
from rich.table import Table
from rich.text import Text

from gradprobe.plotting.columns import Row, interval, name_of, number, seeds
from gradprobe.settings import RANKED

FEWEST_SEEDS = 5  # from which on a difference of what was trained is decided, as in `gradprobe.statistics.ratios`


def table(rows: Sequence[Row]) -> Table:
    """Return the retention of each operator, K by K, rankings last; legible at 80 columns.

    Args:
        rows: as `gradprobe.probes.retention.result.over_seeds` makes them; with ``tokens``, N is printed beside K.
    """
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), caption_justify="left")
    made.add_column("operator", overflow="fold", min_width=17)  # gumbel-ste+gather
    made.add_column("retention [95 %]", justify="right", no_wrap=True)
    made.add_column("each seed", justify="right", max_width=11)
    for heading in ("fresh", "acc.", "AUC", "s"):
        made.add_column(heading, justify="right", no_wrap=True)
    ordered = sorted(rows, key=lambda row: (row["k"], is_ranking(row)))
    for k, group in groupby(ordered, key=lambda row: row["k"]):
        made.add_section()
        members = list(group)
        made.add_row(Text(f"K = {k}{f' of {n}' if (n := members[0].get('tokens')) else ''}", "bold"))
        for row in members:
            made.add_row(
                name_of(row),
                interval(row["retention"], row["low"], row["high"]),
                " ".join(number(x, 3) for x in row["by_seed"]),
                number(row["untrained"]),
                number(row["accuracy"]),
                number(row["auc"]),
                number(_mean(row["seconds"]), 0),
            )
    made.caption = (
        "retention: accuracy with the K deployed tokens over that with all; fresh: the same of the untrained scorer, "
        "on the first images; acc.: mean accuracy; AUC: of the scores, where it is known which tokens matter, 0.5 is "
        "chance; s: seconds a seed"
    )
    return made


def lines(rows: Sequence[Row], baseline: str | None) -> list[str]:
    """Return a sentence for each operator that was compared: both retentions and their difference with its interval.

    The baseline's retention is told if it has all seeds of the row; else the two are of different seeds.

    Args:
        rows: of the table.
        baseline: the operator they were compared with.
    """
    sentences = []
    for row in rows:
        if row["difference"] is None or is_ranking(row):
            continue
        told = f"{row['op']} at K = {row['k']}: retention {number(row['retention'], 3)}"
        if row["difference_seeds"] == len(row["seeds"]):
            told += f" against {number(row['retention'] - row['difference'], 3)} of {baseline}, difference"
        else:
            told += f" over {seeds(len(row['seeds']))}, difference from {baseline} with the same seeds"
        sentences.append(f"{told} {difference(row)}: {_verdict(row)}")
    return sentences


def meaning(rows: Sequence[Row]) -> str:
    """Return a sentence on what the intervals cover and what they do not."""
    count = max(len(row["seeds"]) for row in rows)
    if count == 1:
        return (
            "Intervals are Bonett and Price's over the test images of one seed: they say nothing about another "
            "training. --seeds 1..5 measures that; fewer than 5 decide nothing."
        )
    if count < FEWEST_SEEDS:
        return (
            f"{count} seeds: no interval over trainings from fewer than {FEWEST_SEEDS}, read each seed. Intervals of "
            "rankings, which are not trained, are over test images."
        )
    return (
        f"Intervals are over {count} seeds (each its own scorer, images and noise) with their images nested, on the "
        "logit scale; differences are paired by seed."
    )


def kind_lines(rows: Sequence[Row], names: Sequence[str]) -> list[str]:
    """Return the retention by kind of question, mean over seeds, of each row that has kinds.

    Args:
        rows: of the table.
        names: of the kinds, in the order of their numbers.
    """
    sentences = []
    for row in rows:
        if row["by_kind"]:
            means = [_mean(each) for each in zip(*row["by_kind"], strict=True)]
            numbers = ", ".join(f"{name} {number(x)}" for name, x in zip(names, means, strict=True))
            sentences.append(f"{name_of(row)} at K = {row['k']}: {numbers}")
    return sentences


def is_ranking(row: Row) -> bool:
    """Tell whether a row is of a ranking that needs no training."""
    return str(row["op"]).startswith(RANKED)


def difference(row: Row) -> str:
    """Return the difference to the baseline with its interval and sign; an en dash where nothing was compared."""
    return interval(row["difference"], row["difference_low"], row["difference_high"])


def _verdict(row: Row) -> str:
    count = row["difference_seeds"]
    if count < FEWEST_SEEDS:
        return f"undecided, {seeds(count)} ({FEWEST_SEEDS} decide)"
    low, high = row["difference_low"], row["difference_high"]
    if low is None or high is None or low <= 0 <= high:
        return f"undecided, {seeds(count)}"
    return f"{'more' if low > 0 else 'less'}, over {seeds(count)}"


def _mean(values: Sequence[float | None]) -> float | None:
    known = [x for x in values if x is not None]
    return sum(known) / len(known) if known else None
