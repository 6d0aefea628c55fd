"""Result of the probe of a search's gradient."""

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from gradprobe.plotting.shown import Shown
from gradprobe.vlm.search.asked import Search
from gradprobe.vlm.search.gradient.numbers import rows_at
from gradprobe.vlm.search.gradient.projected import Probed
from gradprobe.vlm.search.gradient.settings import GradientSettings


@dataclass(frozen=True, eq=False, repr=False)
class SearchGradient(Shown):
    """Gradient of a search at some points, beside that of the deployed loss.

    Attributes:
        asked: Model, data, selector and kernel.
        budget: Share of FLOPs.
        settings: Of the probe.
        probed: Arrays of each point.
    """

    asked: Search
    budget: float
    settings: GradientSettings
    probed: tuple[Probed, ...]
    _shown_by: ClassVar[str] = "gradprobe.vlm.search.gradient.shown"

    @property
    def question(self) -> dict[str, Any]:
        """Everything that decides the numbers, in JSON types."""
        own = {name: list(each) if isinstance(each, tuple) else each for name, each in asdict(self.settings).items()}
        points = {each.label: each.numbers.tolist() for each in self.probed}
        return self.asked.question | {"kernel": self.asked.kernel.label, "budget": self.budget, "at": points} | own

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows of each point, ready for JSON: relaxed gradients, the reference, the deployed line."""
        return [row for each in self.probed for row in rows_at(each, self.settings)]
