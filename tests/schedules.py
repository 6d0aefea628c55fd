"""Made-up answers of the probe ``schedule``: losses around a mean, the same images for all kernels of a seed."""

import numpy as np

from gradprobe.vlm.schedule.result import ScheduleResult

QUESTION = {
    "probe": "schedule", "op": "ranked:fastv", "k": 9, "kernel": "free", "budget": 0.4, "validation": 8, "images": 40,
    "seed": 1, "task": "captioning", "backbone": "photos-vlm", "weights": "sha256:01", "data": "photos",
    "dtype": "float32", "loss": "ce", "layer": 0,
}  # fmt: skip
SEARCH = {"constraint": "equal", "outer": 2, "inner": 2, "batch_size": 4, "learning_rate": 0.2, "softness": 0.1}


def schedule(loss=1.0, kernel="free", seed=1, budget=0.4, op="ranked:fastv", spread=0.01, right=38, **asked):
    """Answer whose loss has a mean; images differ by what they have in common and by ``spread`` of the kernel's own."""
    question = QUESTION | {"kernel": kernel, "seed": seed, "budget": budget, "op": op}
    question |= {} if kernel == "grid" else SEARCH
    question |= asked
    images = question["images"]
    common = np.random.default_rng(seed).normal(0, 0.3, images)
    own = np.random.default_rng([seed, *kernel.encode(), round(100 * budget)]).normal(0, spread, images)
    losses = loss + common - common.mean() + own - own.mean()
    grid = np.array([[9, 1, 1], [9, 4, 1]] if kernel == "grid" else np.zeros((0, 3)), np.int32)
    return ScheduleResult(
        question=question,
        counts=np.array([9, 4, 1], np.int32),
        share=budget - 0.01,
        chosen_loss=float(loss),
        losses=losses.astype(np.float32),
        right=np.arange(images) < right,
        whole_losses=(0.02 + 0.001 * common).astype(np.float32),
        whole_right=np.ones(images, bool),
        violations=np.zeros(0 if kernel == "grid" else question["outer"]),
        grid=grid,
        grid_losses=np.full(len(grid), float(loss)),
        environment={"seconds": 7.0, "chosen_seconds": 5.0, "skipped": []},
    )


def seeds(loss, kernel, count=5, noise=0.0, **asked):
    """One answer a seed, whose mean losses differ by ``noise`` between neighbouring seeds."""
    return [schedule(loss + noise * (seed - (count + 1) / 2), kernel, seed, **asked) for seed in range(1, count + 1)]
