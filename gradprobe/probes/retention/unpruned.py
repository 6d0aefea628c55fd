"""Answers of the unpruned model to test images, measured once for all questions of a run."""

import json
from collections.abc import Callable, Sequence

from gradprobe.core import Batch, Task
from gradprobe.probes.contract import Resources
from gradprobe.probes.retention.deployed import Deployment, Outcome

TRAINED = ("scorer", "denoiser", "train_data", "generator")  # parts of a task's question that all N tokens do not pass


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
    key = _key(deployment.task, seed, sum(len(group.ids) for group in groups))
    outcome = deployment.complete(groups, progress, resources.known.get(key))
    resources.known[key] = outcome.unpruned
    return outcome


def _key(task: Task, seed: int, images: int) -> str:
    """Return all that decides the answers: the frozen model, the images, and the device that rounds."""
    model = {name: value for name, value in task.question.items() if name not in TRAINED}
    device = next(task.scorer.parameters()).device
    return json.dumps(["unpruned", model, seed, images, str(device)], sort_keys=True)
