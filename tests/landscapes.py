"""Loss landscapes made of formulas, for tests of figures and pages."""

import numpy as np

from gradprobe.probes.landscape.result import LandscapeResult

GUMBEL, VPNOISE = "gumbel-ste+gather", "lapsum+vpnoise"
QUESTION = {
    "probe": "landscape", "op": VPNOISE, "k": 58, "images": 8, "noise": "common", "axes": "random", "steps": 0,
    "backbone": "scenes", "scorer": "mlp",
}  # fmt: skip


def bowl(a, b):
    return 2 * a**2 + b**2 + 0.3 * a - 0.23 * b


def stairs(a, b):
    return np.round(2 * b) / 4


def rough(a, b):
    return 0.02 * np.random.default_rng(0).normal(size=np.broadcast(a, b).shape)


def landscape(height=bowl, op=VPNOISE, level=7.0, rows=7, columns=11, path=(), **settings):
    """Return a result whose mean surface is ``level + height(a, b)``; images differ in level and a little in slope."""
    images = QUESTION["images"]
    a = np.linspace(-0.5, 0.5, rows) if rows > 1 else np.zeros(1)
    b = np.linspace(-1, 1, columns)
    image = np.linspace(-1, 1, images)
    surface = height(a[:, None], b[None, :]) * np.ones((rows, columns))
    path = np.reshape(np.array(path, float), (-1, 2))
    return LandscapeResult(
        question={**QUESTION, "op": op, **settings}, a=a, b=b,
        losses=level + image + surface[..., None] * (1 + 0.1 * image), centre=level + image,
        directions={"theta": 1.0, "d1": 1.0, "d2": 1.0, "cosine": 0.01, "parameters": 5}, path=path,
        path_losses=np.tile(level + 0.2 + image, (len(path), 1)), residual=np.linspace(0.0, 0.2, len(path)),
        explained=np.array([0.61, 0.22]) if settings.get("axes") == "pca" else np.zeros(0), environment={},
    )  # fmt: skip


def broken(result):
    """Return the result with a NaN and an infinite loss of one image, at cells (1, 2) and (4, 7)."""
    result.losses[1, 2, 0], result.losses[4, 7, 3] = np.nan, np.inf
    return result
