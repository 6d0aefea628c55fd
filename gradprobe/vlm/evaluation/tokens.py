"""Tokens that the layers of a language model read of a benchmark's first picture."""

from pathlib import Path

from gradprobe.selectors.plan import Counts
from gradprobe.vlm.deploy import inputs_of
from gradprobe.vlm.evaluation.installed import datasets_module
from gradprobe.vlm.evaluation.task_functions import picture
from gradprobe.vlm.pruner import Pruner


def first_counts(pruned: Pruner, folder: Path) -> tuple[Counts, int]:
    """Return the counts of the first picture, and its N.

    Args:
        pruned: The pruner.
        folder: Data set of a prepared benchmark.
    """
    document = datasets_module().load_from_disk(str(folder))["test"][0]
    inputs = inputs_of(pruned.vlm, picture(document), "")
    n = len(pruned.vlm.vision_features(inputs).tokens[0])
    return pruned.counts(n), n
