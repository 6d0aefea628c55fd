"""Predictors in files, ``plan.predictor.safetensors``: tensors, and all else in the metadata; no code is run."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from gradprobe.errors import GradprobeError, UsageError, brief
from gradprobe.files import atomic_write, check_place, open_regular
from gradprobe.operators.registry import check_trusted, label, part
from gradprobe.ranges import SHARE
from gradprobe.vlm.search.kernels import kernel_of
from gradprobe.vlm.search.predictor import SAME, Network, Predictor
from gradprobe.vlm.search.relaxed import check_scored
from gradprobe.vlm.search.spending import Spending

SUFFIX = ".predictor.safetensors"
FORMAT = 1
_ENTRY = "gradprobe"  # of the metadata


def save_predictor(predictor: Predictor, path: Path | str) -> Path:
    """Write a predictor into a file that is there whole or not at all; its folder is made if need be.

    Raises:
        UsageError: The name does not end in ``.safetensors``, or cannot be written.
        GradprobeError: The file cannot be written.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise UsageError(f"{path} is no name of a predictor; it must end in .safetensors: {path.stem}{SUFFIX}")
    spending, network = predictor.spending, predictor.network
    facts = {
        "format": FORMAT,
        "selector": label(predictor.selector),
        "kernel": predictor.kernel.label,
        "budgets": list(predictor.budgets),
        "spending": [list(spending.weights), spending.pair, spending.tokens, spending.text],
        "model": dict(predictor.metadata),
    }
    tensors = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    content = save(tensors, metadata={_ENTRY: json.dumps(facts, sort_keys=True)})
    check_place(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, content)
    except OSError as error:
        raise GradprobeError(f"cannot write {path}: {error.strerror or error}; name another file") from None
    return path


def load_predictor(path: Path | str, trust: Collection[Path | str] = ()) -> Predictor:
    """Read a predictor.

    Args:
        path: File that `save_predictor` or ``gradprobe vlm search --predictor`` wrote.
        trust: Python files that it may name as its selector and that may run.

    Raises:
        UsageError: There is no such file, or it names Python code that is not trusted.
        GradprobeError: It holds no predictor, or one of other shapes than it says.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(
            f"there is no predictor {path}; make one: gradprobe vlm search --predictor --select fastv --budget 0.3,0.5 "
            "--out plan.json"
        )
    try:
        with open_regular(path) as file:
            content = file.read()
        tensors = load(content)
        length = int.from_bytes(content[:8], "little")
        facts: dict[str, Any] = json.loads(json.loads(content[8 : 8 + length])["__metadata__"][_ENTRY])
        if facts["format"] != FORMAT:
            raise ValueError(f"format is {facts['format']}; this version of gradprobe reads format {FORMAT}")
        check_trusted("selector", facts["selector"], path, trust)
        return _made(facts, tensors)
    except UsageError:
        raise
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise GradprobeError(f"{path} holds no predictor that can be read ({brief(error)}); train it again") from None


def _made(facts: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Predictor:
    """Return the predictor of a file's content.

    Raises:
        ValueError: Something in it is not possible; and what the conversion of wrong types raises.
    """
    weights, pair, tokens, text = facts["spending"]
    spending = Spending(tuple(map(int, weights)), int(pair), int(tokens), int(text))
    least, most = map(float, facts["budgets"])
    if spending.layers < 2 or min(*spending.weights, pair, tokens) < 1 or text < 0:
        raise ValueError("its FLOPs are those of no language model")
    if not (SHARE.holds(least) and SHARE.holds(most) and least <= most):
        raise ValueError(f"its budgets are {least} to {most}")
    model = {name: facts["model"][name] for name in ("model", *SAME)}
    try:
        selector, kernel = part("selector", facts["selector"]), kernel_of(facts["kernel"])
        check_scored(selector)
        kernel.check(spending.layers)
    except UsageError as error:
        raise ValueError(str(error)) from None
    numbers = len(kernel.start(spending.layers, 0.5, 0.5))
    dim, width = int(model["dim"]), len(tensors["image.bias"])
    if wrong := [name for name, value in tensors.items() if not bool(value.isfinite().all())]:
        raise ValueError(f"{wrong[0]} holds numbers that are not finite")
    with torch.device("meta"):  # the shapes alone, whatever the sizes that it states
        blank = Network(dim, numbers, width)
    wanted = {name: (value.shape, value.dtype) for name, value in blank.state_dict().items()}
    there = {name: (value.shape, value.dtype) for name, value in tensors.items()}
    if wrong := [name for name in sorted({*wanted, *there}) if wanted.get(name) != there.get(name)]:
        shapes = [tuple(each[wrong[0]][0]) if wrong[0] in each else "missing" for each in (there, wanted)]
        raise ValueError(f"{wrong[0]} is {shapes[0]}, and {shapes[1]} is expected")
    blank.load_state_dict(tensors, assign=True)
    return Predictor(blank.requires_grad_(False).eval(), selector, kernel, spending, (least, most), model)
