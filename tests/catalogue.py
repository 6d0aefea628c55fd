"""Score inputs that every relaxation and operator has to survive; shared by the tests."""

import torch
from torch import Tensor


def score_cases(n: int = 17) -> dict[str, Tensor]:
    """Name -> scores ``(4, n)``, float64, the same in every call."""
    generator = torch.Generator().manual_seed(20)
    normal = torch.randn(4, n, generator=generator, dtype=torch.float64)
    signs = torch.where(normal > 0, 1.0, -1.0).double()
    outlier = normal.clone()
    outlier[:, n // 2] = 1e4
    return {
        "normal": normal,
        "ties": normal.round(),
        "zeros": torch.zeros_like(normal),
        "ten thousand": 1e4 * signs,
        "wide": 1e4 * normal,
        "tiny": 1e-9 * normal,
        "sorted": normal.sort(-1).values,
        "reversed": normal.sort(-1, descending=True).values,
        "one outlier": outlier,
        "two crowds": 100 * signs + 1e-6 * normal,
        "heavy tail": normal.sign() * (3 * normal.abs()).exp(),
        "far from zero": 1e4 + normal,
    }
