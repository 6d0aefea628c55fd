"""Checks on a device that is far away: none is lost, none waits, and the error is the one that a CPU gives."""

import pytest
import torch
from far_device import Far, far, far_device

from gradprobe import deferred
from gradprobe.core import top_k
from gradprobe.deferred import deferring, refuse, settle
from gradprobe.errors import GradprobeError
from gradprobe.training.workers import in_threads


def mask(bad):
    return torch.tensor([False, bad])


def error(name):
    return lambda bad: GradprobeError(f"{name}: {bad.nonzero().flatten().tolist()}")


@pytest.mark.parametrize("block", [True, False])
def test_on_a_cpu_a_check_is_made_at_once(block):
    with deferring():
        with pytest.raises(GradprobeError, match=r"a: \[1\]"):
            refuse(mask(True), error("a"))
        refuse(mask(False), error("b"))


def test_outside_of_a_block_a_far_check_is_made_at_once():
    with far_device() as waits:
        refuse(far(mask(False)), error("a"))
        assert len(waits) == 1
        with pytest.raises(GradprobeError, match=r"b: \[1\]"):
            refuse(far(mask(True)), error("b"))


@pytest.mark.parametrize("count", [1, 10, 100])
def test_a_block_waits_once_however_many_checks_it_has(count):
    with far_device() as waits, deferring():
        for _ in range(count):
            refuse(far(mask(False)), error("a"))
        assert len(waits) == 0
    assert len(waits) == 1


def test_a_block_without_checks_does_not_wait():
    with far_device() as waits, deferring():
        pass
    assert len(waits) == 0


def test_the_first_of_several_errors_is_raised_at_the_end():
    done = []
    with far_device(), pytest.raises(GradprobeError, match=r"b: \[1\]"), deferring():
        for name, bad in (("a", False), ("b", True), ("c", True)):
            refuse(far(mask(bad)), error(name))
            done.append(name)
    assert done == ["a", "b", "c"]


def test_what_follows_from_a_bad_value_is_not_told_instead_of_it():
    with far_device(), pytest.raises(GradprobeError, match="a: ") as caught, deferring():
        refuse(far(mask(True)), error("a"))
        raise ValueError("a consequence")
    assert isinstance(caught.value.__cause__, ValueError)
    with far_device(), pytest.raises(ValueError, match="of its own"), deferring():
        refuse(far(mask(False)), error("a"))
        raise ValueError("an error of its own")


@pytest.mark.parametrize("kind", [KeyboardInterrupt, torch.OutOfMemoryError])
def test_an_interrupt_and_full_memory_are_handed_on_at_once(kind):
    with far_device() as waits, pytest.raises(kind), deferring():
        refuse(far(mask(True)), error("a"))
        raise kind
    assert len(waits) == 0


def test_before_something_is_written_the_checks_so_far_are_settled():
    with far_device(), pytest.raises(GradprobeError, match="a: "), deferring():
        refuse(far(mask(True)), error("a"))
        settle()
        raise AssertionError("written")
    settle()  # outside there is nothing to settle


def test_an_inner_block_settles_its_own_checks_alone():
    with far_device() as waits, pytest.raises(GradprobeError, match="outer"), deferring():
        refuse(far(mask(True)), error("outer"))
        with deferring():
            refuse(far(mask(False)), error("inner"))
        assert len(waits) == 1
        with pytest.raises(GradprobeError, match="inner"), deferring():
            refuse(far(mask(True)), error("inner"))


def test_threads_defer_to_the_block_they_work_for():
    def work(i):
        refuse(far(mask(i == 3)), error(f"item {i}"))
        return i

    with far_device() as waits, pytest.raises(GradprobeError, match="item 3"), deferring():
        assert list(in_threads(work, range(6), 2)) == list(range(6))
        assert len(waits) == 0


def test_masks_do_not_pile_up_on_a_device_without_events(monkeypatch):
    monkeypatch.setattr(deferred, "MOST", 3)
    done = []
    with far_device(), pytest.raises(GradprobeError, match="item 0"), deferring():
        for i in range(10):
            refuse(far(mask(i == 0)), error(f"item {i}"))
            done.append(i)
    assert done == [0, 1, 2]


class Event:
    """Event of a device that comes when it is told to."""

    def __init__(self):
        self.here = False

    def query(self):
        return self.here

    def synchronize(self):
        self.here = True


def test_an_error_comes_with_the_first_check_after_its_event(monkeypatch):
    events = []

    def of(bad, error):
        events.append(Event())
        return deferred._Check(bad, error, bad.near.any(), events[-1])

    monkeypatch.setattr(deferred._Check, "of", of)
    done = []
    with far_device() as waits, pytest.raises(GradprobeError, match="item 2"), deferring():
        for i in range(10):
            for event in events[: i - 2]:  # three checks behind
                event.here = True
            refuse(far(mask(i in (2, 4))), error(f"item {i}"))
            done.append(i)
    assert done == [0, 1, 2, 3, 4]
    assert len(waits) == 1  # to say which
    with far_device() as waits, deferring():
        for _ in range(5):
            refuse(far(mask(False)), error("a"))
    assert all(event.here for event in events[-5:]) and len(waits) == 0


@pytest.mark.parametrize("rows", [1, 3])
def test_scores_that_are_nan_are_told_as_on_a_cpu(rows):
    scores = torch.zeros(4, 3)
    scores[:rows, 1] = torch.nan
    with pytest.raises(GradprobeError) as near:
        top_k(scores, 2)
    with far_device(), pytest.raises(GradprobeError) as later, deferring():
        index = top_k(far(scores), 2)
        assert isinstance(index, Far) and index.shape == (4, 2)
    with far_device(), pytest.raises(GradprobeError) as at_once:
        top_k(far(scores), 2)
    assert str(near.value) == str(later.value) == str(at_once.value)


class Checked(torch.autograd.Function):
    """The identity, whose backward checks what comes back."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        top_k(gradient, 1)
        return gradient


def test_a_check_in_a_backward_pass_of_another_thread_is_deferred_too():
    """A GPU's backward runs in threads of torch, to which no context variable comes."""
    from contextvars import Context

    x = torch.zeros(2, 3)
    with far_device() as waits, pytest.raises(GradprobeError, match="NaN"), deferring():
        leaf = far(x).requires_grad_()
        out = Checked.apply(leaf)
        Context().run(torch.autograd.grad, out, leaf, far(torch.full((2, 3), torch.nan)))
        assert len(waits) == 0
