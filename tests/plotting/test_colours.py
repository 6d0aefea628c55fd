"""Colours of operators: the same everywhere, and told apart with every kind of colour vision."""

import itertools

import numpy as np
import pytest

from gradprobe.plotting.colours import FREE, GUMBEL, OPERATORS, THROTTLES, VPNOISE, colours_of
from gradprobe.plotting.style import BLUE, ORANGE

# Machado, Oliveira and Fernandes, "A physiologically-based model for simulation of color vision deficiency" (2009):
# linear RGB as seen without one kind of cone.
VISION = {
    "normal": np.eye(3),
    "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "tritanopia": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}
APART = 15  # CIE 1976; 2.3 is just noticeable side by side


def lab(colour, vision):
    value = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    linear = np.clip(np.array(VISION[vision]) @ linear, 0, 1)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.cbrt(np.maximum(to_xyz @ linear / [0.9505, 1, 1.089], 0.008856))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("vision", VISION)
def test_colours_are_told_apart(vision):
    every = set(OPERATORS.values()) | set(THROTTLES.values()) | set(FREE)
    for one, other in itertools.combinations(sorted(every), 2):
        assert np.linalg.norm(lab(one, vision) - lab(other, vision)) > APART, (one, other)


def test_the_measure_tells_colours_that_are_not():
    red, green = "#A05030", "#686828"
    assert np.linalg.norm(lab(red, "normal") - lab(green, "normal")) > 2 * APART
    assert np.linalg.norm(lab(red, "protanopia") - lab(green, "protanopia")) < APART


def test_operators_of_the_table_have_their_colours_in_any_company():
    for others in ([], ["my.py:Op", "softsort+scale"], ["x+gather", "lapsum+mean"]):
        found = colours_of([*others, *OPERATORS])
        assert {op: found[op] for op in OPERATORS} == OPERATORS
    assert (OPERATORS[GUMBEL], OPERATORS[VPNOISE]) == (ORANGE, BLUE)


def test_others_take_that_of_their_throttle_or_a_free_one():
    assert colours_of(["softsort+scale"])["softsort+scale"] == THROTTLES["scale"]
    both = colours_of(["softsort+scale", "lapsum+scale", "a.py:Op", "b.py:Op"])
    assert both["lapsum+scale"] == OPERATORS["lapsum+scale"]
    assert len(set(both.values())) == 4
    assert set(colours_of(f"m.py:Op{i}" for i in range(len(FREE))).values()) == set(FREE)
    assert len(colours_of(f"m.py:Op{i}" for i in range(30))) == 30


def test_a_sharper_operator_is_darker_and_a_softer_one_is_as_by_default():
    names = ["lapsum:tau=2+vpnoise", "lapsum+vpnoise", "lapsum:tau=0.3+vpnoise", "lapsum:tau=0.1+vpnoise"]
    soft, default, sharp, sharper = colours_of(names).values()
    assert soft == default == BLUE
    light = [lab(colour, "normal")[0] for colour in (default, sharp, sharper)]
    assert light[0] > light[1] + 5 > light[2] + 10
    assert colours_of(["lapsum:tau=x+vpnoise"]) == {"lapsum:tau=x+vpnoise": BLUE}


def test_a_name_with_its_denoiser_has_the_operators_colour_once():
    names = [f"{VPNOISE} (token denoiser)", f"{VPNOISE} (global denoiser)"]
    first, second = colours_of(names).values()
    assert first == BLUE != second
