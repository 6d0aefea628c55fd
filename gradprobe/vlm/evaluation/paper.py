"""The paper's rows of the same benchmarks: Tables 1 to 3, as the presets quote them (no torch)."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isnan
from pathlib import Path
from typing import Any

from gradprobe.files import open_regular
from gradprobe.store.presets import FOLDER
from gradprobe.store.presets import HOMES as OWN

PRESETS = {"llava_next": "table2_llavanext", "qwen2_5_vl": "table3_qwen"}  # family -> preset
OTHERS = "table1_llava15"
HOMES = (Path(FOLDER), *OWN)


@dataclass(frozen=True)
class Quoted:
    """Rows of one of the paper's tables at one pruning rate.

    Attributes:
        title: Table, model and rate.
        rows: For each method the share of the unpruned score that is retained, by benchmark; one without a number is
            left out.
        contested: Methods whose numbers are contested, with the objection.
    """

    title: str
    rows: Mapping[str, Mapping[str, float]]
    contested: Mapping[str, str] = field(default_factory=dict)


def quoted(family: str, share: float, homes: tuple[Path, ...] = HOMES) -> Quoted | None:
    """Return the paper's rows for a family of models, at the rate that is nearest to a share of tokens.

    Args:
        family: Name of the model's family; one that the paper does not have is set beside LLaVA-1.5.
        share: Average tokens that a layer reads, over all of the image's.
        homes: Folders of presets, searched in order.

    Returns:
        None where no preset is there.
    """
    name = f"{PRESETS.get(family, OTHERS)}.toml"
    path = next((home / name for home in homes if (home / name).is_file()), None)
    if path is None:
        return None
    with open_regular(path) as file:
        head, *methods = tomllib.loads(file.read().decode())["paper"]
    place = min(range(len(head["rate"])), key=lambda i: abs(1 - head["rate"][i] / 100 - share))
    rows: dict[str, dict[str, float]] = {}
    contested: dict[str, str] = {}
    for method in methods:
        if len(method.get("scores", ())) > place:
            rows[method["method"]] = _shares(head, method["scores"][place])
            if method.get("contested"):
                contested[method["method"]] = method["contested"]
    title = f"{head['source']}, {head['model']} at {100 - head['rate'][place]:.1f} % of its tokens, beside this run"
    return Quoted(title, rows, contested)


def _shares(head: Mapping[str, Any], scores: list[float]) -> dict[str, float]:
    triples = zip(head["benchmarks"], scores, head["unpruned"], strict=True)
    return {name: score / whole for name, score, whole in triples if not isnan(score)}
