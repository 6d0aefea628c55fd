"""Budget K: a number of tokens, or a share of N."""

from numbers import Real

from gradprobe.errors import UsageError, in_words


def check_budget(k: int | None, keep: float | None) -> None:
    """Refuse a budget that is not exactly one of a number of tokens and a share.

    Args:
        k: Number of tokens kept; its range is checked when N is known.
        keep: Share of tokens kept.

    Raises:
        UsageError: Both or neither are given, or the share is outside (0, 1].
    """
    if (k is None) == (keep is None):
        raise UsageError("give either --k (tokens kept) or --keep (their share, e.g. --keep 0.3)")
    if keep is not None and not (isinstance(keep, Real) and 0 < keep <= 1):
        raise UsageError(f"--keep {keep} is not possible; give a share in (0, 1], e.g. --keep 0.3")


def budget(k: int | None, keep: float | None, n_tokens: int) -> int:
    """Return K, the number of tokens kept of N.

    Example:
        >>> budget(None, 0.3, 196), budget(58, None, 196)
        (59, 58)
    """
    return k if k is not None else max(1, round((keep or 1) * n_tokens))


def check_k(k: int, n: int) -> None:
    """Refuse a budget outside 1..N.

    Raises:
        UsageError: K is not a whole number between 1 and N.
    """
    if not isinstance(k, int) or isinstance(k, bool):
        raise UsageError(f"k={in_words(k)} is not possible; give a whole number, 1 to {n}, or a share with keep=0.3")
    if not 1 <= k <= n:
        raise UsageError(
            f"k={k} asks for {k} of {n} tokens; possible: --k 1 to --k {n}, or --keep with a share in (0, 1]"
        )
