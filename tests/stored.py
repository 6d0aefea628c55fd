"""Results made of toy gradients, for tests of what is stored, asked and drawn."""

import numpy as np

from gradprobe.probes.coherence.result import CoherenceResult

QUESTION = {
    "probe": "coherence", "op": "lapsum+vpnoise", "k": 58, "batches": 6, "batch_size": 16, "draws": 2, "seed": 0,
    "steps": 0, "scorer": "mlp", "backbone": "scenes", "weights": "0123456789ab", "data": "scenes", "layer": 0,
    "loss": "ce", "dtype": "float32",
}  # fmt: skip
ENVIRONMENT = {"versions": {"numpy": "2.0"}, "seconds": 0.1 + 0.2, "date": "2026-01-02T03:04:05+00:00"}


def asked(**fields):
    return QUESTION | fields


def result(question=QUESTION, signal=1.0, gradient="yes", seed=0, environment=ENVIRONMENT):
    """B batches of R draws of gradients in two groups that share a direction as strongly as ``signal`` says."""
    b, r = question.get("batches", 6), question.get("draws", 2)
    rng = np.random.default_rng(seed)
    g = signal * rng.normal(size=(2, 2, 1, 1, 20)) + rng.normal(size=(2, 2, b, r, 20))
    g = np.zeros_like(g) if gradient == "none" else g
    energy = rng.uniform(1, 2, (b, r)) * (gradient == "yes")
    return CoherenceResult(
        question=question, groups=("hidden", "out"), gradient=gradient, gram=np.einsum("cgbrp,cgdsp->cgbrds", g, g),
        energy=energy, common=energy * 0.3, losses=rng.uniform(1, 2, (b, r)), spread=rng.uniform(1, 2, b),
        environment=environment,
    )  # fmt: skip
