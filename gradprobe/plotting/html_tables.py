"""Tables of the terminal as HTML for notebooks."""

from html import escape
from typing import Any

from rich.console import Group
from rich.table import Table

from gradprobe.plotting.escape import visible


def html_of(part: Any) -> str:
    """Return a table, a group of tables or a line of text as HTML; all text is escaped.

    Example:
        >>> html_of("a < b")
        '<p>a &lt; b</p>'
        >>> table = Table("operator", "C")
        >>> table.add_row("vpnoise", "0.86")
        >>> html_of(table).count("<td")
        2
    """
    if isinstance(part, Group):
        return "\n".join(map(html_of, part.renderables))
    if not isinstance(part, Table):
        return f"<p>{_text(part)}</p>" if str(part) else ""
    title = f"<caption>{_text(part.title)}</caption>" if part.title else ""
    sides = [column.justify if column.justify in ("right", "center") else "left" for column in part.columns]
    head = _line("th", [column.header for column in part.columns], sides)
    body = "\n".join(_line("td", texts, sides) for texts in zip(*(c.cells for c in part.columns), strict=True))
    below = f"\n<p>{_text(part.caption)}</p>" if part.caption else ""
    return f"<table>{title}\n<thead>{head}</thead>\n<tbody>\n{body}\n</tbody>\n</table>{below}"


def _line(tag: str, texts: Any, sides: list[str]) -> str:
    cells = (
        f'<{tag} style="text-align: {side}">{_text(text)}</{tag}>' for text, side in zip(texts, sides, strict=True)
    )
    return f"<tr>{''.join(cells)}</tr>"


def _text(text: Any) -> str:
    return escape(visible(text, keep="\n")).replace("\n", "<br>")
