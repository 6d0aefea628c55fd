"""Completion of names in a shell; ``gradprobe --install-completion`` switches it on.

Where nothing completes, the shell offers files: ``my.py:MyOp`` and ``plan.json`` begin so.
"""

from gradprobe.errors import GradprobeError

AFTER = (":", "@")  # behind them come fields and layers, which are not completed


def operators(incomplete: str) -> list[str]:
    """Return the operators that a text may become: whole ones, relaxations and, behind a plus, throttles.

    Example:
        >>> operators("lapsum+vp")
        ['lapsum+vpnoise']
        >>> operators("lapsum:tau=0.3+sca")
        ['lapsum:tau=0.3+scale', 'lapsum:tau=0.3+scale-vpnoise']
    """
    relaxation, plus, throttle = incomplete.rpartition("+")
    if plus:
        return [f"{relaxation}+{name}" for name in _beginning("throttle", throttle)]
    return list(dict.fromkeys([*_beginning("operator", incomplete), *_beginning("relaxation", incomplete)]))


def selectors(incomplete: str) -> list[str]:
    """Return the selectors or plans that a text may become; the stages before a semicolon stay.

    Example:
        >>> selectors("divprune:k=128;fast")
        ['divprune:k=128;fastv']
    """
    before, semicolon, stage = incomplete.rpartition(";")
    return [f"{before}{semicolon}{name}" for name in _beginning("selector", stage)]


def checked(incomplete: str) -> list[str]:
    """Return the operators and selectors that a text may become."""
    return [*operators(incomplete), *selectors(incomplete)]


def baselines(incomplete: str) -> list[str]:
    """Return the operators that a text may become, and ``none``."""
    return [*operators(incomplete), *(["none"] if "none".startswith(incomplete) else [])]


def _beginning(kind: str, start: str) -> list[str]:
    """Return the names of a kind that begin with a text; a package that is broken completes nothing."""
    from gradprobe.operators import registry

    if any(sign in start for sign in AFTER):
        return []
    try:
        return [name for name in registry.names(kind) if name.startswith(start)]
    except GradprobeError:
        return []
