"""Written by tests/stubs.py: the names of this package for type checkers and editors."""

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
from gradprobe.vlm.task import Captioning
from gradprobe.vlm.task import task_of as task_of
from gradprobe.vlm.training.train import fit as fit

__all__ = [
    "VLM",
    "Budget",
    "Pruner",
    "attach",
    "attached",
    "captioning",
    "cost",
    "detach",
    "fit",
    "load",
    "load_predictor",
    "open_captions",
    "open_vlm",
    "plan_cost",
    "task_of",
]

def captioning(
    backbone: str = "scenes-vlm",
    *,
    weights: str | None = None,
    data: str | None = None,
    train_data: str | None = None,
    layer: int = 0,
    loss: str = "ce",
    scorer: str = "mlp",
    seed: int = 0,
    device: str = "cpu",
    dtype: str = "float32",
    generator: str = "auto",
    denoiser: str = "none",
    weights_key: str | None = None,
    image_size: int | str | tuple[int, int] | None = None,
    class_order: str | None = None,
) -> Captioning:
    """Make a task from names: a vision-language model, captioned images, and a fresh scorer.

    Args:
        backbone: ``photos-vlm``, ``scenes-vlm``, a hub id, or a folder with a model of a known family.
        weights: Not possible: a model's folder holds them.
        data: A ``captions.jsonl`` or a folder of captioned images; None with an embedded model: its own pictures.
        train_data: Not possible: a fixed part of ``data`` is held out for probes.
        layer: 0, before the projector.
        loss: ``ce``, of the caption.
        scorer: ``mlp`` or ``transformer``, with fields: ``transformer:depth=2,heads=16``.
        seed: Seed of the scorer.
        device: A torch device.
        dtype: ``float32``, ``bfloat16`` or ``float16``, of the frozen model's weights; the scorer keeps float32.
        generator: Generator of noise: ``host``, ``philox``, or ``auto``: philox on a GPU.
        denoiser: ``token``, ``global`` or ``none``: trained with the scorer, behind the operator.
        weights_key: Not possible, like ``weights``.
        image_size: Not possible: the processor decides it.
        class_order: Not possible: there are no classes.
    """
