"""Calls of anyone's selector: what it does wrong is one line with its name."""

import pytest
import torch

from gradprobe.core import Noise
from gradprobe.errors import GradprobeError
from gradprobe.selectors.asking import keep, scores_of
from gradprobe.view import Kept, Unavailable, View

INDEX = torch.tensor([[0, 2], [1, 3]])


class Returns:
    """Selector that returns the same whatever it sees."""

    def __init__(self, what=None, score=None):
        self.what, self.score = what, score

    def __call__(self, view, k):
        if isinstance(self.what, Exception):
            raise self.what
        return self.what

    def scores(self, view):
        if isinstance(self.score, Exception):
            raise self.score
        return self.score


def view():
    return View(Noise(0, (0, 1)), torch.zeros(2, 5, 4))


def test_what_a_selector_keeps_is_returned_as_it_is_without_a_gradient():
    kept = Kept(INDEX, torch.ones(2, 2, 4))
    assert keep(Returns(kept), view(), 2) is kept
    assert keep(lambda view, k: Kept(INDEX, view.features[:, :2] * int(not torch.is_grad_enabled())), view(), 2)
    scores = torch.randn(2, 5)
    assert scores_of(Returns(score=scores), view()) is scores
    assert scores_of(lambda view, k: None, view()) is None


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (None, "returned NoneType; return a gradprobe.view.Kept"),
        (INDEX, "returned Tensor; return a gradprobe.view.Kept"),
        (Kept([[0, 2], [1, 3]]), r"an index list; it must be int64 \(2, 2\)"),
        (Kept(INDEX.int()), r"an index torch.int32 \(2, 2\); it must be int64"),
        (Kept(INDEX[:, :1]), r"an index torch.int64 \(2, 1\); it must be int64 \(2, 2\)"),
        (Kept(INDEX[:1]), r"an index torch.int64 \(1, 2\)"),
        (Kept(INDEX.flip(1)), r"kept \[2, 0\] of 5 tokens"),
        (Kept(torch.tensor([[0, 2], [3, 3]])), r"kept \[3, 3\] of 5 tokens"),
        (Kept(INDEX + 3), r"kept \[3, 5\] of 5 tokens"),
        (Kept(INDEX - 1), r"kept \[-1, 1\] of 5 tokens"),
        (Kept(INDEX, torch.ones(2, 2, 3)), r"tokens \(2, 2, 3\); they must be \(2, 2, 4\)"),
        (Kept(INDEX, [1]), "tokens list; they must be"),
        (ValueError("first line\nsecond line"), "raised ValueError: first line second line; --debug shows where"),
    ],
)
def test_a_broken_selector_is_one_line_with_its_name(what, words):
    with pytest.raises(GradprobeError, match=f"selector .*Returns.* {words}") as caught:
        keep(Returns(what), view(), 2)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("score", "words"),
    [
        (torch.ones(2, 4), r"returned scores \(2, 4\); they must be \(2, 5\)"),
        ([1, 2], "returned scores list"),
        (KeyError("x"), "raised KeyError: 'x'"),
    ],
)
def test_broken_scores_are_one_line_with_the_name(score, words):
    with pytest.raises(GradprobeError, match=f"selector .*Returns.* {words}"):
        scores_of(Returns(score=score), view())


@pytest.mark.parametrize("error", [Unavailable("no text"), GradprobeError("no such thing"), MemoryError("full")])
def test_errors_that_say_enough_stay_as_they_are(error):
    for call in (lambda: keep(Returns(error), view(), 2), lambda: scores_of(Returns(score=error), view())):
        with pytest.raises(type(error)) as caught:
            call()
        assert caught.value is error and caught.value.__cause__ is None
