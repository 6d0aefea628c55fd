"""Evenly spaced tokens: places of whole numbers, gaps, pictures of several sizes."""

import pytest
import torch
from views import images, tiled

from gradprobe.selectors.downsample import Downsample, spaced


@pytest.mark.parametrize("grid", [(1, 1), (1, 9), (9, 1), (4, 6), (5, 5), (24, 24), (36, 12)])
def test_k_different_places_for_every_k(grid):
    rows, columns = grid
    for k in range(rows * columns + 1):
        places = spaced(grid, k)
        assert len({*places}) == k and places == sorted(places)
        assert all(0 <= row < rows and 0 <= column < columns for row, column in places)


@pytest.mark.parametrize(("k", "step"), [(576, 1), (144, 2), (64, 3), (36, 4), (9, 8)])
def test_a_budget_that_comes_out_even_is_a_lattice(k, step):
    lines = range(step // 2, 24, step)
    assert spaced((24, 24), k) == [(row, column) for row in lines for column in lines]


def test_every_token_is_near_a_kept_one():
    for k in range(1, 577):
        kept = torch.zeros(24, 24)
        kept[tuple(torch.tensor(spaced((24, 24), k)).T)] = 1
        reach = int(2.2 * (24 / k**0.5)) + 1  # of a lattice: half a step, and here a line may be short by one
        near = torch.nn.functional.max_pool2d(kept[None], 2 * reach + 1, 1, reach)
        assert near.all(), k


def test_pictures_share_in_proportion_to_their_tokens():
    index = Downsample()(tiled().view(), 16).index
    assert (index[0] < 16).sum() == 4 and torch.equal(index[0], index[1])


def test_tokens_of_an_unknown_grid_are_one_line():
    view = images(n=24).view(grids=((5, 5),))  # one of them is gone
    assert Downsample()(view, 4).index[0].tolist() == [3, 9, 15, 21]
