"""Budget of visual tokens, as a user states it."""

from dataclasses import dataclass

from gradprobe.errors import UsageError
from gradprobe.ranges import check_numbers, make_plain
from gradprobe.selectors.plan import Counts, Plan


@dataclass(frozen=True)
class Budget:
    """Number of visual tokens kept of an image: K, a share of its N, or a mean over the language model's layers.

    Attributes:
        k: K, behind the last stage of a plan; an image with fewer tokens keeps all.
        ratio: Share K / N in (0, 1], at least one token; instead of ``k``.
        average: Tokens that a layer reads on average, at most N; instead of both.

    Raises:
        UsageError: Not exactly one of the three, or a number outside what is possible.

    Example:
        >>> from gradprobe.selectors.plan import plan_of
        >>> [Budget(k=64).counts(plan_of("norm"), n, 32).outside for n in (576, 40)]
        [64, 40]
        >>> Budget(ratio=0.111).counts(plan_of("norm"), 576, 32).outside
        64
    """

    k: int | None = None
    ratio: float | None = None
    average: float | None = None

    def __post_init__(self) -> None:
        make_plain(self)
        if sum(each is not None for each in (self.k, self.ratio, self.average)) != 1:
            raise UsageError(
                "give one of --k (tokens kept an image), --ratio (their share, e.g. --ratio 0.111) and --average "
                "(tokens that a layer of the language model reads on average)"
            )
        check_numbers({"k": self.k, "ratio": self.ratio})

    def counts(self, plan: Plan, n: int, layers: int) -> Counts:
        """Return the tokens of an image of ``n`` tokens at each layer.

        Raises:
            UsageError: The plan cannot have this budget.
        """
        if self.average is not None:
            return plan.counts(n, layers, average=min(self.average, n))
        return plan.counts(n, layers, k=self.of(n))

    def of(self, n: int) -> int:
        """Return K for an image of ``n`` tokens that are all chosen outside the language model.

        Example:
            >>> Budget(k=64).of(576), Budget(k=64).of(40), Budget(ratio=0.111).of(576)
            (64, 40, 64)
        """
        if self.average is not None:
            return max(1, min(round(self.average), n))
        return min(self.k, n) if self.k is not None else max(1, round((self.ratio or 1) * n))
