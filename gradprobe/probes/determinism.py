"""Detection of operators whose draws are all the same, so that one of them is measured instead of several."""

from dataclasses import replace

import torch
from torch import Tensor

from gradprobe.core import Noise, Selection, SelectionOperator, apply
from gradprobe.operator_info import about_of

OUTPUTS = ("tokens", "weights", "key_bias", "self_bias", "penalty")  # of a selection, as far as a loss can read them


class Recorder:
    """Operator that records its last call, and the gradient which comes back to each output of it.

    Args:
        operator: Operator that is called.
    """

    def __init__(self, operator: SelectionOperator):
        self.operator = operator
        self.arguments: tuple[Tensor, Tensor, int, Noise] | None = None
        self.gradients: dict[str, Tensor] = {}

    def __call__(self, patches: Tensor, scores: Tensor, k: int, noise: Noise) -> Selection:
        """Return the operator's selection; its outputs are views, which receive what the loss sends to them alone."""
        selection = self.operator(patches, scores, k, noise=noise)
        self.arguments, self.gradients = (patches, scores.detach(), k, noise), {}
        if not isinstance(selection, Selection):
            return selection  # refused by `apply`
        outputs = {name: getattr(selection, name) for name in OUTPUTS}
        followed = {name: x for name, x in outputs.items() if isinstance(x, Tensor) and x.requires_grad}
        return replace(selection, **{name: self._recorded(name, x) for name, x in followed.items()})

    def _recorded(self, name: str, value: Tensor) -> Tensor:
        view, gradients = value.view_as(value), self.gradients
        view.register_hook(lambda gradient: gradients.__setitem__(name, gradient))
        return view


def declared_stochastic(operator: SelectionOperator) -> bool:
    """Tell whether an operator declares that other noise gives another output, so that there is nothing to detect."""
    about = about_of(operator)
    return about is not None and about.stochastic


def repeats(recorder: Recorder, name: str) -> bool:
    """Tell whether draws 0 and 1 have the same gradient in the scores, bit for bit, without the frozen model.

    The model is a function of the selection. Where both draws select the same, the same gradient comes back to the
    selection, and its way through the operator decides. That gradient has been recorded while draw 0 was measured, so
    the outcome is that of measuring draw 1, for the time of the operator alone.

    Args:
        recorder: Operator, after a gradient of draw 0 was computed through it.
        name: The operator's name in error messages.
    """
    if recorder.arguments is None or not recorder.gradients:
        return False
    (first, u), (second, other) = (_pulled_back(recorder, recorder.arguments, r, name) for r in (0, 1))
    if first.log_prob is not None or u is None or other is None:
        return False  # a sampled subset, or no gradient: each draw is measured
    pairs = [(getattr(first, each), getattr(second, each)) for each in (*OUTPUTS, "index")]
    return torch.equal(u, other) and all(
        (one is None and two is None) or (one is not None and two is not None and torch.equal(one, two))
        for one, two in pairs
    )


def _pulled_back(
    recorder: Recorder, arguments: tuple[Tensor, Tensor, int, Noise], r: int, name: str
) -> tuple[Selection, Tensor | None]:
    """Return a draw's selection, and the recorded gradient pulled back to the scores."""
    patches, scores, k, noise = arguments
    leaf = scores.clone().requires_grad_()
    with torch.enable_grad():
        selection = apply(recorder.operator, patches, leaf, k, noise.draw(r), name)
    ends = {output: getattr(selection, output) for output in recorder.gradients}
    if not all(end is not None and end.requires_grad for end in ends.values()):
        return selection, None
    (u,) = torch.autograd.grad(list(ends.values()), leaf, list(recorder.gradients.values()), allow_unused=True)
    return selection, u
