"""An operator without a fault, in which the tests of the contract plant faults."""

from collections.abc import Callable
from dataclasses import dataclass

from gradprobe.core import Selection
from gradprobe.operator_info import About
from gradprobe.operators.softtopk import soft_topk


def exact(patches, scores, k, noise):
    """Operator without a fault, in which faults are planted."""
    weights = soft_topk(scores, k)
    return Selection(patches * weights[..., None], weights)


EXACT = About("alpha_i x_i", "exact", budget=1e-9)


@dataclass(frozen=True)
class Planted:
    """Operator that is `exact` but for one fault."""

    act: Callable = exact
    about: About | None = EXACT

    def __call__(self, patches, scores, k, noise):
        return self.act(patches, scores, k, noise)
