"""Plans in text: ``divprune``, ``fastv@2``, ``pyramiddrop@8,16,24:keep=0.5,0.25,0.125``, ``divprune:k=128;fastv@8``.

Stages are joined by ``;``. A stage is ``NAME[@LAYER,LAYER,...][:field=value,...]``, its layers those at whose input the
language model's visual tokens are dropped; without layers it is asked outside, or at the layers that its method states,
scaled from 32 layers to the model's. Two fields are the stage's, all others the selector's:

- ``keep=``: for each layer a number of tokens (``64``) or a share of all of the image's (``0.5``);
- ``k=``: one number, of the tokens left after its last layer.

The last stage needs neither where a budget is asked for (``--k``, ``--average``). Several layers of one selector
without ``keep`` go down in equal ratios: at layers 8, 16, 24 with ``k=72`` from 576 tokens to 288, 144 and 72.
"""

import inspect
import re
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from gradprobe.errors import UsageError, in_words
from gradprobe.operators.fields import make
from gradprobe.operators.registry import names, part
from gradprobe.operators.user_files import PATH
from gradprobe.selectors.plan_file import load_plan, save_plan
from gradprobe.selectors.schedule import POSITIONS, Counts, MadeFor, Plan, Positions
from gradprobe.selectors.stages import Keep, Stage, default_layers

if TYPE_CHECKING:
    from gradprobe.view import Selector

__all__ = [
    "POSITIONS", "Counts", "MadeFor", "Plan", "Positions", "Stage", "load_plan", "plan_of", "save_plan", "split_plans",
]  # fmt: skip

_STAGE = re.compile(r"(?P<name>[^:]+\.py:\w+|[^:@]*)(?:@(?P<layers>[^:]*))?(?::(?P<fields>.*))?")
_NUMBER = re.compile(r"[-+]?\.?\d")  # beginning of one
PREDICTOR = re.compile(r"(?P<path>.+\.safetensors)(?:@(?P<budget>.*))?")  # makes the plan of an image


def plan_of(
    spec: "str | Path | Selector | Plan", positions: Positions | None = None, trust: Collection[Path | str] = ()
) -> Plan:
    """Return the plan of a text, a file or a selector.

    Args:
        spec: Text as above, a path that ends in ``.json``, a selector (or its class), or a plan.
        positions: Position ids of kept tokens; None: ``keep``, or what the file or plan says.
        trust: Python files that a ``.json`` may name and that may run.

    Raises:
        UsageError: An unknown selector, a stage that cannot be read, or stages out of order.
        GradprobeError: A file that holds no plan.

    Example:
        >>> plan = plan_of("random@2")
        >>> plan.counts(576, 32, average=128).text
        '576 x2, 98 x30'
    """
    if isinstance(spec, Plan):
        plan = spec
    elif isinstance(spec, Path) or (isinstance(spec, str) and _is_file(spec)):
        plan = load_plan(spec, trust)
    elif isinstance(spec, str):
        if PREDICTOR.fullmatch(spec):
            raise UsageError(
                f"{spec} is a predictor of a plan for each image, which gradprobe vlm generate takes; give a plan, "
                "such as plan.json"
            )
        plan = Plan(tuple(stage for text in spec.split(";") for stage in _stages(text.strip(), spec)))
    elif callable(spec):
        selector = make(spec, {}, spec.__name__) if inspect.isclass(spec) else spec
        plan = Plan(tuple(_placed(selector, (), ())))
    else:
        raise UsageError(f"{in_words(spec)} is no plan; give a selector or a text, such as 'divprune' or 'fastv@2'")
    return plan if positions is None else replace(plan, positions=positions)


def split_plans(text: str) -> list[str]:
    """Split a list of plans at the commas that begin a new one.

    Commas also stand between layers, budgets and fields. One begins a new plan where the name of a selector, a path or
    something else follows that cannot go on with the stage before it.

    Raises:
        UsageError: A plan is empty.

    Example:
        >>> split_plans("random,pyramiddrop@8,16,24:keep=0.5,0.25,0.125,fastv@2,zoo:draws=8,exact")
        ['random', 'pyramiddrop@8,16,24:keep=0.5,0.25,0.125', 'fastv@2', 'zoo:draws=8,exact']
    """
    plans: list[str] = []
    known = frozenset(names("selector"))
    for item in map(str.strip, text.split(",")):
        if plans and _goes_on(plans[-1].rpartition(";")[2], item, known):
            plans[-1] += f",{item}"
        else:
            plans.append(item)
    if not all(plans):
        raise UsageError(f"{text!r} has an empty plan; plans are separated by one comma, as in divprune,fastv@2")
    return plans


def _goes_on(stage: str, item: str, known: Collection[str]) -> bool:
    """Return True if what follows a comma belongs to the stage before it."""
    match = _STAGE.fullmatch(stage)
    layers, fields = (match["layers"], match["fields"]) if match else (None, None)
    if _NUMBER.match(item):
        return layers is not None or fields is not None
    if fields is None:
        return False
    head = re.match(r"[^=@:;]*", item)
    name = head[0] if head else ""
    follows = item[len(name) : len(name) + 1]
    if follows == "=":
        return True
    return not (name in known or PATH.match(item) or _is_file(item) or (follows and follows in "@:"))


def _is_file(text: str) -> bool:
    return text.strip().endswith(".json") and (":" not in text or Path(text).is_file())


def _stages(text: str, spec: str) -> Iterator[Stage]:
    """Yield the stages of a typed one, one for each of its layers."""
    match = _STAGE.fullmatch(text)
    if not text or not match or not match["name"].strip():
        raise UsageError(f"{spec!r} has an empty stage; stages are joined by ';', as in divprune:k=128;fastv@8")
    layers = match["layers"]
    numbers = [] if layers is None else [layer.strip() for layer in layers.split(",")]
    if not all(re.fullmatch(r"\d{1,6}", number) for number in numbers):
        raise UsageError(f"{text!r}: layers are whole numbers, as in fastv@2 or pyramiddrop@8,16,24; got @{layers}")
    budgets, others = _budgets(match["fields"] or "", text)
    name = match["name"].strip()
    selector = part("selector", f"{name}:{others}" if others else name)
    yield from _placed(selector, tuple(map(int, numbers)), budgets, text)


def _placed(
    selector: "Selector", layers: tuple[int, ...], budgets: "tuple[Keep, ...] | int", text: str = ""
) -> Iterator[Stage]:
    """Yield a stage for each layer of a selector, or one outside; ``budgets`` of each, or one of the last."""
    usual = () if layers else default_layers(selector)
    places: tuple[int | None, ...] = layers or usual or (None,)
    if isinstance(budgets, int):
        budgets = (*[None] * (len(places) - 1), budgets)
    elif not budgets:
        budgets = (None,) * len(places)
    if len(budgets) != len(places):
        one = f"one for each of its {len(places)} layers" if len(places) > 1 else "one"
        raise UsageError(f"{text!r}: keep= has {len(budgets)} numbers; give {one}")
    for layer, keep in zip(places, budgets, strict=True):
        yield Stage(selector, layer, keep, usual=bool(usual))


def _budgets(fields: str, text: str) -> tuple["tuple[Keep, ...] | int", str]:
    """Split the budgets from the fields of the selector."""
    keep: list[Keep] = []
    k: int | None = None
    others: list[str] = []
    last = ""  # field to which a number without a name belongs
    for item in filter(None, map(str.strip, fields.split(","))):
        name, equals, value = (side.strip() for side in item.partition("="))
        bare = not equals and _NUMBER.match(item) is not None
        if name == "keep" and equals:
            if keep:
                raise UsageError(f"{text!r} says keep= twice; give one, with a number for each layer")
            keep.append(_budget(value, text))
        elif bare and last == "keep":
            keep.append(_budget(item, text))
        elif name == "k" and equals:
            if not re.fullmatch(r"\d{1,9}", value):
                raise UsageError(f"{text!r}: k= is one number of tokens, k=64; a share is keep=0.5; got k={value}")
            k = int(value)
        else:
            others.append(item)
        last = last if bare else name
    if k is not None and keep:
        raise UsageError(f"{text!r} says both k= and keep=; give one of them")
    return tuple(keep) if k is None else k, ",".join(others)


def _budget(text: str, stage: str) -> int | float:
    """Return a number of tokens, or a share."""
    try:
        return int(text) if re.fullmatch(r"[-+]?\d+", text) else float(text)
    except ValueError:
        raise UsageError(
            f"{stage!r}: keep= takes numbers of tokens, keep=64, or shares of all of them, keep=0.5; got {text!r}"
        ) from None
