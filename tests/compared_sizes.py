"""The smallest comparison, for tests."""

from gradprobe.comparison import run as compare
from gradprobe.comparison.sizes import Size
from gradprobe.probes.cost import compared as cost
from gradprobe.probes.fidelity import compared as fidelity

LEAST = Size(
    batches=3, batch_size=1, points=5, line_images=2, fidelity_images=3, draws=32, held_out=3, equivalence_images=4,
    steps=2, test_images=8, seeds=1, rounds=6,
)  # fmt: skip


def shrink(monkeypatch):
    monkeypatch.setattr(compare, "SIZES", {"tiny": LEAST})
    monkeypatch.setattr(compare, "GROUP", 2)
    monkeypatch.setattr(cost, "GROUP", 2)
    monkeypatch.setattr(fidelity, "SIGMAS", (1.0,))
    monkeypatch.setattr(fidelity, "LADDER", (1e-3,))
