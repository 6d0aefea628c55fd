"""The leaderboard: every operator that has a name, by every probe, as a page and as JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gradprobe.comparison.comparison import Comparison, compared, probe_rows, rows, to_json
from gradprobe.comparison.experiments import Answer, Experiment, Missing, panels
from gradprobe.comparison.tables import summary_markdown
from gradprobe.errors import GradprobeError, UsageError, nearest
from gradprobe.files import atomic_write
from gradprobe.plotting.columns import number
from gradprobe.plotting.escape import code_span
from gradprobe.probes.metrics import FEWEST_SEEDS
from gradprobe.probes.seeds import shares_images
from gradprobe.statistics.ranks import ROUNDED, Rank, rank_intervals

ABOUT = """\
# Leaderboard

Every operator that has a name, each relaxation with the throttle that suits it (`gradprobe.operators.registry.suited`),
asked about the same images, noise, fresh scorers and budget; compared with `{focus}`. Made by `gradprobe leaderboard`
from [experiments/leaderboard.toml](../experiments/leaderboard.toml), which computes only what is missing; the numbers
are also in [results/leaderboard.json](../results/leaderboard.json). Sorted by what scorers trained through the operator
retain once hard top-K is deployed, mean over the seeds that are there, then by fidelity. `rank` counts among the
operators with at least 5 seeds those that pairs over seeds decide to be better and worse, each pair at 95 %: simulated,
its interval covers 0.94 to 1.00 averaged over operators, but 0.7 for the first of 26 near-equal ones. What is not
trained and asked with one seed is of one fresh scorer: its intervals and marks are over images, batches or rounds.
[How each interval is made](statistics.md), and how often it covers.

{pictures}
"""
PICTURE = "![every operator](../figures/leaderboard{number}.png)"
SHARED = ("backbone", "weights", "k", "scorer", "layer", "loss", "dtype")
COMMAND = "gradprobe leaderboard"
DRAW_ONLY = "; run again without --draw-only to compute it"  # the command is told once
NAMES = 3  # operators named in a line of what is missing


@dataclass(frozen=True)
class Share:
    """Answers that are there of those that a panel asks of a probe, and the gaps by their reason."""

    panel: str
    probe: str
    there: int
    asked: int
    gaps: Mapping[str, Sequence[str]]

    def __str__(self) -> str:
        what = "trainings" if self.probe == "retention" else "answers"
        reasons = "; ".join(reason for reason in self.gaps if not reason.endswith(DRAW_ONLY))
        return f"{self.probe}: {self.there} of {self.asked} {what}{reasons and f' ({reasons})'}"


def check_preset(experiment: Experiment) -> None:
    """Refuse a preset of which no board could be made, before anything of it is computed.

    Raises:
        UsageError: no run asks the baseline, or one asks a probe that has no place on a board.
    """
    ops, places = [str(run.question.get("op")) for run in experiment.runs], compared()
    if experiment.baseline not in ops:
        known = nearest(experiment.baseline, dict.fromkeys(ops))
        raise UsageError(f"{experiment.name} asks nothing of its baseline {experiment.baseline!r}; {known}")
    if others := [run.question["probe"] for run in experiment.runs if run.question["probe"] not in places]:
        known = nearest(others[0], places)
        raise UsageError(f"{experiment.name} asks the probe {others[0]!r}, which has no place on a board; {known}")


def shares(answers: Sequence[Answer], missing: Sequence[Missing]) -> list[Share]:
    """Return the answers that are there of those asked, a panel and probe each, in the order of the panels.

    Args:
        answers: of a preset.
        missing: its questions without one.
    """
    there: dict[tuple[str, str], int] = {}
    gaps: dict[tuple[str, str], dict[str, list[str]]] = {}
    for run in (answer.run for answer in answers):
        place = run.panel, run.question["probe"]
        there[place] = there.get(place, 0) + 1
    for gap in missing:
        place = gap.run.panel, gap.run.question["probe"]
        gaps.setdefault(place, {}).setdefault(gap.reason, []).append(gap.run.question["op"])
    found = [
        Share(*place, there.get(place, 0), there.get(place, 0) + sum(map(len, gaps.get(place, {}).values())),
              gaps.get(place, {}))
        for place in dict.fromkeys([*there, *gaps])
    ]  # fmt: skip
    probes = list(dict.fromkeys([*compared(), *(share.probe for share in found)]))  # without a place: the last
    order = list(dict.fromkeys(share.panel for share in found))
    return sorted(found, key=lambda share: (order.index(share.panel), probes.index(share.probe)))


def lacking(found: Sequence[Share]) -> list[str]:
    """Return a line for each panel, probe and reason: the number that is missing, some of the operators, the reason."""
    lines = []
    for share in found:
        for reason, ops in share.gaps.items():
            names = list(dict.fromkeys(ops))
            others = f" and {len(names) - NAMES} others" if len(names) > NAMES else ""
            told = f"{share.panel}: {len(ops)} of {share.asked} {share.probe} missing"
            lines.append(f"{told} ({', '.join(names[:NAMES])}{others}): {reason.removesuffix(DRAW_ONLY)}")
    return lines


def comparisons(experiment: Experiment, answers: Sequence[Answer], missing: Sequence[Missing] = ()) -> list[Comparison]:
    """One comparison a panel of the preset, the best first.

    Args:
        experiment: the preset; its baseline is what all others are compared with.
        answers: of its questions.
        missing: its questions without one.
    """
    shown, found = [], shares(answers, missing)
    for panel, results in panels(answers):
        by_probe = {probe: [r for r in results if r.probe == probe] for probe in compared()}
        ops = list(dict.fromkeys(r.question["op"] for r in results))
        if experiment.baseline not in ops:
            continue
        asked = {name: value for r in reversed(results) for name, value in r.question.items()}  # rankings name less
        board = Comparison(
            title=panel,
            ops=tuple(ops),
            focus=experiment.baseline,
            results={probe: each for probe, each in by_probe.items() if each},
            settings={name: asked[name] for name in SHARED if name in asked},
            command=COMMAND,
            missing=tuple(str(share) for share in found if share.panel == panel and share.gaps),
        )
        order = {row["op"]: _order(row["metrics"]) for row in rows(board)}
        shown.append(replace(board, ops=tuple(sorted(ops, key=order.__getitem__))))
    return shown


def ranks(board: Comparison) -> dict[str, Rank]:
    """Return the rank of each operator with at least 5 seeds by what it retains, best first."""
    trained = dict(probe_rows(board, "retention"))
    seeds = sorted({seed for row in trained.values() for seed in row["seeds"]})
    values, errors = np.full((2, len(trained), len(seeds)), np.nan)
    for i, row in enumerate(trained.values()):
        own = [seeds.index(seed) for seed in row["seeds"]]
        values[i, own] = [np.nan if value is None else value for value in row["by_seed"]]
        errors[i, own] = row["by_seed_error"]
    if not trained:
        return {}
    ranked = rank_intervals(values, errors, shares_images(board.results["retention"]))
    pairs = [(op, rank) for op, rank in zip(trained, ranked, strict=True) if rank is not None]
    return dict(sorted(pairs, key=lambda pair: pair[1].value))


def board_json(board: Comparison) -> dict[str, Any]:
    """All that a board says in JSON types, each row with its ``rank`` (None for fewer than 5 seeds)."""
    ranked, told = ranks(board), to_json(board)
    for row in told["rows"]:
        row["rank"] = asdict(ranked[row["op"]]) if row["op"] in ranked else None
    return told


def write(boards: Sequence[Comparison], page: Path, data: Path, found: Sequence[Share] = (), pictures: int = 1) -> None:
    """Write the tables as Markdown and all numbers as JSON.

    Args:
        boards: a comparison a panel.
        page: the Markdown.
        data: the JSON.
        found: the answers that are there, to name the panels without a board.
        pictures: pages of the figure.

    Raises:
        GradprobeError: a file cannot be written.
    """
    sections = [_section(board) for board in boards]
    for panel in dict.fromkeys(share.panel for share in found):
        if panel not in [board.title for board in boards]:
            told = "; ".join(str(share) for share in found if share.panel == panel)
            sections.append(f"\n## {panel}\n\nNothing of `{boards[0].focus}` yet. {told}.\n")
    drawn = "\n".join(PICTURE.format(number=f"_{i}" if i > 1 else "") for i in range(1, pictures + 1))
    texts = {page: "".join([ABOUT.format(focus=boards[0].focus, pictures=drawn), *sections])}
    texts[data] = json.dumps([board_json(board) for board in boards], indent=1) + "\n"
    try:
        for path, text in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(path, text.encode())
    except OSError as error:
        raise GradprobeError(f"cannot write {error.filename}: {error.strerror}; name another file") from None


def _section(board: Comparison) -> str:
    """Return the section of a panel: what was asked, what is there, the table, and the best."""
    ranked = ranks(board)
    texts = {op: _rank_text(rank) for op, rank in ranked.items()}
    missing = f"There as yet: {'; '.join(board.missing)}; `{board.command}` goes on.\n\n" if board.missing else ""
    table = summary_markdown(replace(board, missing=()), texts)
    return f"\n## {board.title}\n\n{_budget(board)}\n\n{missing}{table}{_best(ranked, len(board.ops))}"


def _best(ranked: Mapping[str, Rank], operators: int) -> str:
    """Return a line on the operators that are not told apart from the one that retains most."""
    if not ranked:
        return f"- rank: no operator has {FEWEST_SEEDS} seeds yet\n"
    first, *others = (code_span(op) for op, rank in ranked.items() if rank.best)
    some = f" of {operators}" if len(ranked) < operators else ""
    told = f"not told apart from it: {', '.join(others)}" if others else "told apart from all others"
    return f"- rank: among the {len(ranked)}{some} operators with {FEWEST_SEEDS} seeds; first {first}, {told}\n"


def _rank_text(rank: Rank) -> str:
    """Return a rank with its interval, such as ``3 [1, 9]``."""
    return f"{number(rank.value, 0 if rank.value.is_integer() else 1)} [{rank.low}, {rank.high}]"


def _budget(board: Comparison) -> str:
    """Return the budget of each probe, in a sentence."""
    places = compared()
    sentences = []
    for probe, results in board.results.items():
        seeds = ", ".join(map(str, sorted({r.question["seed"] for r in results if "seed" in r.question})))
        words = getattr(places[probe], "BUDGET", f"{probe}: seed {{seed}}")  # of a user's probe, told by metrics alone
        sentences.append(words.format(**{**results[0].question, "seed": seeds, "seeds": seeds}))
    scorer = f", scorer {board.settings['scorer']}" if "scorer" in board.settings else ""
    return f"K = {board.settings['k']}{scorer}. " + "; ".join(sentences) + "."


def _order(cells: Mapping[str, Mapping[str, Any]]) -> tuple[float, float]:
    """Return what rows are sorted by: retention, then fidelity, the largest first and what is not there last."""
    kept, agrees = (cells.get(name, {}).get("value") for name in ("retention", "fidelity"))
    return (1.0 if kept is None else -round(kept, ROUNDED)), (1.0 if agrees is None else -agrees)
