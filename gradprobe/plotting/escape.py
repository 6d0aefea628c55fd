"""Escaping of outside text (paths, file names, names in files) in the output of the program.

There is one function for each kind of output: the terminal and plain files, matplotlib, HTML, JSON in a script,
Markdown. Everywhere else names are unescaped, so that they can be compared and typed back.
"""

import json
import re
from html import escape
from typing import Any

# Characters that move the cursor, change the direction of text, break lines invisibly or cannot be encoded: C0 and C1,
# bidi controls, zero-width and separator characters, tags, and the surrogates of bytes in undecodable names.
_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)


def visible(text: object, keep: str = "") -> str:
    r"""Return text with every control character, bidi control and undecodable byte written as an escape.

    Args:
        text: Object whose ``str`` is escaped.
        keep: Characters that are not escaped, such as a newline.

    Example:
        >>> visible("a\x1b[31m.jpg"), visible("two\nlines"), visible("two\nlines", keep="\n")
        ('a\\x1b[31m.jpg', 'two\\nlines', 'two\nlines')
    """
    return _UNSEEN.sub(lambda match: match[0] if match[0] in keep else _escaped(match[0]), str(text))


def _escaped(character: str) -> str:
    return repr(character)[1:-1] if character in "\n\r\t" else _by_number(ord(character))


def _by_number(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def html(text: object) -> str:
    r"""Escape text for an element or an attribute of a page.

    Example:
        >>> html("<b>\u202e")
        '&lt;b&gt;\\u202e'
    """
    return escape(visible(text))


def script_json(value: Any) -> str:
    r"""Return JSON for a ``<script>``, which cannot end the element, open a comment, or break a line of the script.

    Example:
        >>> script_json({"name": "<!--<script>"})
        '{"name": "\\u003c!--\\u003cscript\\u003e"}'
    """
    text = json.dumps(value, allow_nan=False, sort_keys=True)  # ASCII, so line separators are already escapes
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def code_span(text: object) -> str:
    """Return text as Markdown code that backticks in the text do not end.

    Example:
        >>> code_span("lapsum+vpnoise"), code_span("a`b")
        ('`lapsum+vpnoise`', '`` a`b ``')
    """
    code = visible(text)
    fence = "`" * (max(map(len, re.findall("`+", code)), default=0) + 1)
    return f"{fence} {code} {fence}" if len(fence) > 1 else f"{fence}{code}{fence}"


def legend_label(name: object) -> str:
    """Return a name for a legend; matplotlib would leave out a name that begins with an underscore.

    Example:
        >>> legend_label("_mine.py:Op"), legend_label("lapsum+vpnoise")
        (' _mine.py:Op', 'lapsum+vpnoise')
    """
    return f" {name}" if str(name).startswith("_") else str(name)
