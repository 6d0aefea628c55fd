"""Table 5 on an embedded vision-language model: every variant with ten seeds, the strongest pruning first."""

from collections.abc import Iterator
from typing import Any

import numpy as np

import gradprobe as gp
from gpu_steps.report import Report
from gpu_steps.step import ROOT, Setup
from gpu_steps.trainings import AT_ONCE, trained
from gradprobe.comparison.ablation import Variant, variants
from gradprobe.comparison.experiments import load_experiment
from gradprobe.errors import GradprobeError
from gradprobe.probes import probe_of
from gradprobe.probes.contract import Subject
from gradprobe.probes.opened import operator_of
from gradprobe.probes.retention.result import RetentionResult
from gradprobe.settings import settings_from

PRESET = ROOT / "experiments" / "table5_ablation.toml"
TINY = {"steps": 1, "batch_size": 2, "images": 8}  # a kind of question each
DIGITS = ("correct", "unpruned", "kind")  # arrays of small numbers, kept as text


def settings(setup: Setup) -> dict[str, Any]:
    """Return budgets, seeds and sizes; the preset says the rest."""
    few = {"k": (11,), "seeds": (1, 2), **TINY}
    return {"preset": PRESET.name, **(few if setup.tiny else {"k": (11, 5, 22, 33), "seeds": tuple(range(1, 11))})}


def measure(setup: Setup, settings: dict[str, Any], report: Report) -> None:
    """Train every variant with some seeds side by side, then with the next ones, until the bound."""
    experiment = load_experiment(PRESET)
    questions = list(_questions([run.question for run in experiment.runs], settings))
    task = gp.vlm.captioning(questions[0]["backbone"], device=setup.device)
    probe, left_out = probe_of("retention"), 0
    asked: dict[str, list[tuple[dict[str, Any], Any]]] = {}
    for question in questions:
        key = {
            "op": question["op"],
            "denoiser": question.get("denoiser", "none"),
            "k": question["k"],
            "seed": question["seed"],
        }
        if report.has(**key):
            continue
        parts = {
            name: question.get(name, default) for name, default in (("scorer", "mlp:width=1"), ("denoiser", "none"))
        }
        subject = Subject(task.with_new_scorer(question["seed"], **parts), operator_of(question), question["k"])
        variant = repr(sorted((name, str(value)) for name, value in question.items() if name != "seed"))
        asked.setdefault(variant, []).append((key, (subject, settings_from(probe.settings, question))))
    longest = max(map(len, asked.values()), default=0)
    groups = [each[i : i + AT_ONCE] for i in range(0, longest, AT_ONCE) for each in asked.values() if each[i:]]
    for group in groups:
        if report.left <= 0:
            left_out += len(group)
            continue
        for (key, _), (result, seconds) in zip(group, trained([each for _, each in group]), strict=True):
            if isinstance(result, str):
                raise GradprobeError(f"{key['op']}, K = {key['k']}, seed {key['seed']}: {result}")
            report.row(key | {"seconds": round(seconds, 2), **_packed(result)})
    if left_out:
        report.missing.append(f"{left_out} of {len(questions)} trainings (variants x budgets x seeds)")
    report.line("trainings", f"{len(report.rows)} of {len(questions)}")
    for variant in variants([_result(row) for row in report.rows], experiment.paper):
        _line(report, variant)


def _questions(asked: list[dict[str, Any]], settings: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the preset's questions with other seeds and sizes, seed by seed, the fewest tokens first."""
    unseeded = [{name: value for name, value in each.items() if name != "seed"} for each in asked]
    plain = {repr(sorted(each.items())): each for each in unseeded if each["k"] in settings["k"]}
    for seed in settings["seeds"]:
        for question in sorted(plain.values(), key=lambda each: each["k"]):
            sizes = {name: settings[name] for name in TINY if name in settings and name in question}
            if not question["steps"]:  # a ranking is not trained
                sizes.pop("steps", None)
            yield {**question, **sizes, "seed": seed}


def _packed(result: RetentionResult) -> dict[str, Any]:
    """Return all that the table needs of a result, in few characters."""
    arrays = {name: "".join(map(str, getattr(result, name).astype(int))) for name in DIGITS}
    numbers = {
        "auc": float(result.auc.mean()) if len(result.auc) else None,
        "losses": [round(float(x), 5) for x in result.losses],
    }
    return {"question": result.question, **arrays, **numbers, "spread": result.spread.tolist()}


def _result(row: dict[str, Any]) -> RetentionResult:
    """Return the result that a row was made of, but for its curve."""
    arrays: dict[str, Any] = {name: np.array([int(digit) for digit in row[name]], np.uint8) for name in DIGITS}
    auc = np.zeros(0) if row["auc"] is None else np.full(len(arrays["correct"]), row["auc"])
    empty = np.zeros((0, 0), np.uint8)
    return RetentionResult(
        question=row["question"], losses=np.array(row["losses"]), at=np.zeros(0, int), curve=empty, auc=auc,
        spread=np.array(row["spread"]), environment={"seconds": row["seconds"]}, **arrays,
    )  # fmt: skip


def _line(report: Report, variant: Variant) -> None:
    """Add the retention of a variant in percent, and its distance from the full method with the fewest tokens."""
    cells = {k: cell.row for k, cell in sorted(variant.cells.items())}
    parts = [f"{100 * row['retention']:.1f} at K = {k}" for k, row in cells.items()]
    first = next(iter(cells.values()), None)
    if first is None:
        return
    if (above := first["difference"]) is not None:
        low, high = first["difference_low"], first["difference_high"]
        span = "" if low is None else f" [{100 * low:.1f}, {100 * high:.1f}]"
        parts.append(f"{100 * above:+.1f}{span} from the full method")
    count = len(first["seeds"])
    report.line(variant.name, f"{'; '.join(parts)} ({count} seed{'s' * (count > 1)})")
