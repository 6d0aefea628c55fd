"""FLOPs of a VLM whose visual tokens are dropped by plans, each layer at its own number of tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from gradprobe.errors import GradprobeError, UsageError
from gradprobe.operators.user_files import reason_of
from gradprobe.ranges import check_number
from gradprobe.selectors.plan import Counts, Plan, plan_of
from gradprobe.view import Sizes
from gradprobe.vlm.costs.dimensions import TABLE_4, config_of, layout_of, one_line_errors, skeleton
from gradprobe.vlm.costs.flops import TEXT, Flops, budgets_of, flops_of, head_dim_of, parameters_of, weights_of
from gradprobe.vlm.families import family_of
from gradprobe.vlm.families.base import Family, Layout

if TYPE_CHECKING:
    from gradprobe.view import Selector


@dataclass(frozen=True)
class PlanFlops:
    """FLOPs up to the first token with the visual tokens that a plan leaves.

    Attributes:
        plan: Its canonical text; None of the unpruned model.
        counts: Visual tokens on the way through the model.
        uncounted: Selectors that do not tell their own FLOPs, so that ``flops`` lacks them.
        flops: Of each part; ``scorer`` is what the selectors take.
    """

    plan: str | None
    counts: Counts
    uncounted: tuple[str, ...]
    flops: Flops

    def row(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        row = self.flops.row()
        selector, share = row.pop("scorer"), row.pop("scorer_share")
        of_plan = {"plan": self.plan, "counts": list(self.counts.layers), "average": self.counts.average}
        known = not self.uncounted
        own = {"selector": selector if known else None, "selector_share": share if known else None}
        return of_plan | row | own | {"uncounted": list(self.uncounted)}


@dataclass(frozen=True)
class PlanCost:
    """FLOPs of plans in a VLM.

    Attributes:
        model: Its name, as given.
        family: ``config.model_type``.
        layout: Of an image.
        text_tokens: Positions beside those of the image.
        parameters: Of each part of the model.
        plans: Unpruned first, then each plan at each budget.
    """

    model: str
    family: str
    layout: Layout
    text_tokens: int
    parameters: dict[str, int]
    plans: tuple[PlanFlops, ...]

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each plan and budget, ready for JSON."""
        paper = TABLE_4.get((self.model, 0))
        return [each.row() | {"paper_table_4": None if each.plan else paper, "measured": None} for each in self.plans]


def plan_cost(
    model: str,
    select: "Sequence[str | Path | Selector | Plan]",
    *,
    k: Sequence[int] = (),
    ratio: Sequence[float] = (),
    average: Sequence[float] = (),
    text_tokens: int = TEXT,
    image_size: tuple[int, int] | None = None,
) -> PlanCost:
    """Count the FLOPs of a VLM up to its first token with the visual tokens that plans leave.

    Args:
        model: A hub id of the paper's models, an embedded model, or a folder with ``config.json``.
        select: Plans, such as ``divprune`` or ``fastv@2``. One whose last stage has its own budget is counted once.
        k: Numbers of tokens left after the last stage.
        ratio: The same as shares of N.
        average: Mean numbers of tokens over the layers of the language model.
        text_tokens: Length of the prompt, special tokens included.
        image_size: Height and width, where the number of tokens depends on it.

    Raises:
        UsageError: An unknown model, or a plan or budget that is not possible in it.

    Example:
        >>> report = plan_cost("llava-hf/llava-1.5-7b-hf", ["random@8,16,24:keep=0.5,0.25,0.125"])
        >>> [(each.counts.text, f"{each.flops.paper / 1e12:.2f} T") for each in report.plans]
        [('576 x32', '8.89 T'), ('576 x8, 288 x8, 144 x8, 72 x8', '4.80 T')]
    """
    check_number("text-tokens", text_tokens)
    if not select:
        raise UsageError("no plan to count; give at least one, such as --select divprune")
    if isinstance(select, str):  # its letters are texts too
        raise UsageError(f"{select!r} is one plan and a list of them is asked for; give [{select!r}]")
    for value in average:
        check_number("average", value)
    config = config_of(model)
    with one_line_errors(model):
        layout = layout_of(config, image_size)
        frozen, family = skeleton(config), family_of(config.model_type, model)
    n, layers = layout.tokens, config.get_text_config().num_hidden_layers
    budgets: list[Mapping[str, Any]] = [{"k": count} for count in budgets_of(k, ratio, n)]
    budgets += [{"average": value} for value in sorted(set(average), reverse=True)]
    whole = flops_of(family, frozen, layout, text_tokens)
    sizes = _sizes(family, frozen, layout, text_tokens)
    rows: dict[tuple[str, tuple[int, ...]], PlanFlops] = {}
    rows["", ()] = PlanFlops(None, Counts(n, (), (n,) * layers, float(n)), (), whole)
    for plan in map(plan_of, select):
        for budget in [{}] if plan.budgeted else budgets or [{}]:
            counts = plan.counts(n, layers, **budget)
            own, uncounted = _own(plan, counts, sizes, layout.newlines)
            kept = None if plan.outside is None else counts.outside
            flops = flops_of(family, frozen, layout, text_tokens, kept, own, counts.layers)
            rows[plan.label, counts.layers] = PlanFlops(plan.label, counts, uncounted, flops)
    parameters = parameters_of(family, frozen)
    return PlanCost(model, config.model_type, layout, text_tokens, parameters, tuple(rows.values()))


def _own(plan: Plan, counts: Counts, sizes: Sizes, newlines: int) -> tuple[int, tuple[str, ...]]:
    """Sum the FLOPs of a plan's selectors for one image, and name those that do not tell theirs.

    Inside the language model newline tokens are positions like those of text: their keys are computed too.

    Raises:
        GradprobeError: A third party's selector fails to tell them.
    """
    total, uncounted, n = 0, [], sizes.n
    kept = [*([] if plan.outside is None else [counts.outside]), *(count for _, count in counts.inside)]
    for stage, k in zip(plan.stages, kept, strict=True):
        flops = getattr(stage.selector, "flops", None)
        if flops is None:
            uncounted.append(stage.name)
        else:
            try:
                text = sizes.text + (0 if stage.layer is None else newlines)
                total += int(flops(replace(sizes, n=n, text=text), k))
            except Exception as error:  # anyone's class
                raise GradprobeError(f"the flops of {stage.name} cannot be told: {reason_of(error)}") from error
        n = k
    return total, tuple(dict.fromkeys(uncounted))


def _sizes(family: Family, model: Any, layout: Layout, text: int) -> Sizes:
    """Return the numbers of a model on which the FLOPs of selectors depend."""
    reader, vision = model.config.get_text_config(), model.config.vision_config
    heads = getattr(vision, "num_attention_heads", None) or vision.num_heads  # Qwen's name
    return Sizes(
        n=layout.tokens,
        dim=family.dim(model),
        width=reader.hidden_size,
        projector=2 * weights_of(family.projector(model), nn.Linear),
        tower_width=family.tower_width(model.config),
        tower_heads=heads,
        patches=layout.patches + layout.class_tokens,
        prefix=layout.class_tokens,
        pictures=layout.tiles,
        text=text,
        query_width=reader.num_attention_heads * head_dim_of(reader),
        key_width=reader.num_key_value_heads * head_dim_of(reader),
    )
