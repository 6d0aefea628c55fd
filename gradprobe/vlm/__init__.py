"""Vision-language models: DiffPrune trained, deployed, probed and counted; needs the extra ``vlm``.

Example:
    >>> import gradprobe as gp
    >>> task = gp.vlm.captioning("scenes-vlm")
    >>> task.n_tokens
    100
"""

import importlib

_HOME = {
    "Budget": "deploy",
    "Pruner": "deploy",
    "VLM": "model",
    "captioning": "task",
    "cost": "cost",
    "fit": "train",
    "load": "deploy",
    "open_captions": "captions",
    "open_vlm": "model",
    "task_of": "task",
}
__all__ = sorted(_HOME)


def __getattr__(name: str):
    """Resolve a public name on first use: transformers is not imported before something of it is asked for."""
    if name not in _HOME:
        raise AttributeError(f"gradprobe.vlm has no {name!r}; public names: {', '.join(__all__)}")
    return getattr(importlib.import_module(f"gradprobe.vlm.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
