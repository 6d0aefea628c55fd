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

__version__ = "0.2.0"

if TYPE_CHECKING:  # for readers of sources; type checkers and editors read __init__.pyi, run time `_HOME`
    from gradprobe import vlm as vlm
    from gradprobe.advice.run import advise as advise
    from gradprobe.comparison.run import compare as compare
    from gradprobe.core import Batch as Batch
    from gradprobe.core import Noise as Noise
    from gradprobe.core import Operator as Operator
    from gradprobe.core import Relaxation as Relaxation
    from gradprobe.core import Selection as Selection
    from gradprobe.core import SelectionOperator as SelectionOperator
    from gradprobe.core import Task as Task
    from gradprobe.core import Throttle as Throttle
    from gradprobe.core import Tokens as Tokens
    from gradprobe.errors import GradprobeError as GradprobeError
    from gradprobe.errors import UsageError as UsageError
    from gradprobe.landscapes.directions import filter_normalized as filter_normalized
    from gradprobe.landscapes.directions import pca_directions as pca_directions
    from gradprobe.landscapes.functional import functional_call as functional_call
    from gradprobe.landscapes.planes import axis as axis
    from gradprobe.landscapes.planes import from_metric as from_metric
    from gradprobe.landscapes.planes import line as line
    from gradprobe.landscapes.planes import plane as plane
    from gradprobe.models.backbones import Backbone as Backbone
    from gradprobe.models.deploy import prune as prune
    from gradprobe.models.scorer_file import load_scorer as load_scorer
    from gradprobe.operator_info import About as About
    from gradprobe.operators.registry import build as build
    from gradprobe.operators.softtopk import soft_topk as soft_topk
    from gradprobe.probes.coherence.measure import coherence as coherence
    from gradprobe.probes.cost.measure import cost as cost
    from gradprobe.probes.curvature.measure import curvature as curvature
    from gradprobe.probes.equivalence.measure import equivalence as equivalence
    from gradprobe.probes.fidelity.measure import fidelity as fidelity
    from gradprobe.probes.fidelity.reference import reference as reference
    from gradprobe.probes.landscape.measure import landscape as landscape
    from gradprobe.probes.retention.measure import ranked as ranked
    from gradprobe.probes.retention.measure import retention as retention
    from gradprobe.selectors.plan import plan_of as plan_of
    from gradprobe.store.results import Store as Store
    from gradprobe.tasks import classification as classification
    from gradprobe.testing import check_operator as check_operator
    from gradprobe.testing import check_selector as check_selector
    from gradprobe.training.train import Recipe as Recipe
    from gradprobe.view import Kept as Kept
    from gradprobe.view import Selector as Selector
    from gradprobe.view import SelectorAbout as SelectorAbout
    from gradprobe.view import Unavailable as Unavailable
    from gradprobe.view import View as View

_HOME = {
    "About": "operator_info",
    "Backbone": "models.backbones",
    "Batch": "core",
    "GradprobeError": "errors",
    "Kept": "view",
    "Noise": "core",
    "Operator": "core",
    "Recipe": "training.train",
    "Relaxation": "core",
    "Selection": "core",
    "SelectionOperator": "core",
    "Selector": "view",
    "SelectorAbout": "view",
    "Store": "store.results",
    "Task": "core",
    "Throttle": "core",
    "Tokens": "core",
    "Unavailable": "view",
    "UsageError": "errors",
    "View": "view",
    "advise": "advice.run",
    "axis": "landscapes.planes",
    "build": "operators.registry",
    "check_operator": "testing",
    "check_selector": "testing",
    "classification": "tasks",
    "coherence": "probes.coherence.measure",
    "compare": "comparison.run",
    "cost": "probes.cost.measure",
    "curvature": "probes.curvature.measure",
    "equivalence": "probes.equivalence.measure",
    "fidelity": "probes.fidelity.measure",
    "filter_normalized": "landscapes.directions",
    "from_metric": "landscapes.planes",
    "functional_call": "landscapes.functional",
    "landscape": "probes.landscape.measure",
    "line": "landscapes.planes",
    "load_scorer": "models.scorer_file",
    "pca_directions": "landscapes.directions",
    "plan_of": "selectors.plan",
    "plane": "landscapes.planes",
    "prune": "models.deploy",
    "ranked": "probes.retention.measure",
    "reference": "probes.fidelity.reference",
    "retention": "probes.retention.measure",
    "soft_topk": "operators.softtopk",
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
