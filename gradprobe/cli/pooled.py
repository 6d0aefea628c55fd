"""Rows of a probe's command over several seeds."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gradprobe.cli.probe import Request


def several_seeds(request: "Request") -> bool:
    """Tell whether rows are pooled over seeds: several were asked of a probe that says how."""
    from gradprobe.probes.seeds import pools

    return len({getattr(each, "seed", None) for each in request.settings}) > 1 and pools(request.probe)


def pool(request: "Request") -> None:
    """Replace the rows by those over seeds, and keep those of each seed beside them."""
    from gradprobe.probes.seeds import table

    seeds = [question["seed"] for question in request.questions]
    request.each_seed = [row | {"seed": seed} for row, seed in zip(request.rows, seeds, strict=True)]
    pooled = table(request.results, [answer.path for answer in request.answers], request.base)
    request.questions, request.rows = [question for question, _ in pooled], [row for _, row in pooled]
    request.shown["seeds"] = list(dict.fromkeys(seeds))
