"""Console for rich's tables and lines that prints text literally."""

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from gradprobe.cli.fitting import fitted
from gradprobe.plotting.escape import visible


class Screen(Console):
    """Console of rich that prints text literally: no markup, no emoji codes, no control characters."""

    def __init__(self, **settings: Any):
        super().__init__(**{"markup": False, "emoji": False, "highlight": False, **settings})

    def render_str(self, text: str, **settings: Any) -> Text:
        """Return the text of a cell, a heading or a line with control characters escaped, before it is measured."""
        return super().render_str(visible(text, keep="\n"), **settings)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield segments with control characters escaped, except those by which rich itself moves the cursor.

        Tables that are wider than the terminal are made to fit, see `gradprobe.cli.fitting`.
        """
        options = options or self.options
        parts = fitted(renderable, self, options) if isinstance(renderable, Table) else [renderable]
        for part in parts:
            for segment in super().render(part, options):
                yield segment if segment.control else segment._replace(text=visible(segment.text, keep="\n"))
