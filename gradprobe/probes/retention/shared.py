"""Test images and the unpruned model's answers to them, made once for all questions of a run."""

import json
from collections.abc import Callable, Sequence

import numpy as np

from gradprobe.core import Batch, Task
from gradprobe.probes.contract import Resources
from gradprobe.probes.retention.deployed import Deployment, Outcome

TRAINED = ("scorer", "denoiser", "train_data", "generator")  # parts of a task's question without a say in a test
LAST = "test images"
MOST = 1 << 30  # bytes of tokens that are kept for the next question


def test_images(task: Task, count: int, seed: int, resources: Resources) -> tuple[Batch, tuple[str, ...]]:
    """Return the first probe images of a seed, and the files that were passed over for them.

    Those of the question before are taken again where they are the same: embedding them takes most of the time of a
    test without training.

    Args:
        task: Frozen model and data.
        count: Number of images.
        seed: Of their order.
        resources: ``known`` keeps the images for the questions that follow.
    """
    key, known = _key(task, seed, count), resources.known
    if known.get(LAST, ("",))[0] == key:
        _, batch, skipped = known[LAST]
        return batch, skipped
    known.pop(LAST, None)  # not two of them at a time
    (batch,) = task.batches(1, count, seed)
    if batch.tokens.patches.nbytes <= MOST:
        known[LAST] = key, batch, task.skipped
    return batch, task.skipped


def complete_once(
    deployment: Deployment, groups: Sequence[Batch], seed: int, resources: Resources,
    progress: Callable[[int, int], None],
) -> Outcome:  # fmt: skip
    """Return the outcome of test images, their answers with all N tokens from ``resources.known`` if those are there.

    With K much smaller than N the pass over all N is most of a test, and the same for every operator and selector.

    Args:
        deployment: Frozen model and the tokens that it reads.
        groups: Test images.
        seed: That decides which images these are.
        resources: Known answers, to which these are added.
        progress: Called with (images done, of how many).
    """
    key = f"unpruned: {_key(deployment.task, seed, sum(len(group.ids) for group in groups))}"
    unpruned: np.ndarray | None = resources.known.get(key)
    outcome = deployment.complete(groups, progress, unpruned)
    resources.known[key] = outcome.unpruned
    return outcome


def _key(task: Task, seed: int, count: int) -> str:
    """Return all that decides images and answers: the frozen model, the data, and the device that rounds."""
    model = {name: value for name, value in task.question.items() if name not in TRAINED}
    device = next(task.scorer.parameters()).device
    return json.dumps([model, seed, count, str(device)], sort_keys=True)
