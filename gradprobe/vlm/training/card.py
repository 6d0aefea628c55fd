"""Facts about a training for ``scorer.json``, and the model card."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gradprobe.plotting.escape import code_span, visible
from gradprobe.statistics.estimates import Estimate
from gradprobe.vlm.hub_card import LICENCE, code_in, front_matter, use_lines
from gradprobe.vlm.training.conclusion import conclusion, gain_facts
from gradprobe.vlm.training.result import TrainingResult, Validation

_SETTINGS = (  # names and descriptions of the settings on the card
    ("op", "operator"), ("scorer", "scorer"), ("denoiser", "denoiser (training only)"), ("batch_size", "images a step"),
    ("learning_rate", "learning rate, falling to 0 by a cosine"), ("weight_decay", "weight decay of AdamW"),
    ("tau_start", "temperature of the first step"), ("tau_end", "temperature that it falls to"),
    ("tau_steps", "in so many steps"), ("dtype", "precision of the frozen model"), ("seed", "seed"),
)  # fmt: skip
_LOSSES = (
    ("unpruned", "all tokens"),
    ("deployed", "kept by this pruner"),
    ("random", "as many at random"),
    ("training", "through the operator at its last temperature, with noise and denoiser"),
)


def facts(result: TrainingResult) -> dict[str, Any]:
    """Return the entries of ``scorer.json`` beside those about the model, in JSON types."""
    config = result.config
    budget = {name: config[name] for name in ("k", "ratio") if config[name] is not None}
    training = {
        "question": config, "steps": result.steps, "planned_steps": result.planned, "best_step": result.step,
        "losses": result.losses, "training_loss": result.training_loss, "parameters": result.parameters,
        "seconds": round(result.seconds, 1), "examples": result.examples, "skipped": list(result.skipped),
        "validations": [[v.step, v.loss, v.deployed] for v in result.validations], **gain_facts(result.over_random),
    }  # fmt: skip
    return {**budget, "op": config["op"], "scorer": config["scorer"], "training": training}


def result_of(facts: Mapping[str, Any], out: Path) -> TrainingResult:
    """Return the result that `facts` described, of a pruner that lies in a folder.

    Raises:
        KeyError: An entry is missing.

    Example:
        >>> config = {"k": 64, "ratio": None, "op": "lapsum+vpnoise", "scorer": "mlp"}
        >>> result = TrainingResult(Path("a"), config, 9, 9, 8, (), {}, 1.5, {}, 60.0, (), {"held_out": 0, "seen": 9})
        >>> result_of(facts(result), Path("a")) == result
        True
    """
    training = facts["training"]
    gain = training.get("over_random")
    return TrainingResult(
        out=out,
        config=training["question"],
        steps=training["steps"],
        planned=training["planned_steps"],
        step=training["best_step"],
        validations=tuple(Validation(*each) for each in training["validations"]),
        losses=training["losses"],
        training_loss=training["training_loss"],
        parameters=training["parameters"],
        seconds=training["seconds"],
        skipped=tuple(training["skipped"]),
        examples=training["examples"],
        over_random=gain and Estimate(*[math.nan if x is None else x for x in gain]),
    )


def budget_text(config: dict[str, Any]) -> str:
    """Return the budget in words.

    Example:
        >>> budget_text({"k": 64, "ratio": None}), budget_text({"k": None, "ratio": 0.111})
        ('64 tokens an image', '11.1 % of the tokens of each image')
    """
    if config["k"] is not None:
        return f"{config['k']} token{'s' * (config['k'] > 1)} an image"
    return f"{100 * config['ratio']:g} % of the tokens of each image"


def loss_rows(result: TrainingResult) -> list[tuple[str, float]]:
    """Return the losses on held-out captions with their descriptions."""
    return [(text, result.losses[name]) for name, text in _LOSSES if name in result.losses]


def card(result: TrainingResult, command: str = "", name: str = "", licence: str = LICENCE) -> str:
    """Return the ``README.md`` of a pruner's folder, with the front matter that the Hugging Face hub reads.

    Args:
        result: Result of the training.
        command: Command line of the training; empty: it was started from Python.
        name: Folder or id by which its examples open it; empty: the folder's own name.
        licence: Licence of the pruner, as the hub spells it.
    """
    config, rows = result.config, loss_rows(result)
    name = name or result.out.absolute().name
    early = f" of {result.planned} planned: validation stopped it" if result.steps < result.planned else ""
    counts = ", ".join(f"{name} {count:,} parameters" for name, count in result.parameters.items())
    chosen = [(text, code_span(config[name])) for name, text in _SETTINGS if config.get(name) is not None]
    settings = [f"| {text} | {value.replace('|', chr(92) + '|')} |" for text, value in chosen]
    measured = [f"| {text} | {loss:.4f} |" for text, loss in rows]
    if rows:
        held = f"Mean caption loss, in nats a token, on {result.examples['held_out']} held-out captions:"
        measured = [held, "", "| the model reads | loss |", "| --- | --- |", *measured]
        measured += ["", f"{verdict[:1].upper()}{verdict[1:]}."] if (verdict := conclusion(result)) else []
    fence = "`" * max(3, max(map(len, re.findall("`+", command)), default=0) + 1)
    lines = [
        front_matter(name, config["backbone"], rows, result.examples["held_out"], config["data"], licence),
        "",
        f"# A visual token pruner for {visible(config['backbone'])}",
        "",
        f"It keeps {budget_text(config)}, those that a small scorer ranks first, in their order and at their",
        "positions. The scorer was trained with gradprobe by the caption loss alone; the model itself is unchanged.",
        "",
        *(measured or ["There was no validation: nothing was measured beside the loss of training."]),
        "",
        *use_lines(name, config["backbone"], code_in([config["scorer"]])),
        "",
        "## Training",
        "",
        f"Steps: {result.steps}{early}; the scorer is that of step {result.step}. Data: {visible(config['data'])},",
        f"{result.examples['seen']} captioned images seen, some perhaps more than once. {counts}.",
        f"Time: {result.seconds / 3600:.2f} h.",
        *(["", f"Passed over: {visible('; '.join(result.skipped))}."] if result.skipped else []),
        "",
        *("| setting | |", "| --- | --- |", *settings),
        *(["", "Made by:", "", fence, visible(command), fence] if command else []),
        "",
        "`scorer.safetensors` holds the scorer alone. `checkpoint.safetensors` and `log.jsonl`, where they lie beside",
        "it, are of the training and may be deleted.",
        "",
    ]
    return "\n".join(lines)
