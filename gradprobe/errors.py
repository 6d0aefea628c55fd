"""Exceptions of gradprobe: each says what was asked, what is possible and what to type.

``UsageError`` is a wrong request (exit code 2 on the command line); any other ``GradprobeError`` is a request that
failed (exit code 1).
"""

from collections.abc import Iterable
from difflib import get_close_matches


class GradprobeError(Exception):
    """Request that gradprobe could not fulfil; the message is one line."""


class UsageError(GradprobeError):
    """Request with a wrong name, value or combination of options."""


class Notice(UserWarning):
    """Choice that gradprobe made for the user; the command line prints each on stderr, once."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the end of an error message about an unknown name: the nearest known name, then all of them.

    Args:
        name: Name that was typed.
        known: Names that exist.

    Returns:
        Text such as ``did you mean 'vpnoise'? Known: gumbel, vpnoise``.

    Example:
        >>> nearest("vpnose", ["vpnoise", "gumbel"])
        "did you mean 'vpnoise'? Known: gumbel, vpnoise"
        >>> nearest("tau", [])
        'there is none'
    """
    names = sorted(known)
    if not names:
        return "there is none"
    by_lower = {each.lower(): each for each in names}  # VPNoise and TAU are near vpnoise and tau
    close = get_close_matches(str(name), names, n=1) or get_close_matches(str(name).lower(), by_lower, n=1)
    guess = f"did you mean '{by_lower.get(close[0], close[0])}'? " if close else ""
    return f"{guess}Known: {', '.join(names)}"


def in_words(value: object) -> str:
    """Return one line that describes a wrong value: the value itself if it is short, else its type.

    Example:
        >>> in_words("scenes"), in_words(list(range(100)))
        ("'scenes'", 'a list')
    """
    text = repr(value)
    return text if len(text) <= 60 and "\n" not in text else f"a {type(value).__name__}"


def check_positive(name: str, field: str, value: float) -> None:
    """Refuse a field of an operator that is not a positive number.

    Raises:
        UsageError: The value is not positive; the message has an example.

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


def out_of_memory(error: BaseException) -> bool:
    """Tell an error of exhausted memory, of the machine or its GPU, however numpy and torch put it.

    An error that was raised from such an error counts as one.

    Example:
        >>> out_of_memory(MemoryError()), out_of_memory(RuntimeError("CUDA error: out of memory"))
        (True, True)
        >>> out_of_memory(RuntimeError("shapes do not fit"))
        False
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's, without importing it
        return True
    text = str(error).lower()
    full = isinstance(error, RuntimeError) and any(words in text for words in _MEMORY)
    return full or (error.__cause__ is not None and out_of_memory(error.__cause__))


_MEMORY = ("can't allocate memory", "out of memory", "alloc_failed")  # of a CPU, of CUDA and of its libraries
