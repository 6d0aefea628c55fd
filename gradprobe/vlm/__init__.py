"""Vision-language models: DiffPrune trained, deployed, probed and counted; needs the extra ``vlm``.

Example:
    >>> import gradprobe as gp
    >>> task = gp.vlm.captioning("scenes-vlm")
    >>> task.n_tokens
    100
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # as in gradprobe/__init__.py
    from gradprobe.vlm.attaching import attach as attach
    from gradprobe.vlm.attaching import attached as attached
    from gradprobe.vlm.attaching import detach as detach
    from gradprobe.vlm.budgets import Budget as Budget
    from gradprobe.vlm.captions import open_captions as open_captions
    from gradprobe.vlm.costs.flops import cost as cost
    from gradprobe.vlm.costs.plans import plan_cost as plan_cost
    from gradprobe.vlm.deploy import load as load
    from gradprobe.vlm.model import VLM as VLM
    from gradprobe.vlm.model import open_vlm as open_vlm
    from gradprobe.vlm.pruner import Pruner as Pruner
    from gradprobe.vlm.search.predictor_file import load_predictor as load_predictor
    from gradprobe.vlm.task import captioning as captioning
    from gradprobe.vlm.task import task_of as task_of
    from gradprobe.vlm.training.train import fit as fit

_HOME = {
    "Budget": "budgets",
    "Pruner": "pruner",
    "VLM": "model",
    "attach": "attaching",
    "attached": "attaching",
    "captioning": "task",
    "cost": "costs.flops",
    "detach": "attaching",
    "fit": "training.train",
    "load": "deploy",
    "load_predictor": "search.predictor_file",
    "open_captions": "captions",
    "open_vlm": "model",
    "plan_cost": "costs.plans",
    "task_of": "task",
}
__all__ = sorted(_HOME)


if not TYPE_CHECKING:

    def __getattr__(name: str):
        """Resolve a public name on first use, so that transformers is imported only when it is needed."""
        if name not in _HOME:
            raise AttributeError(f"gradprobe.vlm has no {name!r}; public names: {', '.join(__all__)}")
        return getattr(importlib.import_module(f"gradprobe.vlm.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
