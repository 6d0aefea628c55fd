"""Kernels never rise, begin at all tokens, and stand for schedules of whole layers."""

from itertools import pairwise

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from gradprobe.errors import UsageError
from gradprobe.vlm.search.kernels import Free, Steps, kernel_of

KERNELS = [Steps(1), Steps(2), Steps(3), Free()]
each_kernel = pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.label)
layers_of = st.integers(4, 9)
values = st.floats(-8, 8)


def drawn(data, kernel, layers):
    size = layers - 1 if kernel == Free() else 2 * kernel.m
    return torch.tensor(data.draw(st.lists(values, min_size=size, max_size=size)), dtype=torch.float64)


@each_kernel
@given(st.data(), layers_of, st.floats(1, 12))
def test_shares_never_rise_and_layer_0_reads_all(kernel, data, layers, steepness):
    shares = kernel.shares(drawn(data, kernel, layers), layers, steepness)
    assert shares.shape == (layers,) and shares[0] == 1
    assert (shares.diff() <= 1e-12).all() and (shares >= 0).all()


@each_kernel
def test_all_tokens_at_a_share_of_1(kernel):
    whole = torch.full_like(kernel.start(6, 0.5, 0.5), 60.0)
    assert torch.equal(kernel.shares(whole, 6, 10), torch.ones(6, dtype=torch.float64))


@each_kernel
@given(st.data(), layers_of)
def test_schedules_are_whole_layers_that_never_rise(kernel, data, layers):
    made = kernel.schedules(drawn(data, kernel, layers), layers)
    assert made and len(set(made)) == len(made)
    for shares in made:
        assert len(shares) == layers and shares[0] == 1
        assert all(after <= before for before, after in pairwise(shares))
        if kernel != Free():
            assert len(set(shares)) <= kernel.m + 1


@each_kernel
def test_numbers_to_begin_with_end_at_the_share_that_is_asked_for(kernel):
    shares = kernel.shares(kernel.start(8, 0.25, 0.5), 8, 50)
    assert shares[-1].item() == pytest.approx(0.25, abs=1e-6)


@pytest.mark.parametrize(
    ("place", "expected"), [(0.6, [1, 2]), (1.4, [2, 1]), (1.9, [2, 3]), (2.2, [3, 2]), (3.4, [4, 3])]
)
def test_a_step_lies_at_the_layers_around_its_place(place, expected):
    number = torch.tensor((place - 0.5) / 3, dtype=torch.float64).logit()
    numbers = torch.stack([number, torch.zeros_like(number)])
    made = Steps(1).schedules(numbers, 5)
    assert [shares.index(0.5) for shares in made] == expected
    soft = Steps(1).shares(numbers, 5, 500)
    assert soft.tolist() == pytest.approx(made[0], abs=1e-9)


@pytest.mark.parametrize("m", [2, 3])
@given(st.data(), layers_of)
def test_sharp_steps_are_the_nearest_schedule_in_whatever_order_their_places_lie(m, data, layers):
    numbers = drawn(data, Steps(m), layers)
    places = 0.5 + (layers - 2) * numbers[:m].sigmoid()
    assume(((places - places.round()).abs() > 1e-3).all())
    sharp = Steps(m).shares(numbers, layers, 1e6)
    assert sharp.tolist() == pytest.approx(Steps(m).schedules(numbers, layers)[0], abs=1e-9)


def test_names():
    for kernel in KERNELS:
        assert kernel_of(kernel.label) == kernel
    for wrong in ("steps:m=0", "steps:m=9", "linear", "steps:m=x", ""):
        with pytest.raises(UsageError, match="not possible"):
            kernel_of(wrong)


def test_a_model_without_layers_to_spare_is_refused():
    for kernel in KERNELS:
        with pytest.raises(UsageError, match=r"layers? after the first"):
            kernel.check(1)
        kernel.check(4)
    with pytest.raises(UsageError, match="give step, or a model with more"):
        Steps(3).check(3)
