"""Model and selection as words: ``pretrained=photos-vlm,plan=divprune,k=11``, or options of a command."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from gradprobe.errors import UsageError, nearest
from gradprobe.models.scored import Scored
from gradprobe.selectors.plan import plan_of
from gradprobe.vlm.budgets import Budget
from gradprobe.vlm.deploy import load
from gradprobe.vlm.evaluation.generation import Answering
from gradprobe.vlm.model import VLM, open_vlm
from gradprobe.vlm.pruner import Pruner

NUMBERS = {"k": int, "ratio": float, "average": float, "batch_size": int}
PASSED_OVER = ("max_batch_size",)  # lmms-eval gives it to every model
_ARGUMENT = re.compile(r"(?:^|,)\s*([a-z_]+)=")


@dataclass(frozen=True)
class ModelArguments:
    """Arguments of the model ``gradprobe_vlm``.

    Attributes:
        pretrained: Model, hub id or folder; None: that of the pruner.
        pruner: Folder or hub id of a trained pruner.
        plan: Selectors without training; None, without a pruner: the model reads all tokens.
        k: Tokens kept of an image.
        ratio: Their share of N; instead of ``k``.
        average: Tokens that a layer reads on average; instead of both.
        positions: Position ids of kept tokens, ``keep`` or ``compact``; None: as the plan or pruner has them.
        device: ``cpu``, ``cuda``, ``cuda:1``, ..., or ``auto``.
        dtype: Of the model; None: ``float32`` on a CPU, ``bfloat16`` elsewhere.
        batch_size: Questions that are answered together.
    """

    pretrained: str | None = None
    pruner: str | None = None
    plan: str | None = None
    k: int | None = None
    ratio: float | None = None
    average: float | None = None
    positions: str | None = None
    device: str = "cpu"
    dtype: str | None = None
    batch_size: int = 1

    @classmethod
    def of(cls, text: str | Mapping[str, Any], others: Mapping[str, Any] | None = None) -> "ModelArguments":
        """Return the arguments of lmms-eval's ``--model_args``.

        A comma begins a new argument only where the name of one follows: those of a plan stay in it.

        Args:
            text: ``name=value,name=value``, or a mapping.
            others: Arguments that lmms-eval has from elsewhere; None: not given.

        Raises:
            UsageError: An unknown name, or a value that is no number.

        Example:
            >>> arguments = ModelArguments.of("pretrained=photos-vlm,plan=pyramiddrop@1,2:keep=50,25,batch_size=4")
            >>> arguments.plan, arguments.batch_size
            ('pyramiddrop@1,2:keep=50,25', 4)
        """
        given = _split(text, {f.name for f in fields(cls)}) if isinstance(text, str) else dict(text)
        given = {name: value for name, value in (others or {}).items() if value is not None} | given
        known = [f.name for f in fields(cls)]
        for name in PASSED_OVER:
            given.pop(name, None)
        for name in given:
            if name not in known:
                raise UsageError(f"gradprobe_vlm has no argument {name!r}; {nearest(name, known)}")
        return cls(**{name: _value(name, value) for name, value in given.items()})

    def opened(self, trust: Collection[Path | str] = ()) -> Answering:
        """Open the model, and join it to what selects.

        Args:
            trust: Python files that a plan or pruner may name and that may run.

        Raises:
            UsageError: No model is named, or arguments that do not go together.
            GradprobeError: The model or the pruner cannot be read.
        """
        return Answering(self._selecting(trust), self.batch_size)

    def _selecting(self, trust: Collection[Path | str]) -> VLM | Pruner:
        positions: Any = self.positions
        budget = None
        if any(each is not None for each in (self.k, self.ratio, self.average)):
            budget = Budget(self.k, self.ratio, self.average)
        if self.pruner is not None:
            trained = load(self.pruner, self.pretrained, self.device, self.dtype, trust)
            pruned = trained if budget is None else replace(trained, budget=budget)
            plan = plan_of(self.plan or pruned.selector, positions, trust)
            return replace(pruned, selector=_joined(plan, pruned, self.plan))
        if self.pretrained is None:
            raise UsageError("name the model: pretrained=llava-hf/llava-1.5-7b-hf, or pruner= a folder with its own")
        if self.plan is None:
            if budget is not None or positions is not None:
                raise UsageError("k, ratio, average and positions go with a plan or a pruner; give plan=divprune too")
            return self.whole()
        plan = plan_of(self.plan, positions, trust)
        pruned = Pruner(self.whole(), plan, budget)
        if pruned.scored:
            raise UsageError(f"{self.plan} has a stage scored; name the trained scorer too: pruner=DIR")
        return pruned

    def whole(self) -> VLM:
        """Open the model alone."""
        assert self.pretrained is not None
        dtype = self.dtype or ("float32" if self.device == "cpu" else "bfloat16")
        return open_vlm(self.pretrained, device=self.device, dtype=dtype)


def _joined(plan: Any, pruned: Pruner, typed: str | None) -> Any:
    """Return a plan with the pruner's scorer in its stage ``scored``."""
    if typed is None:
        return plan
    own = next((stage.selector for stage in pruned.plan.stages if isinstance(stage.selector, Scored)), None)
    if own is None or not any(isinstance(stage.selector, Scored) for stage in plan.stages):
        raise UsageError(
            f"{typed} does not use the scorer of the pruner; leave one out, or name it: 'scored:k=64;fastv@8'"
        )
    stages = [replace(s, selector=own) if isinstance(s.selector, Scored) else s for s in plan.stages]
    return replace(plan, stages=tuple(stages))


def _split(text: str, known: Collection[str]) -> dict[str, Any]:
    starts: list[re.Match[str]] = []
    for match in _ARGUMENT.finditer(text):
        in_plan = bool(starts) and starts[-1][1] == "plan" and match[1] not in (*known, *PASSED_OVER)
        if not in_plan:  # else a field of a selector
            starts.append(match)
    if text.strip() and not (starts and starts[0].start() == 0):
        raise UsageError(f"{text!r} are no arguments of gradprobe_vlm; write pretrained=photos-vlm,plan=divprune,k=11")
    ends = [*(match.start() for match in starts[1:]), len(text)]
    return {match[1]: text[match.end() : end].strip() for match, end in zip(starts, ends, strict=True)}


def _value(name: str, value: Any) -> Any:
    if isinstance(value, str) and name not in NUMBERS and value in ("", "none", "None"):
        return None
    try:
        return NUMBERS[name](value) if name in NUMBERS and value is not None else value
    except ValueError:
        raise UsageError(f"{name}={value} is not possible; give a number") from None
