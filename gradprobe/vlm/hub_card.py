"""Parts of a pruner's ``README.md`` that the hub and its visitors read: front matter, and a block that runs."""

import json
import math
import re
import shlex
from collections.abc import Sequence
from typing import Any

from gradprobe.embedded.vlms import VLMS
from gradprobe.plotting.escape import visible
from gradprobe.vlm.hub import hub_id

LICENCE = "apache-2.0"
TASK = "image-text-to-text"
_FENCE = "`" * 3
_TEXT = r"\"(?:[^\"\\]|\\.)*\""
_NAMED = re.compile(rf"(?P<call>gp\.vlm\.(?:load|Pruner\.from_pretrained)\(){_TEXT}")
_TYPED = re.compile(r"(?P<call>gradprobe vlm generate --pruner )(?:'[^']*'|[^\s']+)")


def front_matter(
    name: str,
    model: str,
    losses: Sequence[tuple[str, float]] = (),
    held_out: int = 0,
    data: str = "",
    licence: str = LICENCE,
) -> str:
    """Return the front matter of a card, with the lines that enclose it.

    Args:
        name: Name of the pruner in the index of results.
        model: Model that it was made for; named where it is one of the hub.
        losses: Descriptions and mean caption losses on held-out captions.
        held_out: Number of these captions.
        data: Data of the training; named where they are of the hub.
        licence: Licence of the pruner, as the hub spells it.

    Example:
        >>> print(front_matter("mine", "llava-hf/llava-1.5-7b-hf"))
        ---
        base_model: llava-hf/llava-1.5-7b-hf
        library_name: gradprobe
        license: apache-2.0
        pipeline_tag: image-text-to-text
        tags:
        - visual-token-pruning
        base_model_relation: adapter
        ---
    """
    from huggingface_hub import EvalResult, ModelCardData

    base, dataset = hub_id(model), hub_id(data)
    results = [
        EvalResult(
            task_type=TASK,
            dataset_type=dataset or "captions",
            dataset_name=f"{held_out} held-out captions",
            metric_type="loss",
            metric_name=f"caption loss, nats a token; the model reads: {text}",
            metric_value=round(loss, 6),
        )
        for text, loss in losses
        if math.isfinite(loss)  # others are no numbers in JSON
    ]
    card: Any = ModelCardData(
        base_model=base,
        datasets=dataset and [dataset],
        license=licence,
        library_name="gradprobe",
        pipeline_tag=TASK,
        tags=["visual-token-pruning"],
        model_name=visible(name) if results else None,
        eval_results=results or None,
        base_model_relation=base and "adapter",
    )
    return f"---\n{card.to_yaml()}\n---"


def code_in(names: Sequence[str]) -> list[str]:
    """Return the Python files among the names of scorers or selectors.

    Example:
        >>> code_in(["mlp:width=8", "mine.py:Scorer:width=8"])
        ['mine.py']
    """
    files = [name.partition(":")[0].strip() for name in names]
    return sorted({file for file in files if file.endswith(".py")})


def use_lines(name: str, model: str, code: Sequence[str] = ()) -> list[str]:
    """Return the section that says how to use a pruner; what it shows runs as it stands.

    Args:
        name: Folder or id on the hub.
        model: Model that opens with it.
        code: Python files that its selectors come from.
    """
    question = "is there a red seven ?" if model in VLMS else "Describe the image briefly."
    trust = f", trust={[visible(file) for file in code]}" if code else ""
    typed = "".join(f" --trust {shlex.quote(visible(file))}" for file in code)
    needs = f"The code of its selectors is not part of it: it lies in {visible(', '.join(code))}." if code else ""
    return [
        "## Use",
        "",
        *([needs, ""] if needs else []),
        f"{_FENCE}python",
        "import gradprobe as gp",
        "from gradprobe.vlm.deploy import inputs_of",
        "from PIL import Image",
        "",
        f'pruned = gp.vlm.Pruner.from_pretrained({_quoted(name)}{trust})  # device="cuda" on a GPU',
        'image = Image.new("RGB", (336, 336), "red")  # or Image.open("photo.jpg")',
        f'inputs = inputs_of(pruned.vlm, [image], "{question}")',
        "ids = pruned.generate(inputs, max_new_tokens=32)",
        'print(pruned.vlm.processor.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0])',
        _FENCE,
        "",
        "On the command line, with any picture as `photo.jpg`:",
        "",
        f"{_FENCE}sh",
        f'gradprobe vlm generate --pruner {_typed(name)}{typed} --image photo.jpg --prompt "{question}"',
        _FENCE,
        "",
        f"Both open {visible(model)}. It needs `pip install 'gradprobe[vlm]'`.",
    ]


def renamed(text: str, name: str) -> str:
    """Return a card whose examples open another folder or repository.

    Example:
        >>> renamed('pruned = gp.vlm.Pruner.from_pretrained("out")  # opens it', "user/name")
        'pruned = gp.vlm.Pruner.from_pretrained("user/name")  # opens it'
    """
    text = _NAMED.sub(lambda match: match["call"] + _quoted(name), text)
    return _TYPED.sub(lambda match: match["call"] + _typed(name), text)


def completed(text: str, fresh: str, licence: str | None = None, datasets: Sequence[str] = ()) -> str:
    """Return a card with the entries that its front matter lacks.

    Args:
        text: Card, perhaps edited by hand.
        fresh: Card that this program writes for the pruner.
        licence: Licence that replaces that of the card; None: it stays.
        datasets: Ids of data on the hub that replace those of the card; empty: they stay.

    Raises:
        ValueError: The front matter of the card cannot be read.
    """
    from huggingface_hub import ModelCard

    wanted = ModelCard(fresh).data.to_dict()
    try:
        card = ModelCard(text, ignore_metadata_errors=True)
    except Exception as error:  # of the parser of YAML
        raise ValueError(f"the front matter of README.md: {error}") from None
    before = card.data.to_dict()
    base = card.data.get("base_model")
    if isinstance(base, str) and hub_id(base) is None:  # the hub refuses what is no id
        card.data.pop("base_model")
    for entry in ("license", "library_name", "pipeline_tag", "tags", "base_model", "datasets"):
        if entry in wanted and card.data.get(entry) is None:
            card.data[entry] = wanted[entry]
    if licence is not None:
        card.data["license"] = licence
    if datasets:
        card.data["datasets"] = list(datasets)
    return text if card.data.to_dict() == before else str(card)


def _quoted(name: str) -> str:
    return json.dumps(visible(name))


def _typed(name: str) -> str:
    return shlex.quote(visible(name))
