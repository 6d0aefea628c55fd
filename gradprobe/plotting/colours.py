"""Colours of operators, the same in every figure and distinguishable with all kinds of colour vision."""

import math
import re
from collections.abc import Iterable

from gradprobe.plotting.style import BLACK, BLUE, BROWN, GREEN, INDIGO, ORANGE, PURPLE, SKY, VERMILION, WINE

GUMBEL, VPNOISE = "gumbel-ste+gather", "lapsum+vpnoise"  # the paper's two
# Of an operator without its tau. These have their colours everywhere.
OPERATORS = {
    GUMBEL: ORANGE,
    VPNOISE: BLUE,
    "gumbel-ste:backward=soft+gather": VERMILION,
    "gumbel-ste+zero": WINE,
    "lapsum+scale": GREEN,
    "lapsum+attention": PURPLE,
    "lapsum+mean": SKY,
    "lapsum+vpnoise:sigma=unit": INDIGO,
    "hard+gather": BLACK,
}
# Of a throttle, where it is what a figure tells apart; another operator takes that of its throttle if it is free.
THROTTLES = {
    "gather": ORANGE,
    "vpnoise": BLUE,
    "scale": GREEN,
    "attention": PURPLE,
    "mean": SKY,
    "zero": WINE,
    "scale-vpnoise": INDIGO,
    "dynamicvit": BROWN,
}
FREE = (GREEN, PURPLE, SKY, VERMILION, WINE, INDIGO, BROWN, BLACK)  # for all others, in this order
DARKEST, SHARP = 0.6, 0.1  # share of black at this tau or a lower one; none from 1 on
_TAU = re.compile(r"[:,]tau=([^,+]*)")


def colours_of(operators: Iterable[str]) -> dict[str, str]:
    """Return the colour of each operator of a figure.

    Operators that differ in their tau alone share a colour, darker for the sharper ones (but those above 1 are alike).

    Args:
        operators: Names of all operators of the figure, so that no two get one colour while there are free ones.

    Example:
        >>> colours_of(["lapsum+vpnoise", "my.py:Op", "lapsum:tau=0.1+vpnoise"])
        {'lapsum+vpnoise': '#0072B2', 'my.py:Op': '#009E73', 'lapsum:tau=0.1+vpnoise': '#002E47'}
    """
    families = {op: _without_tau(op) for op in operators}
    own: dict[str, str] = {}
    for family in sorted(families.values(), key=lambda name: name not in OPERATORS):  # those of the table first
        if family in own:
            continue
        bare = family.partition(" ")[0]  # a table may name more than the operator: "lapsum+scale (token denoiser)"
        wanted = OPERATORS.get(bare) or THROTTLES.get(throttle_of(bare))
        free = [colour for colour in (wanted, *FREE) if colour and colour not in own.values()]
        own[family] = free[0] if free else FREE[len(own) % len(FREE)]
    return {op: _darker(own[family], op) for op, family in families.items()}


def throttle_of(op: str) -> str:
    """Return the throttle of an operator without its fields; the name itself of one that has no two parts.

    Example:
        >>> throttle_of("lapsum+vpnoise:sigma=unit"), throttle_of("my.py:Op")
        ('vpnoise', 'my.py:Op')
    """
    _, plus, throttle = op.rpartition("+")
    return throttle.partition(":")[0] if plus else op


def _without_tau(op: str) -> str:
    return re.sub(r":(?=\+|$)", "", re.sub(r"(?<=:)tau=[^,+]*,?|,tau=[^,+]*", "", op))


def _darker(colour: str, op: str) -> str:
    """Return a colour with the share of black that suits the operator's tau."""
    try:
        tau = float(found[1]) if (found := _TAU.search(op)) else 1.0
    except ValueError:
        return colour
    if not 0 < tau < 1:
        return colour
    left = 1 - DARKEST * min(math.log(tau) / math.log(SHARP), 1.0)
    return "#" + "".join(f"{round(left * int(colour[i : i + 2], 16)):02X}" for i in (1, 3, 5))
