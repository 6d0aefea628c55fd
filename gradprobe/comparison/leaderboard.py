"""The leaderboard: every operator that has a name, by every probe, as a page and as JSON."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gradprobe.comparison.comparison import Comparison, compared, to_json
from gradprobe.comparison.experiments import Answer, Experiment, Missing, panels
from gradprobe.comparison.tables import summary_markdown
from gradprobe.errors import GradprobeError
from gradprobe.files import atomic_write

ABOUT = """\
# Leaderboard

Every operator that has a name, each relaxation with the throttle that suits it (`gradprobe.operators.registry.suited`),
asked about the same images, noise, fresh scorer and budget; compared with `{focus}`. Made by `gradprobe leaderboard`
from [experiments/leaderboard.toml](../experiments/leaderboard.toml), which computes only what is missing; the numbers
are also in [results/leaderboard.json](../results/leaderboard.json). Sorted by what a scorer trained through the
operator retains once hard top-K is deployed, then by fidelity; with few seeds that order is one of single trainings and
not of operators. What is not trained is of one fresh scorer: its intervals and marks are over images, batches or
rounds. [How each interval is made](statistics.md), and how often it covers.

![every operator](../figures/leaderboard.png)
"""
SHARED = ("backbone", "weights", "k", "scorer", "layer", "loss", "dtype")


def comparisons(experiment: Experiment, answers: Sequence[Answer], missing: Sequence[Missing] = ()) -> list[Comparison]:
    """One comparison a panel of the preset, the best first.

    Args:
        experiment: the preset; its baseline is what all others are compared with.
        answers: of its questions.
        missing: its questions without one.
    """
    shown = []
    for panel, results in panels(answers):
        by_probe = {probe: [r for r in results if r.probe == probe] for probe in compared()}
        ops = list(dict.fromkeys(r.question["op"] for r in results))
        if experiment.baseline not in ops:
            continue
        gaps = [m for m in missing if m.run.panel == panel]
        asked = results[0].question
        shown.append(
            Comparison(
                title=panel,
                ops=tuple(sorted(ops, key=lambda op: _rank(op, by_probe))),
                focus=experiment.baseline,
                results={probe: each for probe, each in by_probe.items() if each},
                settings={name: asked[name] for name in SHARED},
                command="gradprobe leaderboard",
                missing=tuple(f"{m.run.question['probe']} of {m.run.question['op']}: {m.reason}" for m in gaps),
            )
        )
    return shown


def write(boards: Sequence[Comparison], page: Path, data: Path) -> None:
    """Write the tables as Markdown and all numbers as JSON.

    Raises:
        GradprobeError: a file cannot be written.
    """
    sections = [f"\n## {board.title}\n\n{_budget(board)}\n\n{summary_markdown(board)}" for board in boards]
    texts = {page: "".join([ABOUT.format(focus=boards[0].focus), *sections])}
    texts[data] = json.dumps([to_json(board) for board in boards], indent=1) + "\n"
    try:
        for path, text in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(path, text.encode())
    except OSError as error:
        raise GradprobeError(f"cannot write {error.filename}: {error.strerror}; name another file") from None


def _budget(board: Comparison) -> str:
    """Return the budget of each probe, in a sentence."""
    places = compared()
    sentences = []
    for probe, results in board.results.items():
        seeds = ", ".join(map(str, sorted({r.question["seed"] for r in results})))
        sentences.append(places[probe].BUDGET.format(**{**results[0].question, "seeds": seeds}))
    return f"K = {board.settings['k']}, scorer {board.settings['scorer']}. " + "; ".join(sentences) + "."


def _rank(op: str, results: dict[str, list[Any]]) -> tuple[float, float]:
    kept = [r.row()["retention"] for r in results["retention"] if r.question["op"] == op]
    agrees = [
        max(r.row()["sigmas"], key=lambda s: s["sigma"])["cosine"]
        for r in results["fidelity"]
        if r.question["op"] == op
    ]
    return -(kept[0] or 0.0) if kept else 1.0, -(agrees[0] or 0.0) if agrees else 1.0
