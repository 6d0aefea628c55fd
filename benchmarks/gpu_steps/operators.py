"""Every operator of the leaderboard with five seeds, on a real DeiT-Tiny where its weights are at hand."""

import statistics
import tomllib
from typing import Any

import gradprobe as gp
from gpu_steps.operators_by_seeds import operators_by_seeds
from gpu_steps.report import Report
from gpu_steps.step import ROOT, SAMPLE, TEST, TRAIN, WEIGHTS, Setup, typed
from gradprobe.comparison.experiments import REGISTERED
from gradprobe.core import Task
from gradprobe.operators.registry import registered

PRESET = ROOT / "experiments" / "leaderboard.toml"
FIRST = (
    "lapsum+vpnoise", "gumbel-ste+gather", "lapsum+scale", "lapsum+attention", "gumbel-ste:backward=soft+gather",
    "gumbel-softmax+dynamicvit", "decoupled-ste+dynamicvit", "plackett-luce+gather",
)  # fmt: skip
LAST = ("perturbed+scale", "relaxed-subset+scale", "neuralsort+scale", "simple+gather", "shiva+zero")  # the slow ones
K = 58
MODEL = "deit_tiny_patch16_224"
FULL: dict[str, dict[str, Any]] = {
    "retention": {"steps": 100, "batch_size": 32, "images": 400},
    "coherence": {"batches": 16, "batch_size": 16, "draws": 2},
    "fidelity": {"images": 64, "held_out": 128, "draws": 64, "ladder": (0.01,), "noise_draws": 8},
}
TINY: dict[str, dict[str, Any]] = {
    "retention": {"steps": 1, "batch_size": 2, "images": 2},
    "coherence": {"batches": 3, "batch_size": 1, "draws": 2},
    "fidelity": {"images": 3, "held_out": 3, "draws": 32, "sigmas": (1.0,), "ladder": (0.01,), "noise_draws": 3},
}


def settings(setup: Setup) -> dict[str, Any]:
    """Return model, operators, seeds and sizes."""
    names = ordered(asked())
    sizes, seeds = (TINY, (1,)) if setup.tiny else (FULL, (1, 2, 3, 4, 5))
    model = {"backbone": "scenes"}
    if setup.assets is not None and not setup.tiny:
        model = {"backbone": MODEL, "pictures": setup.assets.name}  # packed ones give other numbers
    return {**model, "k": K, "operators": names, "seeds": seeds, **sizes}


def asked() -> list[str]:
    """Return the operators of the leaderboard."""
    names = tomllib.loads(PRESET.read_text(encoding="utf-8"))["question"]["op"]
    return list(dict.fromkeys(op for name in names for op in (registered() if name == REGISTERED else [name])))


def ordered(names: list[str]) -> list[str]:
    """Return the operators with those of the paper first and the slow ones last.

    Example:
        >>> ordered(["simple+gather", "lapsum+mean", "gumbel-ste+gather"])
        ['gumbel-ste+gather', 'lapsum+mean', 'simple+gather']
    """
    place = {name: i - len(FIRST) for i, name in enumerate(FIRST)} | {name: i + 1 for i, name in enumerate(LAST)}
    return sorted(names, key=lambda name: place.get(name, 0))


def measure(setup: Setup, settings: dict[str, Any], report: Report) -> None:
    """Measure row after row until the bound."""
    wanted = len(settings["operators"]) * len(settings["seeds"])

    def skip(op: str, seed: int) -> bool:
        return report.has(op=op, seed=seed) or report.left <= 0

    sizes = {probe: typed(settings[probe]) for probe in FULL}
    tasks = _tasks(setup, settings["backbone"])
    for row in operators_by_seeds(tasks, settings["operators"], settings["seeds"], settings["k"], sizes, skip):
        report.row(row)
    if len(report.rows) < wanted:
        report.missing.append(f"{wanted - len(report.rows)} of {wanted} rows (operators x seeds)")
    report.line("rows", f"{len(report.rows)} of {wanted} on {settings['backbone']}, K = {settings['k']}")
    failed = {row["op"]: text for row in report.rows for name, text in row.items() if name.endswith("_error")}
    if failed:
        report.line("without a number", "; ".join(f"{op}: {text}" for op, text in failed.items()))
    for op in settings["operators"][: len(FIRST)]:
        _line(report, op)


def _tasks(setup: Setup, backbone: str) -> tuple[Task, Task]:
    """Open the task of training and that of gradients; without real pictures they are one."""
    if backbone == "scenes" or setup.assets is None:
        scenes = gp.classification("scenes", device=setup.device)
        return scenes, scenes
    weights, train, test, sample = (setup.assets / name for name in (WEIGHTS, TRAIN, TEST, SAMPLE))
    common: dict[str, Any] = {"weights": weights, "device": setup.device}
    trained = gp.classification(backbone, data=test, train_data=train, **common)
    return trained, gp.classification(backbone, data=sample, **common)


def _line(report: Report, op: str) -> None:
    rows = [row for row in report.rows if row["op"] == op]
    numbers = {
        name: [row[name] for row in rows if row.get(name) is not None] for name in ("retention", "coherence", "cosine")
    }
    if rows:
        text = ", ".join(f"{name} {_mean(values)}" for name, values in numbers.items())
        report.line(op, f"{text} ({len(rows)} seed{'s' * (len(rows) > 1)})")


def _mean(values: list[float]) -> str:
    """Return the mean over seeds and their range."""
    if not values:
        return "–"
    spread = f" ({min(values):.2f} to {max(values):.2f})" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}"
