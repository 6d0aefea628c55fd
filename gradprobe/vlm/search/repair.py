"""Whole numbers of tokens within a budget, from shares."""

from collections.abc import Sequence

from gradprobe.vlm.search.spending import Spending

HALVINGS = 60  # of the bracket of the exponent
LEAST, MOST = 1e-4, 1e4  # exponents: almost all tokens, and one where a share is below 1
SMALLEST = 1e-9  # share


def repaired(shares: Sequence[float], spending: Spending, budget: float) -> tuple[int, ...] | None:
    """Return the schedule of whole counts that is nearest to shares and spends a budget.

    All shares are raised to one power, so that those of 1 stay, until the whole counts below them just fit; then tokens
    are added where shares are farthest above their counts, as long as one fits. Layers with equal shares keep equal
    counts.

    Args:
        shares: Of each layer, not rising; the first is 1.
        spending: FLOPs of the model.
        budget: Share of FLOPs, possible in the model.

    Returns:
        Counts from N down to 1, not rising, within the budget; no run of equal counts could read a token more. None
        where the layers with a share of 1 spend more alone.

    Example:
        >>> spending = Spending((1,) * 4, 0, 10, 0)
        >>> repaired([1, 0.5, 0.5, 0.1], spending, 0.5), repaired([1, 0.5, 0.5, 0.1], spending, 1.0)
        ((10, 4, 4, 2), (10, 10, 10, 10))
    """
    low, high = LEAST, MOST
    if spending.share(_whole(_raised(shares, high, spending))) > budget:
        return None
    for _ in range(HALVINGS):
        middle = (low * high) ** 0.5
        fits = spending.share(_whole(_raised(shares, middle, spending))) <= budget
        low, high = (low, middle) if fits else (middle, high)
    wanted = _raised(shares, high, spending)
    counts = _whole(wanted)
    while (larger := _with_one_more(counts, wanted, _runs(shares), spending, budget)) is not None:
        counts = larger
    return tuple(counts)


def _raised(shares: Sequence[float], power: float, spending: Spending) -> list[float]:
    return [spending.tokens * max(share, SMALLEST) ** power for share in shares]


def _whole(wanted: Sequence[float]) -> list[int]:
    return [max(1, int(each + 1e-9)) for each in wanted]


def _with_one_more(
    counts: list[int], wanted: Sequence[float], runs: Sequence[tuple[int, int]], spending: Spending, budget: float
) -> list[int] | None:
    """Return the counts with one token more in a run of layers; None where none fits."""
    for first, end in sorted(runs, key=lambda run: counts[run[0]] - wanted[run[0]]):
        if counts[first] < counts[first - 1]:
            larger = [*counts[:first], *(count + 1 for count in counts[first:end]), *counts[end:]]
            if spending.share(larger) <= budget:
                return larger
    return None


def _runs(shares: Sequence[float]) -> list[tuple[int, int]]:
    """Return the first layer and the end of each run with equal shares behind layer 0."""
    firsts = [i for i in range(1, len(shares)) if i == 1 or shares[i] != shares[i - 1]]
    return list(zip(firsts, [*firsts[1:], len(shares)], strict=True))
