"""The top-K of equal values, and the contract that `apply` checks."""

import pytest
import torch

from gradprobe.budget import check_k
from gradprobe.core import Noise, Selection, apply, top_k, top_k_mask
from gradprobe.errors import GradprobeError, UsageError


def test_top_k_takes_the_first_of_equals_and_keeps_the_order():
    values = torch.tensor([[1.0, 2.0, 2.0, 2.0, 0.0], [5.0, 4.0, 3.0, 2.0, 1.0]])
    assert top_k(values, 2).tolist() == [[1, 2], [0, 1]]
    assert top_k_mask(values, 2).tolist() == [[0, 1, 1, 0, 0], [1, 1, 0, 0, 0]]


@pytest.mark.parametrize("k", [0, -1, 11])
def test_a_budget_outside_one_to_n_is_refused(k):
    with pytest.raises(UsageError, match=r"of 10 tokens; possible: --k 1 to --k 10"):
        check_k(k, 10)


@pytest.mark.parametrize("k", [2.5, "3", None])
def test_a_budget_that_is_no_whole_number_is_refused(k):
    with pytest.raises(UsageError, match=r"is not possible; give a whole number, 1 to 10, or a share"):
        check_k(k, 10)


BROKEN = {
    "changed its inputs": lambda p, s, k, noise: Selection(p.mul_(2), s),
    "returned Tensor": lambda p, s, k, noise: p,
    "returned tokens": lambda p, s, k, noise: Selection(p[..., :2], s),
    "returned weights": lambda p, s, k, noise: Selection(p, s[:, :3]),
    "returned key_bias": lambda p, s, k, noise: Selection(p, s, key_bias=s[:, :3]),
    "without their index": lambda p, s, k, noise: Selection(p[:, :k], s),
}


@pytest.mark.parametrize("words", BROKEN)
def test_apply_names_what_an_operator_broke(words):
    with pytest.raises(GradprobeError, match=words):
        apply(BROKEN[words], torch.randn(2, 9, 4), torch.randn(2, 9), 3, Noise(0, (0, 1)), "mine")
