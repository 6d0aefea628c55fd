"""``gradprobe vlm generate``: answers of a pruned model about images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from gradprobe.cli import options
from gradprobe.cli.output import say, say_json, say_lines
from gradprobe.cli.vlm_selected import DEFAULT, Average, Positions, Select, Selected, Trained
from gradprobe.errors import UsageError


def generate(
    image: Annotated[list[Path], typer.Option(help="An image file, repeatable.")],
    prompt: Annotated[
        str, typer.Option(help="The question; with the model's image placeholders in it, it is taken as it is.")
    ],
    pruner: Trained = None,
    select: Select = None,
    model: Annotated[
        str | None, typer.Option(help=f"Hub id or folder; by default the model of the pruner, or {DEFAULT}.")
    ] = None,
    k: Annotated[int | None, typer.Option(help="Tokens kept an image; instead of the pruner's own budget.")] = None,
    ratio: Annotated[float | None, typer.Option(help="Tokens kept as a share of N in (0, 1]; instead of --k.")] = None,
    average: Average = None,
    positions: Positions = None,
    max_new_tokens: Annotated[int, typer.Option(help="Largest number of new tokens.")] = 64,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ..., or auto: spread over all devices.")] = "cpu",
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16; float32 on a CPU, else bfloat16.")
    ] = None,
    trust: options.Trust = None,
    as_json: options.Json = False,
) -> None:
    """Answer a prompt about images from the visual tokens that a trained scorer or other selectors keep."""
    if max_new_tokens < 1:
        raise UsageError(f"--max-new-tokens {max_new_tokens} is not possible; give a whole number of at least 1")
    pictures = [options.opened_image(path) for path in image]
    selected = Selected(pruner, select, model, k, ratio, average, positions)
    pruned = selected.opened_for(pictures, prompt, device, dtype, options.trusted(trust))

    from gradprobe.vlm.deploy import inputs_of

    inputs = inputs_of(pruned.vlm, pictures, prompt)
    sizes = [len(tokens) for tokens in pruned.vlm.vision_features(inputs).tokens]
    counts = [pruned.counts(n) for n in sizes]
    ids = pruned.generate(inputs, max_new_tokens=max_new_tokens, options={"do_sample": False})
    new = ids[0, inputs["input_ids"].shape[1] :]
    tokenizer: Any = getattr(pruned.vlm.processor, "tokenizer", None)
    text = tokenizer.decode(new, skip_special_tokens=True).strip()
    kept = [index.tolist() for index in pruned.kept(inputs)[0]]
    each = [sum(n) for n in zip(*(count.layers for count in counts), strict=True)]  # tokens that each layer reads
    words = inputs["input_ids"].shape[1] - sum(sizes)
    share = _share(pruned.vlm, each, words, sum(sizes))
    if as_json:
        settings: dict[str, Any] = {
            "pruner": pruner,
            "select": pruned.plan.label,
            "model": pruned.vlm.name,
        }
        settings |= {"k": k, "ratio": ratio, "average": average, "positions": pruned.plan.positions}
        if pruned.budget is not None:
            settings |= {"k": pruned.budget.k, "ratio": pruned.budget.ratio, "average": pruned.budget.average}
        told = {"text": text, "new_tokens": new.tolist(), "tokens": sizes, "kept": kept, "layers": each}
        left = pruned.left(inputs)[0].tolist() if pruned.plan.inside else None
        say_json({"settings": settings, **told, "left": left, "prefill_share": share})
        return
    say_lines(text)
    say(f"{pruned.vlm.name} read {_shares(kept, sizes)} visual tokens", err=True)
    if pruned.plan.inside:
        runs = "; ".join(count.text for count in counts)  # of each image
        say(f"tokens x layers: {runs}; average {sum(each) / len(each):.1f} of {sum(sizes)} a layer", err=True)
    say(f"prefill of the language model: {100 * share:.1f} % of the unpruned FLOPs", err=True)


def _shares(kept: Sequence[list[int]], sizes: Sequence[int]) -> str:
    return ", ".join(f"{len(index)} of {n}" for index, n in zip(kept, sizes, strict=True))


def _share(vlm: Any, layers: Sequence[int], words: int, tokens: int) -> float:
    """Return the FLOPs of the prefill over those with all visual tokens."""
    from gradprobe.vlm.costs.prefill import prefill_flops

    return prefill_flops(vlm, [n + words for n in layers]) / prefill_flops(vlm, [tokens + words] * len(layers))
