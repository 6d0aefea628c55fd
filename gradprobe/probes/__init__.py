"""The probes, each in a folder of its own. Importing this package imports none of them."""

RESULTS = tuple(
    f"gradprobe.probes.{name}"
    for name in (
        "coherence.result", "landscape.result", "curvature.result", "fidelity.result", "fidelity.reference_result",
        "equivalence.result", "retention.result", "cost.result",
    )
)  # fmt: skip
