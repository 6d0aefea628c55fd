"""Results of retention: made of given shares, for tests of rows and figures, and measured on a toy."""

import numpy as np
from toy import Toy

from gradprobe.operators.registry import build
from gradprobe.probes.retention.measure import retention
from gradprobe.probes.retention.result import RetentionResult
from gradprobe.training.train import Recipe

GUMBEL, VPNOISE = "gumbel-ste+gather", "lapsum+vpnoise"
QUESTION = {
    "probe": "retention", "op": VPNOISE, "k": 20, "steps": 10, "batch_size": 4, "seed": 0, "images": 40,
    "backbone": "scenes", "weights": "sha256:0123", "scorer": "mlp", "loss": "ce",
}  # fmt: skip
RECIPE = Recipe(steps=3, batch_size=4, learning_rate=0.02)


def measured(op="vpnoise", k=4, recipe=RECIPE, images=20, task=None, **more):
    return retention(task or Toy(), build(op) if isinstance(op, str) else op, k, recipe=recipe, images=images, **more)


def retained(right=30, unpruned=36, op=VPNOISE, k=20, seed=0, begin=10, auc=0.9, seconds=7.0, **asked):
    """40 images of which ``right`` are right with K tokens and ``unpruned`` with all; no looks for a ranking."""
    images = np.arange(40)
    ranking = op.startswith("ranked:")
    at = np.array([] if ranking else [0, 5, 10], np.int64)
    curve = np.stack([images < n for n in (begin, (begin + right) // 2, right)])[: len(at)]
    return RetentionResult(
        question={**QUESTION, "op": op, "k": k, "seed": seed, "steps": 0 if ranking else 10, **asked},
        losses=np.linspace(2, 1, 0 if ranking else 10), at=at,
        curve=curve[:, :20].astype(np.uint8) if len(at) else np.zeros((0, 0), np.uint8),
        correct=(images < right).astype(np.uint8), unpruned=(images < unpruned).astype(np.uint8),
        auc=np.full(0 if auc is None else 40, auc, np.float32), spread=np.array([0.5, 1.5]),
        environment={"seconds": seconds, "skipped": []},
    )  # fmt: skip


def panel(budgets=(5, 20), seeds=(1, 2)):
    """Two operators and two rankings, better with more tokens, seeds one image apart."""
    shares = {GUMBEL: 8, VPNOISE: 20, "ranked:random": 4, "ranked:truth": 24}
    return [
        retained(n + k // 5 + seed, op=op, k=k, seed=seed, auc=None if op == GUMBEL else 0.9)
        for k in budgets for op, n in shares.items() for seed in seeds
    ]  # fmt: skip
