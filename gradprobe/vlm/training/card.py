"""What a trained pruner says of itself: the facts in ``scorer.json``, and a model card to read."""

import json
import re
from typing import Any

from gradprobe.plotting.escape import code_span, visible
from gradprobe.vlm.training.conclusion import conclusion, gain_facts
from gradprobe.vlm.training.result import TrainingResult

_SETTINGS = (  # what the card lists, and how it calls them
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


def facts(trained: TrainingResult) -> dict[str, Any]:
    """What ``scorer.json`` holds beside what the model says of itself, in JSON types.

    Args:
        trained: what came of the training.
    """
    question = trained.config
    budget = {name: question[name] for name in ("k", "ratio") if question[name] is not None}
    kept = {
        "question": question, "steps": trained.steps, "planned_steps": trained.planned, "best_step": trained.step,
        "losses": trained.losses, "training_loss": trained.training_loss, "parameters": trained.parameters,
        "seconds": round(trained.seconds, 1), "examples": trained.examples, "skipped": list(trained.skipped),
        "validations": [[v.step, v.loss, v.deployed] for v in trained.validations], **gain_facts(trained.over_random),
    }  # fmt: skip
    return {**budget, "op": question["op"], "scorer": question["scorer"], "training": kept}


def budget_text(question: dict[str, Any]) -> str:
    """How many tokens are kept, in words.

    Example:
        >>> budget_text({"k": 64, "ratio": None}), budget_text({"k": None, "ratio": 0.111})
        ('64 tokens an image', '11.1 % of the tokens of each image')
    """
    if question["k"] is not None:
        return f"{question['k']} token{'s' * (question['k'] > 1)} an image"
    return f"{100 * question['ratio']:g} % of the tokens of each image"


def loss_rows(trained: TrainingResult) -> list[tuple[str, float]]:
    """The losses on held-out captions and what they are of, those that there are."""
    return [(text, trained.losses[name]) for name, text in _LOSSES if name in trained.losses]


def card(trained: TrainingResult, command: str = "") -> str:
    """The ``README.md`` of a pruner's folder, with the front matter that the Hugging Face hub reads.

    Args:
        trained: what came of the training.
        command: the line that made it; empty: the training was started from Python.
    """
    question, rows = trained.config, loss_rows(trained)
    early = f" of {trained.planned} planned: validation stopped it" if trained.steps < trained.planned else ""
    counts = ", ".join(f"{name} {count:,} parameters" for name, count in trained.parameters.items())
    chosen = [(told, code_span(question[name])) for name, told in _SETTINGS if question.get(name) is not None]
    settings = [f"| {told} | {value.replace('|', chr(92) + '|')} |" for told, value in chosen]
    measured = [f"| {text} | {loss:.4f} |" for text, loss in rows]
    if rows:
        held = f"Mean caption loss, in nats a token, on {trained.examples['held_out']} held-out captions:"
        measured = [held, "", "| the model reads | loss |", "| --- | --- |", *measured]
        measured += ["", f"{said[:1].upper()}{said[1:]}."] if (said := conclusion(trained)) else []
    fence = "`" * max(3, max(map(len, re.findall("`+", command)), default=0) + 1)
    lines = [
        *(
            "---",
            "library_name: gradprobe",
            f"base_model: {_yaml(question['backbone'])}",
            "tags: [visual-token-pruning]",
            "---",
        ),
        "",
        f"# A visual token pruner for {visible(question['backbone'])}",
        "",
        f"It keeps {budget_text(question)}, those that a small scorer ranks first, in their order and at their",
        "positions. The scorer was trained with gradprobe by the caption loss alone; the model itself is unchanged.",
        "",
        *(measured or ["There was no validation: nothing was measured beside the loss of training."]),
        "",
        "## Training",
        "",
        f"Steps: {trained.steps}{early}; the scorer is that of step {trained.step}. Data: {visible(question['data'])},",
        f"{trained.examples['seen']} captioned images seen, some perhaps more than once. {counts}.",
        f"Time: {trained.seconds / 3600:.2f} h.",
        *(["", f"Passed over: {visible('; '.join(trained.skipped))}."] if trained.skipped else []),
        "",
        *("| setting | |", "| --- | --- |", *settings),
        *(["", "Made by:", "", fence, visible(command), fence] if command else []),
        "",
        "## Use",
        "",
        "```python",
        "import gradprobe as gp",
        "",
        f"pruned = gp.vlm.load({json.dumps(trained.out.name)})  # opens {visible(question['backbone'])} too",
        "ids = pruned.generate(inputs)  # as the model's processor returns them",
        "```",
        "",
        "`scorer.safetensors` holds the scorer alone. `checkpoint.safetensors` and `log.jsonl`, where they lie beside",
        "it, are of the training and may be deleted.",
        "",
    ]
    return "\n".join(lines)


def _yaml(name: str) -> str:
    """A name as a value of YAML: bare if that is safe, else in quotes, as JSON writes them."""
    return name if re.fullmatch(r"[A-Za-z][\w./-]*", name, re.ASCII) else json.dumps(name)
