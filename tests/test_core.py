"""Keyed noise, the top-K of equal values, and the contract that `apply` checks."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradprobe.budget import check_k
from gradprobe.core import Noise, Selection, Stream, apply, top_k, top_k_mask
from gradprobe.errors import GradprobeError, UsageError

KINDS = ("normal", "uniform", "gumbel")


@pytest.mark.parametrize("kind", KINDS)
@given(ids=st.lists(st.integers(0, 2**62), min_size=1, max_size=6, unique=True), data=st.data())
@settings(max_examples=20, deadline=None)
def test_an_images_noise_does_not_depend_on_its_batch_or_order(kind, ids, data):
    order = data.draw(st.permutations(ids))
    here, there = getattr(Noise(3, ids), kind)((5, 2)), getattr(Noise(3, order), kind)((5, 2))
    for i, image in enumerate(ids):
        assert torch.equal(here[i], there[order.index(image)])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "other",
    [Noise(1, (7,)), Noise(0, (8,)), Noise(0, (7,)).draw(1), Noise(0, (7,)).stream(Stream.THROTTLE)],
    ids=lambda n: str(n),
)
def test_another_seed_image_draw_or_stream_gives_other_noise(kind, other):
    assert not torch.equal(getattr(Noise(0, (7,)), kind)((9,)), getattr(other, kind)((9,)))


def test_noise_has_the_promised_distributions():
    noise, n = Noise(0, range(200)), 2000
    normal, uniform, gumbel = (getattr(noise, kind)((n,)).double() for kind in KINDS)
    error = 5 / (200 * n) ** 0.5
    assert abs(normal.mean()) < error
    assert abs(normal.square().mean() - 1) < 1.5 * error
    assert abs(uniform.mean() - 0.5) < error
    assert uniform.min() > 0
    assert uniform.max() < 1
    assert abs(gumbel.mean() - 0.5772156649) < 1.3 * error
    between = torch.corrcoef(normal)[~torch.eye(200, dtype=torch.bool)]
    assert abs(between.square().mean() * n - 1) < 0.1  # images are independent of each other


def test_noise_leaves_the_global_generators_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    Noise(0, (1, 2)).gumbel((4,))
    assert torch.equal(before, torch.get_rng_state())


def test_noise_is_the_same_numbers_in_any_dtype():
    wide = Noise(0, (1,)).normal((8,), like=torch.zeros(1, dtype=torch.float64))
    assert torch.equal(wide.float(), Noise(0, (1,)).normal((8,)))


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


def test_the_numbers_of_the_streams_never_change():
    """They are part of the random numbers of every stored answer."""
    assert dict(Stream.__members__) == {
        "RELAXATION": 0, "THROTTLE": 1, "SMOOTHING": 2, "RANKING": 2, "FIDELITY_SCORES": 3, "VALIDATION": 7,
        "EQUIVALENCE_SCORES": 1000,
    }  # fmt: skip
    drawn = Noise(4, (5,)).draw(3).stream(Stream.SMOOTHING).normal((7,))
    by_hand = np.random.Generator(np.random.SFC64([4, 5, 3, 2])).standard_normal(7, dtype=np.float32)
    assert drawn[0].tolist() == by_hand.tolist()


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
