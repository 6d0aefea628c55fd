"""``gradprobe vlm generate``: answers of a pruned model about images."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from gradprobe.cli import options
from gradprobe.cli.output import say, say_json, say_lines
from gradprobe.errors import UsageError


def generate(
    pruner: Annotated[Path, typer.Option(help="Folder of a trained pruner, as vlm train --out wrote it.")],
    image: Annotated[list[Path], typer.Option(help="An image file, repeatable.")],
    prompt: Annotated[
        str, typer.Option(help="The question; with the model's image placeholders in it, it is taken as it is.")
    ],
    model: Annotated[str | None, typer.Option(help="Hub id or folder; the model it was trained on by default.")] = None,
    k: Annotated[int | None, typer.Option(help="Tokens kept an image; instead of the pruner's own budget.")] = None,
    ratio: Annotated[float | None, typer.Option(help="Tokens kept as a share of N in (0, 1]; instead of --k.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Largest number of new tokens.")] = 64,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ..., or auto: spread over all devices.")] = "cpu",
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16; float32 on a CPU, else bfloat16.")
    ] = None,
    trust: options.Trust = None,
    as_json: options.Json = False,
) -> None:
    """Answer a prompt about images from the visual tokens that a trained scorer keeps."""
    if max_new_tokens < 1:
        raise UsageError(f"--max-new-tokens {max_new_tokens} is not possible; give a whole number of at least 1")
    pictures = [options.opened_image(path) for path in image]

    from gradprobe.vlm.deploy import Budget, inputs_of, load

    pruned = load(pruner, model, device, dtype, options.trusted(trust))
    if k is not None or ratio is not None:
        pruned = replace(pruned, budget=Budget(k, ratio))
    inputs = inputs_of(pruned.vlm, pictures, prompt)
    ids = pruned.generate(inputs, max_new_tokens=max_new_tokens, options={"do_sample": False})
    new = ids[0, inputs["input_ids"].shape[1] :]
    tokenizer: Any = getattr(pruned.vlm.processor, "tokenizer", None)
    text = tokenizer.decode(new, skip_special_tokens=True).strip()
    features = pruned.vlm.vision_features(inputs)
    kept, counts = [index.tolist() for index in pruned.choose(features)], [len(tokens) for tokens in features.tokens]
    if as_json:
        settings = {"pruner": str(pruner), "model": pruned.vlm.name, "k": pruned.budget.k, "ratio": pruned.budget.ratio}
        say_json({"settings": settings, "text": text, "new_tokens": new.tolist(), "tokens": counts, "kept": kept})
        return
    say_lines(text)
    shares = ", ".join(f"{len(index)} of {n}" for index, n in zip(kept, counts, strict=True))
    say(f"{pruned.vlm.name} read {shares} visual tokens", err=True)
