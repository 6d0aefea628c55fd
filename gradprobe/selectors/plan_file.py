"""Plans in files, ``plan.json``: read and written without torch, and without running code that is not trusted."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from gradprobe.errors import GradprobeError, UsageError, in_words, nearest
from gradprobe.files import atomic_write, check_place, open_regular
from gradprobe.operators.registry import check_trusted, part
from gradprobe.selectors.schedule import MadeFor, Plan
from gradprobe.selectors.stages import Stage

FORMAT = 1
_ENTRIES: Mapping[str, tuple[type, ...]] = {  # and the types of their values
    "format": (int,),
    "model": (str, type(None)),
    "layers": (int, type(None)),
    "tokens": (int, type(None)),
    "positions": (str,),
    "stages": (list,),
}
_OF_STAGE: Mapping[str, tuple[type, ...]] = {
    "selector": (str,),
    "layer": (int, type(None)),
    "keep": (int, float, type(None)),
}
_WORDS = {int: "a whole number", float: "a number", str: "text", list: "a list", dict: "an object", type(None): "null"}


def save_plan(
    plan: Plan, path: Path | str, *, model: str | None = None, layers: int | None = None, tokens: int | None = None
) -> Path:
    """Write a plan into a file that is there whole or not at all; its folder is made if need be.

    Args:
        plan: Of selectors that have a name.
        path: File to write, ``.json``.
        model: Name of the model that the plan was made for; None: any.
        layers: L, layers of its language model; needed where layers were not named and depend on it. None: any.
        tokens: N, its visual tokens of an image; None: any.

    Raises:
        UsageError: A selector that has no name, layers that cannot be told, counts that are not possible in the model,
            or a path that cannot be written.

    Example:
        >>> from gradprobe.selectors.random import Random
        >>> folder = getfixture("tmp_path")
        >>> file = save_plan(Plan((Stage(Random(), 2, 98),)), folder / "plan.json", layers=32)
        >>> load_plan(file).label
        'random@2:k=98'
    """
    path = Path(path)
    if path.suffix != ".json":
        raise UsageError(f"{path} is no name of a plan; its name must end in .json, e.g. {path.with_suffix('.json')}")
    if layers is not None:
        plan = plan.at(layers)
    elif any(stage.usual for stage in plan.stages):
        raise UsageError(f"the layers of {plan.label} depend on the model; give layers=32, or name them: fastv@2")
    if layers is not None and tokens is not None and plan.budgeted:
        plan.counts(tokens, layers)
    entries = []
    for stage in plan.stages:
        try:
            part("selector", stage.name)
        except GradprobeError as error:
            raise UsageError(f"{stage.name} has no name that a file could hold; write it in a file: {error}") from None
        entries.append({"selector": stage.name, "layer": stage.layer, "keep": stage.keep})
    head = {"format": FORMAT, "model": model, "layers": layers, "tokens": tokens, "positions": plan.positions}
    check_place(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, (json.dumps({**head, "stages": entries}, indent=2) + "\n").encode())
    except OSError as error:
        raise GradprobeError(f"cannot write {path}: {error.strerror or error}; name another file") from None
    return path


def load_plan(path: Path | str, trust: Collection[Path | str] = ()) -> Plan:
    """Read a plan.

    Args:
        path: File that `save_plan` wrote, or one like it.
        trust: Python files that it may name and that may run.

    Raises:
        UsageError: There is no such file, or it names Python code that is not trusted.
        GradprobeError: It holds no plan; the message names the entry.
    """
    path = Path(path)
    if not path.exists():
        raise UsageError(f"there is no plan {path}; name a plan.json, or type the stages: divprune:k=128;fastv@8")
    try:
        with open_regular(path) as file:
            entries = json.loads(file.read())
    except (OSError, ValueError, RecursionError) as error:
        raise _unreadable(path, " ".join(str(error).split())[:160]) from None
    _check(path, "", entries, _ENTRIES)
    if entries["format"] != FORMAT:
        raise _unreadable(path, f"format is {entries['format']}; this version of gradprobe reads format {FORMAT}")
    for name in ("layers", "tokens"):
        if entries[name] is not None and entries[name] < 1:
            raise _unreadable(path, f"{name} is {entries[name]}; it must be at least 1, or null")
    stages = []
    for i, entry in enumerate(entries["stages"]):
        where = f"stages[{i}]"
        _check(path, f"{where}.", entry, _OF_STAGE)
        check_trusted("selector", entry["selector"], path, trust)
        try:
            stages.append(Stage(part("selector", entry["selector"]), entry["layer"], entry["keep"]))
        except UsageError as error:
            raise _unreadable(path, f"{where}: {error}") from None
    try:
        made_for = MadeFor(entries["model"], entries["layers"], entries["tokens"])
        plan = Plan(tuple(stages), entries["positions"], made_for)
        plan.at(made_for.layers or max((stage.layer or 0 for stage in stages), default=0) + 1)
    except UsageError as error:
        raise _unreadable(path, str(error)) from None
    return plan


def _check(path: Path, where: str, entries: Any, types: Mapping[str, tuple[type, ...]]) -> None:
    """Refuse an object with other entries than a plan has, or other values in them.

    Raises:
        GradprobeError: Names the entry.
    """
    if not isinstance(entries, dict):
        raise _unreadable(path, f"{where.rstrip('.') or 'it'} is {in_words(entries)}; it must be an object")
    for name in entries:
        if name not in types:
            raise _unreadable(path, f"it has an entry {where}{name}; {nearest(name, types)}")
    for name, kinds in types.items():
        if name not in entries:
            raise _unreadable(path, f"{where}{name} is missing")
        if type(entries[name]) not in kinds:
            words = " or ".join(_WORDS[kind] for kind in kinds)
            raise _unreadable(path, f"{where}{name} is {in_words(entries[name])}; it must be {words}")


def _unreadable(path: Path, reason: str) -> GradprobeError:
    return GradprobeError(f"{path} is no plan that can be read: {reason}")
