"""The one exception family: each error says what was asked, what is possible and what to type.

``UsageError`` is a question that cannot be asked (the command line exits with 2); any other ``GradprobeError`` is a
question that could not be answered (exit code 1).
"""

from collections.abc import Iterable
from difflib import get_close_matches


class GradprobeError(Exception):
    """A question that gradprobe could not answer, told in one line."""


class UsageError(GradprobeError):
    """A question that cannot be asked: a wrong name, value or combination of options."""


class Notice(UserWarning):
    """Something that gradprobe chose for the user; the command line prints it on stderr, each once."""


def nearest(asked: str, known: Iterable[str]) -> str:
    """Words that end an error about an unknown name: the nearest known one, then all of them.

    Args:
        asked: the name that was typed.
        known: the names that exist.

    Returns:
        Text such as ``did you mean 'vpnoise'? Known: gumbel, vpnoise``.

    Example:
        >>> nearest("vpnose", ["vpnoise", "gumbel"])
        "did you mean 'vpnoise'? Known: gumbel, vpnoise"
    """
    names = sorted(known)
    close = get_close_matches(str(asked), names, n=1)
    guess = f"did you mean '{close[0]}'? " if close else ""
    return f"{guess}Known: {', '.join(names)}"


def in_words(value: object) -> str:
    """A value that was given instead of another, in one line: itself if it is short, else its type.

    Example:
        >>> in_words("scenes"), in_words(list(range(100)))
        ("'scenes'", 'a list')
    """
    text = repr(value)
    return text if len(text) <= 60 and "\n" not in text else f"a {type(value).__name__}"


def check_positive(name: str, field: str, value: float) -> None:
    """Refuse a field of an operator that is no positive number.

    Raises:
        UsageError: the message says what can be typed.

    Example:
        >>> check_positive("lapsum", "tau", 0.3)
    """
    if not 0 < value < float("inf"):
        raise UsageError(f"{name}:{field}={value:g}: it must be positive, e.g. {name}:{field}=0.3")


def brief(error: BaseException) -> str:
    """Shorten another library's error to its first sentence, at most 120 characters.

    Example:
        >>> brief(ValueError("no such key. Try again."))
        'no such key'
    """
    text = (" ".join(str(error).split()) or type(error).__name__).split(". ")[0]
    return text if len(text) <= 120 else f"{text[:117]}..."
