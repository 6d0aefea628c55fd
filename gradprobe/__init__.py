"""gradprobe: measure which differentiable token-selection operator gives a gradient one can trust.

Example:
    >>> import torch, gradprobe as gp
    >>> op = gp.build("vpnoise:tau=0.3")
    >>> selection = op(torch.randn(2, 196, 32), torch.randn(2, 196), 58, noise=gp.Noise(0, (0, 1)))
    >>> bool((selection.weights.sum(1) - 58).abs().max() < 1e-3)
    True
"""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:  # for type checkers and editors; at run time `_HOME` finds the same names, and torch comes with them
    from gradprobe import vlm as vlm
    from gradprobe.about import About as About
    from gradprobe.backbones import Backbone as Backbone
    from gradprobe.comparison import compare as compare
    from gradprobe.core import Batch as Batch
    from gradprobe.core import Noise as Noise
    from gradprobe.core import Operator as Operator
    from gradprobe.core import Relaxation as Relaxation
    from gradprobe.core import Selection as Selection
    from gradprobe.core import SelectionOperator as SelectionOperator
    from gradprobe.core import Task as Task
    from gradprobe.core import Throttle as Throttle
    from gradprobe.core import Tokens as Tokens
    from gradprobe.deploy import load_scorer as load_scorer
    from gradprobe.deploy import prune as prune
    from gradprobe.directions import filter_normalized as filter_normalized
    from gradprobe.directions import pca_directions as pca_directions
    from gradprobe.errors import GradprobeError as GradprobeError
    from gradprobe.errors import UsageError as UsageError
    from gradprobe.functional import functional_call as functional_call
    from gradprobe.planes import axis as axis
    from gradprobe.planes import from_metric as from_metric
    from gradprobe.planes import line as line
    from gradprobe.planes import plane as plane
    from gradprobe.probes.coherence import coherence as coherence
    from gradprobe.probes.cost import cost as cost
    from gradprobe.probes.curvature import curvature as curvature
    from gradprobe.probes.equivalence import equivalence as equivalence
    from gradprobe.probes.fidelity import fidelity as fidelity
    from gradprobe.probes.landscape import landscape as landscape
    from gradprobe.probes.reference import reference as reference
    from gradprobe.probes.retention import retention as retention
    from gradprobe.registry import build as build
    from gradprobe.results import Store as Store
    from gradprobe.softtopk import soft_topk as soft_topk
    from gradprobe.tasks import classification as classification
    from gradprobe.testing import check_operator as check_operator
    from gradprobe.train import Recipe as Recipe

_HOME = {
    "About": "about",
    "axis": "planes",
    "Backbone": "backbones",
    "Batch": "core",
    "GradprobeError": "errors",
    "Noise": "core",
    "Operator": "core",
    "Recipe": "train",
    "Relaxation": "core",
    "Selection": "core",
    "SelectionOperator": "core",
    "Store": "results",
    "Task": "core",
    "Throttle": "core",
    "Tokens": "core",
    "UsageError": "errors",
    "build": "registry",
    "check_operator": "testing",
    "classification": "tasks",
    "coherence": "probes.coherence",
    "compare": "comparison",
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

if not TYPE_CHECKING:  # a type checker that saw this would take every misspelt name for Any

    def __getattr__(name: str):
        """Resolve a public name on first use, so that importing gradprobe costs nothing."""
        if name == "vlm":
            return importlib.import_module("gradprobe.vlm")
        if name not in _HOME:
            raise AttributeError(f"gradprobe has no {name!r}; public names: {', '.join(__all__)}")
        return getattr(importlib.import_module(f"gradprobe.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "vlm", "__version__"]
