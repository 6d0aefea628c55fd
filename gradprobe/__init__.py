"""gradprobe: measure which differentiable token-selection operator gives a gradient one can trust.

Example:
    >>> import torch, gradprobe as gp
    >>> op = gp.build("vpnoise:tau=0.3")
    >>> selection = op(torch.randn(2, 196, 32), torch.randn(2, 196), 58, noise=gp.Noise(0, (0, 1)))
    >>> bool((selection.weights.sum(1) - 58).abs().max() < 1e-3)
    True
"""

import importlib

__version__ = "0.1.0"

_HOME = {
    "About": "about",
    "axis": "planes",
    "Backbone": "backbones",
    "GradprobeError": "errors",
    "Noise": "core",
    "Operator": "core",
    "Recipe": "train",
    "Selection": "core",
    "Store": "results",
    "Tokens": "core",
    "UsageError": "errors",
    "build": "registry",
    "check_operator": "testing",
    "classification": "tasks",
    "coherence": "probes.coherence",
    "cost": "probes.cost",
    "curvature": "probes.curvature",
    "equivalence": "probes.equivalence",
    "fidelity": "probes.fidelity",
    "filter_normalized": "directions",
    "from_metric": "planes",
    "functional_call": "functional",
    "landscape": "probes.landscape",
    "line": "planes",
    "load_scorer": "deploy",
    "pca_directions": "directions",
    "plane": "planes",
    "prune": "deploy",
    "reference": "probes.reference",
    "retention": "probes.retention",
    "soft_topk": "softtopk",
}
__all__ = sorted(_HOME)


def __getattr__(name: str):
    """Resolve a public name on first use, so that importing gradprobe costs nothing."""
    if name == "vlm":
        return importlib.import_module("gradprobe.vlm")
    if name not in _HOME:
        raise AttributeError(f"gradprobe has no {name!r}; public names: {', '.join(__all__)}")
    return getattr(importlib.import_module(f"gradprobe.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "vlm", "__version__"]
