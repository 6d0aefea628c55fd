"""The options of ``gradprobe vlm`` that say which visual tokens are kept, and the pruner that they make."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gradprobe.cli import completion
from gradprobe.errors import UsageError

if TYPE_CHECKING:
    from gradprobe.vlm.pruner import Pruner

Trained = Annotated[
    str | None,
    typer.Option("--pruner", help="Folder of a pruner, as vlm train --out wrote it, or a hub id: user/name[@branch]."),
]
Select = Annotated[
    str | None,
    typer.Option(
        help="Selectors without training instead: divprune, fastv@2, 'divprune:k=128;fastv@8', plan.json.",
        autocompletion=completion.selectors,
    ),
]
Average = Annotated[
    float | None, typer.Option(help="Tokens that a layer of the language model reads on average; instead of --k.")
]
Positions = Annotated[
    str | None, typer.Option(help="Position ids of kept tokens: keep, or compact (renumbered); keep by default.")
]
# Of the searches for a schedule, vlm search and vlm search-gradient:
Inside = Annotated[
    str,
    typer.Option(
        help="Selector that scores tokens inside: fastv, pyramiddrop, sparsevlm.", autocompletion=completion.selectors
    ),
]
Model = Annotated[str, typer.Option(help="photos-vlm, scenes-vlm, a hub id or a folder.")]
Captions = Annotated[str | None, typer.Option(help="captions.jsonl, or a folder of images with captions.")]
Kernel = Annotated[str, typer.Option(help="Shapes of a schedule: step, steps:m=2, steps:m=3, free.")]
Precision = Annotated[str, typer.Option(help="Of the model: float32, bfloat16 or float16.")]
DEFAULT = "photos-vlm"


@dataclass(frozen=True)
class Selected:
    """The words of a user.

    Attributes:
        pruner: Folder of a pruner, or its id on the hub.
        select: Text of a plan.
        model: Model, where it is not that of the pruner.
        k: Tokens kept.
        ratio: Their share.
        average: Their mean over the layers.
        positions: Position ids of kept tokens; None: as the plan says.
    """

    pruner: str | None
    select: str | None
    model: str | None
    k: int | None = None
    ratio: float | None = None
    average: float | None = None
    positions: str | None = None

    def opened(self, device: str, dtype: str | None, trust: tuple[Path, ...]) -> "Pruner":
        """Open the model and join it to what selects.

        A plan may have one stage ``scored``: the scorer of the pruner.

        Raises:
            UsageError: Neither or both are named without a stage ``scored``, or budgets that do not go together.
        """
        if self.pruner is None and self.select is None:
            raise UsageError(
                "give --pruner DIR (a trained pruner), or --select with selectors that need no training, such as "
                "--select divprune --k 11; gradprobe list selectors shows them"
            )
        from gradprobe.selectors.plan import plan_of
        from gradprobe.vlm.budgets import Budget
        from gradprobe.vlm.deploy import load
        from gradprobe.vlm.model import open_vlm
        from gradprobe.vlm.pruner import Pruner

        positions: Any = self.positions
        budget = None
        if any(each is not None for each in (self.k, self.ratio, self.average)):
            budget = Budget(self.k, self.ratio, self.average)
        if self.pruner is not None:
            trained = load(self.pruner, self.model, device, dtype, trust)
            pruned = trained if budget is None else replace(trained, budget=budget)
            plan = plan_of(self.select or pruned.selector, positions)
            if self.select is not None:
                plan = _with_scorer(plan, pruned, self.select)
            return replace(pruned, selector=plan)
        assert self.select is not None
        plan = plan_of(self.select, positions, trust)
        pruned = Pruner(open_vlm(self.model or DEFAULT, device=device, dtype=dtype or "float32"), plan, budget)
        if pruned.scored:
            raise UsageError(f"--select {self.select} has a stage scored; name the trained scorer: --pruner DIR")
        return pruned

    def opened_for(
        self, images: Sequence[Any], prompt: str, device: str, dtype: str | None, trust: tuple[Path, ...]
    ) -> "Pruner":
        """Open the model and join it to what selects; of a predictor, ``FILE.safetensors@BUDGET``, to the image's plan.

        Raises:
            UsageError: As of `opened`, or another option, number of images or model than a predictor takes.
        """
        from gradprobe.selectors.plan import PREDICTOR, plan_of

        match = PREDICTOR.fullmatch(self.select or "")
        if match is None:
            return self.opened(device, dtype, trust)
        path = match["path"]
        try:
            budget = float(match["budget"])
        except (TypeError, ValueError):
            raise UsageError(
                f"--select {self.select} names no budget; give a share of the FLOPs: --select {path}@0.4"
            ) from None
        others = {"--pruner": self.pruner, "--k": self.k, "--ratio": self.ratio, "--average": self.average}
        if typed := [name for name, value in others.items() if value is not None]:
            raise UsageError(f"{typed[0]} does not go with a predictor, whose budget is behind the @; leave it out")
        if len(images) != 1:
            raise UsageError(f"a predictor makes the schedule of one image, and there are {len(images)}; give one")
        from gradprobe.vlm.deploy import inputs_of
        from gradprobe.vlm.model import open_vlm
        from gradprobe.vlm.pruner import Pruner
        from gradprobe.vlm.search.predictor_file import load_predictor

        predictor = load_predictor(path, trust)
        predictor.spending.check(budget)
        vlm = open_vlm(self.model or str(predictor.metadata["model"]), device=device, dtype=dtype or "float32")
        predictor.check(vlm)
        features = vlm.vision_features(inputs_of(vlm, images, prompt))
        positions: Any = self.positions
        return Pruner(vlm, plan_of(predictor.plan(vlm, features.tokens[0], budget), positions))


def _with_scorer(plan: Any, pruned: "Pruner", typed: str) -> Any:
    """Return the plan with the pruner's scorer in its stage ``scored``.

    Raises:
        UsageError: It has no such stage, or the pruner no scorer.
    """
    from gradprobe.models.scored import Scored
    from gradprobe.vlm.deploy import with_scorer

    if pruned.scorer is None or not any(isinstance(stage.selector, Scored) for stage in plan.stages):
        raise UsageError(
            f"--select {typed} does not use the scorer of --pruner; leave one of them out, or name the scorer of a "
            "trained pruner as a stage: --select 'scored:k=64;fastv@8'"
        )
    return with_scorer(plan, pruned.scorer)
