"""Scalar functions of a selection, to be differentiated."""

from torch import Tensor

from gradprobe.core import Selection
from gradprobe.testing.findings import all_in_order


def linear(selection: Selection, coefficients: Tensor) -> Tensor:
    """Return a linear function of the tokens, ``(B,)``; a bias on a token counts as the weight that it gives.

    Args:
        selection: Output of an operator.
        coefficients: Coefficients, ``(N, D)``.
    """
    full = all_in_order(selection, len(coefficients))
    tokens = full.tokens if full.key_bias is None else full.tokens * full.key_bias.exp()[..., None]
    total = (tokens * coefficients.to(tokens)).sum((1, 2))
    if full.self_bias is not None:
        total = total + (full.self_bias.exp() * coefficients[:, 0].to(tokens)).sum(1)
    return total if full.penalty is None else total + full.penalty


def curved(selection: Selection) -> Tensor:
    """Return the sum of squares of everything that a loss may read, ``(B,)``, in float64."""
    total = selection.tokens.double().square().sum((1, 2))
    for bias in (selection.key_bias, selection.self_bias):
        if bias is not None:
            total = total + bias.double().exp().square().sum(1)
    for extra in (selection.penalty, selection.log_prob):
        if extra is not None:
            total = total + extra.double()
    return total
