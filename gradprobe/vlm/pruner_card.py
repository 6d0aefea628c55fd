"""Card of a pruner that was saved without a training run at hand, from what its files say."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gradprobe.plotting.escape import code_span, visible
from gradprobe.vlm.hub_card import LICENCE, code_in, front_matter, use_lines
from gradprobe.vlm.training.card import budget_text, card, result_of


def pruner_card(
    facts: Mapping[str, Any], plan: Mapping[str, Any], budget: Mapping[str, Any], name: str, licence: str = LICENCE
) -> str:
    """Return the ``README.md`` of a pruner.

    Losses and settings of its training are in it where the pruner is the one that was trained: with its budget, and
    without other selectors.

    Args:
        facts: Content of ``scorer.json``; empty without a scorer.
        plan: Content of ``plan.json``; empty where a scorer alone selects.
        budget: Content of ``budget.json``; empty without.
        name: Folder or id by which its examples open it.
        licence: Licence of the pruner, as the hub spells it.
    """
    if not plan:
        try:
            result = result_of(facts, Path(name))
            if all(facts.get(key) == result.config[key] for key in ("k", "ratio")):
                return card(result, "", name, licence)
        except (KeyError, TypeError, ValueError):
            pass  # a scorer of an unknown training
    model = str(plan.get("model") or facts.get("model") or facts.get("backbone"))
    used = selectors_in(plan)
    code = code_in([*used, *([str(facts["scorer"])] if "scorer" in facts else [])])
    many = _words(budget if plan else facts)
    how = f"chosen by {' and '.join(_stages(plan))}" if used else "those that a small scorer ranks first"
    lines = [
        front_matter(name, model, licence=licence),
        "",
        f"# A visual token pruner for {visible(model)}",
        "",
        f"It keeps {many}, {how}. The model itself is unchanged. No result of this pruner is known.",
        "",
        *use_lines(name, model, code),
        "",
    ]
    return "\n".join(lines)


def selectors_in(plan: Mapping[str, Any]) -> list[str]:
    """Return the names of the selectors in the content of a ``plan.json``.

    Example:
        >>> selectors_in({"stages": [{"selector": "scored"}, {"selector": "fastv"}]}), selectors_in({})
        (['scored', 'fastv'], [])
    """
    stages = plan.get("stages")
    return [str(stage["selector"]) for stage in stages if "selector" in stage] if isinstance(stages, list) else []


def _stages(plan: Mapping[str, Any]) -> list[str]:
    """Return the selectors of a plan and their places in words.

    Example:
        >>> _stages({"stages": [{"selector": "divprune", "layer": None}, {"selector": "fastv", "layer": 2}]})
        ['`divprune` before the language model', '`fastv` at its layer 2']
    """
    return [
        f"{code_span(stage.get('selector'))} "
        + ("before the language model" if stage.get("layer") is None else f"at its layer {stage['layer']}")
        for stage in plan["stages"]
    ]


def _words(budget: Mapping[str, Any]) -> str:
    if budget.get("average") is not None:
        return f"{budget['average']:g} tokens of each image, on average over the layers"
    if budget.get("k") is None and budget.get("ratio") is None:
        return "as many tokens as `plan.json` says"
    return budget_text({"k": budget.get("k"), "ratio": budget.get("ratio")})
