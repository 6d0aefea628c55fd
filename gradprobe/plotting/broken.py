"""Names in lines: they break where a part of them ends."""

import re
from collections.abc import Iterable

NAME = re.compile(r"(?=[+:;@(])|(?<=[,/_ ])")  # places in a name at which a line may end
SPACE = re.compile(r"(?<= )")  # likewise, of other text


def broken(text: str, width: int, places: re.Pattern[str] = NAME) -> str:
    """Return a text in lines of at most so many characters, each but the last as full as it can be.

    Args:
        text: a name, or lines of them.
        width: of a line; a part that is longer stays whole.
        places: at which a line may end.

    Example:
        >>> broken("gumbel-ste:backward=soft+gather", 16).splitlines()
        ['gumbel-ste', ':backward=soft', '+gather']
        >>> broken("gumbel-ste:backward=soft+gather", 24).splitlines()
        ['gumbel-ste:backward=soft', '+gather']
    """
    lines = []
    for whole in text.splitlines():
        lines.append("")
        for piece in filter(None, places.split(whole)):
            if lines[-1] and len((lines[-1] + piece).rstrip()) > width:
                lines.append("")
            lines[-1] += piece
    return "\n".join(line.rstrip() for line in lines)


def least(texts: Iterable[str], places: re.Pattern[str] = NAME) -> int:
    """Return the length of the longest part of some texts, below which `broken` cannot get.

    Example:
        >>> least(["lapsum+vpnoise", "hard"])
        8
    """
    parts = (piece.rstrip() for text in texts for line in text.splitlines() for piece in places.split(line))
    return max(map(len, parts), default=0)
