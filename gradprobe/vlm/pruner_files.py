"""Folder of a pruner: its scorer, its plan, its budget and its card; read, written, and made ready for the hub.

A trained scorer lies in ``scorer.safetensors`` and ``scorer.json``, as training writes them, with its budget. Selectors
without training lie in ``plan.json``, with the budget that is asked of them in ``budget.json``. A plan with a stage
``scored`` has both; then the plan counts.
"""

import json
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradprobe.errors import GradprobeError, Notice, UsageError
from gradprobe.files import atomic_write, open_regular
from gradprobe.models.scored import Scored
from gradprobe.models.scorer_file import Scorer, save_scorer, scorer_path
from gradprobe.operators.registry import part
from gradprobe.selectors.plan import Plan, load_plan, save_plan
from gradprobe.vlm.budgets import Budget
from gradprobe.vlm.hub import CARD, FILES, PLAN, SCORER, holds_pruner
from gradprobe.vlm.hub_card import LICENCE, completed, renamed
from gradprobe.vlm.pruner_card import pruner_card, selectors_in

if TYPE_CHECKING:
    from gradprobe.vlm.pruner import Pruner

BUDGET = "budget.json"


def save_pruner(pruner: "Pruner", folder: Path | str, name: str = "", licence: str = LICENCE) -> Path:
    """Write a pruner into a folder, which is made if need be.

    A card that this program wrote for what was there is written anew; one with other words in it stays, with a `Notice`
    where it describes what was there.

    Args:
        pruner: Of selectors that have a name. A scorer that was not loaded is named in its ``metadata``, as in
            ``{"scorer": "mlp:width=8"}``.
        folder: Folder to write to.
        name: Folder or id by which the examples of the card open it; empty: the folder's own name.
        licence: Licence of the pruner, as the hub spells it.

    Raises:
        UsageError: A selector that has no name, a scorer that its name does not make, no budget, or a folder with
            another pruner.
        GradprobeError: The folder cannot be written.
    """
    if not str(folder):
        raise UsageError("an empty text names no folder; give one, such as my-pruner")
    folder, plan, budget = Path(folder), pruner.plan, pruner.budget
    given = {} if budget is None else {key: value for key, value in asdict(budget).items() if value is not None}
    first = plan.stages[0]
    alone = _is_scored(first) and plan == Plan((replace(first, layer=None, keep=None),))
    if alone and budget is None:
        raise UsageError("the pruner says nowhere how many tokens it keeps; give Pruner(..., budget=gp.vlm.Budget(64))")
    network, metadata = _named_scorer(pruner)
    files = set() if network is None else {SCORER, "scorer.json"}
    if not alone:
        files |= {PLAN, BUDGET} if given else {PLAN}
    if others := [file for file in FILES if file not in {*files, CARD} and (folder / file).exists()]:
        raise UsageError(f"{folder} holds another pruner ({', '.join(others)}); name another folder")
    name = name or folder.absolute().name
    before = _card_of(folder, name, licence)
    if not alone:
        stages = tuple(replace(each, selector=Scored()) if _is_scored(each) else each for each in plan.stages)
        layers = pruner.layers if plan.inside else None
        save_plan(replace(plan, stages=stages), folder / PLAN, model=pruner.vlm.name, layers=layers)
    if network is not None:
        bare = {key: value for key, value in metadata.items() if key not in asdict(Budget(k=1))}
        save_scorer(network, folder, bare | given if alone else bare)
    try:
        if BUDGET in files:
            atomic_write(folder / BUDGET, (json.dumps(given, indent=2) + "\n").encode())
        _write_card(folder, _card(folder, name, licence), before)
    except OSError as error:
        raise GradprobeError(f"cannot write to {folder}: {error.strerror or error}; name another folder") from None
    return folder


def plan_in(folder: Path, trust: Collection[Path | str] = ()) -> Plan | None:
    """Return the plan of a folder; None where a scorer alone selects, and a plan beside it does not use it.

    Args:
        folder: Folder of a pruner.
        trust: Python files that the plan may name and that may run.

    Raises:
        UsageError: The plan names Python code that is not trusted.
        GradprobeError: The plan cannot be read.
    """
    return load_plan(folder / PLAN, trust) if _plan_content(folder) else None


def budget_in(folder: Path) -> Budget | None:
    """Return the budget that lies beside a plan; None without.

    Raises:
        GradprobeError: It cannot be read.
    """
    if not (folder / BUDGET).exists():
        return None
    content = _content(folder / BUDGET)
    try:
        return Budget(**content)
    except (TypeError, UsageError) as error:
        raise GradprobeError(f"{folder / BUDGET} holds no budget that can be read ({error}); save it again") from None


def stage_files(folder: Path, into: Path, name: str, licence: str | None = None, datasets: Sequence[str] = ()) -> None:
    """Copy the files of a pruner as they are, and its card with the name that the pruner will have.

    Args:
        folder: Folder with a pruner.
        into: Empty folder.
        name: Id on the hub.
        licence: Licence; None: that of the card, else `LICENCE`.
        datasets: Ids of the data on the hub that the pruner was trained on; empty: those of the card.

    Raises:
        GradprobeError: A file cannot be read.
    """
    try:
        for file in FILES:
            if file != CARD and (folder / file).is_file():
                (into / file).write_bytes((folder / file).read_bytes())
        text = _card(into, name, licence or LICENCE)
        if (folder / CARD).is_file():
            text = completed(renamed((folder / CARD).read_text(encoding="utf-8"), name), text, licence)
        text = completed(text, text, datasets=datasets)
        (into / CARD).write_bytes(text.encode())
    except (OSError, ValueError) as error:
        raise GradprobeError(f"the pruner in {folder} cannot be read: {' '.join(str(error).split())[:160]}") from None


def _named_scorer(pruner: "Pruner") -> tuple[Any, dict[str, Any]]:
    """Return the scorer of a pruner and the content of its ``scorer.json``; None without a scorer.

    Raises:
        UsageError: It has no name, its name makes another one, or there are two.
    """
    metadata: dict[str, Any] = {**pruner.vlm.metadata, **pruner.metadata}
    networks = {id(each.scorer): each.scorer for each in pruner.scored if each.scorer is not None}
    if len(networks) > 1:
        raise UsageError("a pruner with two scorers cannot be saved; save each of them as a pruner of its own")
    network: Any = next(iter(networks.values()), None)
    if network is None:
        return None, metadata
    if isinstance(network, Scorer):
        network, metadata = network.network, {**pruner.vlm.metadata, **network.metadata, **pruner.metadata}
    if "scorer" not in metadata:
        raise UsageError(
            "the scorer has no name that a file could hold; give it with the pruner: "
            'Pruner(..., metadata={"scorer": "mlp:width=8"})'
        )
    made = part("scorer", metadata["scorer"]).make(metadata["dim"], 0).state_dict()
    if {n: t.shape for n, t in made.items()} != {n: t.shape for n, t in network.state_dict().items()}:
        raise UsageError(f"the scorer is not the one that {metadata['scorer']!r} makes; correct metadata['scorer']")
    return network, metadata


def _is_scored(stage: Any) -> bool:
    return isinstance(stage.selector, Scored)


def _card(folder: Path, name: str, licence: str) -> str:
    facts = _content(scorer_path(folder).with_suffix(".json")) if scorer_path(folder).is_file() else {}
    budget = _content(folder / BUDGET) if (folder / BUDGET).is_file() else {}
    return pruner_card(facts, _plan_content(folder), budget, name, licence)


def _card_of(folder: Path, name: str, licence: str) -> str:
    """Return the card that this program writes for what lies in a folder; empty where no pruner can be read."""
    try:
        return _card(folder, name, licence) if holds_pruner(folder) else ""
    except GradprobeError:
        return ""


def _write_card(folder: Path, card: str, before: str) -> None:
    """Write the card of a pruner, unless somebody else has written one.

    Args:
        folder: Its folder.
        card: Text.
        before: Text for the pruner that was there; empty: there was none.
    """
    there = (folder / CARD).read_bytes() if (folder / CARD).exists() else before.encode()
    if there == before.encode():
        atomic_write(folder / CARD, card.encode())
    elif before not in ("", card):
        warnings.warn(
            f"{folder / CARD} describes the pruner that was there, and stays, as it has words of its own; change them",
            Notice,
            stacklevel=4,
        )


def _plan_content(folder: Path) -> Mapping[str, Any]:
    """Return the content of ``plan.json``; empty without, and where a scorer lies beside it that it does not use."""
    if not (folder / PLAN).is_file():
        return {}
    plan = _content(folder / PLAN)
    used = "scored" in selectors_in(plan)
    return plan if used or not scorer_path(folder).is_file() else {}


def _content(path: Path) -> dict[str, Any]:
    """Return the object in a file of JSON.

    Raises:
        GradprobeError: There is none.
    """
    try:
        with open_regular(path) as file:
            content = json.loads(file.read())
        if not isinstance(content, dict):
            raise ValueError("it holds no object")
    except (OSError, ValueError, RecursionError) as error:
        raise GradprobeError(f"{path} cannot be read: {' '.join(str(error).split())[:160]}") from None
    return content
