"""Tables and lines of rich, with all text taken literally."""

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from gradprobe.plotting.escape import visible


class Screen(Console):
    """A console of rich that takes text literally: no markup, no emoji codes, no control characters."""

    def __init__(self, **settings: Any):
        super().__init__(**{"markup": False, "emoji": False, "highlight": False, **settings})

    def render_str(self, text: str, **settings: Any) -> Text:
        """Text of a cell, a heading or a line; called before anything is measured."""
        return super().render_str(visible(text, keep="\n"), **settings)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Segments on their way out; those that rich itself makes to move the cursor pass."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=visible(segment.text, keep="\n"))
