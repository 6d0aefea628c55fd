"""Comparisons made of toy results of every probe, for tests of what is said of them, drawn and put on a page."""

import numpy as np
from landscapes import GUMBEL, VPNOISE, bowl, landscape, rough
from retentions import retained
from stored import asked
from stored import result as coherence
from test_plotting_equivalence import result as equivalence
from test_plotting_fidelity import result as fidelity

from gradprobe.comparison import comparison as comparisons
from gradprobe.comparison.comparison import Comparison
from gradprobe.probes.cost.result import CostResult
from gradprobe.probes.equivalence.compared import REFERENCE

PROBES = tuple(comparisons.compared())

MINE = "my_op.py:MyOp"
OPS = (MINE, VPNOISE, GUMBEL)
RIGHT = {MINE: 20, VPNOISE: 19, GUMBEL: 8}  # of 40 images


def cost(op, slow=1.0, gradient="yes"):
    rounds = np.linspace(1, 1.08, 9)
    back = rounds if gradient == "yes" else rounds[:0]
    flops = {"batch": 1e8, "unpruned": 1e9, "scorer": 1e7, "training": 1e9, "gradient": 2e9, "deployed": 3e8}
    return CostResult(
        question={"probe": "cost", "op": op, "k": 58, "images": 8, "rounds": 9, "seed": 0}, gradient=gradient, sent=196,
        flops=flops, memory={"training": 1e7, "operator": 1e6, "peak": None}, unpruned=rounds, backward=2 * rounds,
        scorer=0.1 * rounds, operator=0.1 * rounds, operator_backward=0.2 * back,
        training=2.5 * slow * back * np.linspace(0.99, 1.01, 9)[: len(back)], deployed=0.3 * rounds,
        environment={"versions": {"numpy": "2.0"}, "date": "2026-01-03T00:00:00+00:00"},
    )  # fmt: skip


def answers(op, i=0, seeds=(1, 2, 3, 4, 5)):
    """Results of every probe on one operator; the i-th is a little worse than those before it."""
    agreeing = fidelity(op, cos=0.6 - 0.2 * i, seed=i, fall=0.05 - 0.04 * i)
    agreeing.ab[0] *= 0.5  # not the same at both sigmas
    return {
        "coherence": [coherence(asked(op=op), signal=1.0 - 0.4 * i)],
        "landscape": [landscape((bowl, bowl, rough)[i % 3], op=op, rows=1)],
        "fidelity": [agreeing],
        "equivalence": [equivalence(op, right=0.6 - 0.05 * i, seed=i)],
        "retention": [retained(RIGHT.get(op, 15) + seed, op=op, seed=seed) for seed in seeds],
        "cost": [cost(op, 1 + 0.5 * i)],
    }


def comparison(ops=OPS, focus=None, probes=PROBES, floors=("ranked:random",), **changes):
    """All probes on some operators, and rankings; the first operator is the focus."""
    each = [answers(op, i) for i, op in enumerate(ops)]
    results = {probe: [result for found in each for result in found[probe]] for probe in probes}
    if "retention" in results:
        results["retention"] += [retained(5 + seed, op=op, seed=seed) for op in floors for seed in (1, 2, 3, 4, 5)]
    if "equivalence" in results and REFERENCE not in ops:
        results["equivalence"].append(equivalence(REFERENCE, right=0.6, seed=9))
    fields = {
        "title": "A test", "ops": tuple(ops), "focus": focus or ops[0], "results": results,
        "settings": {"backbone": "scenes", "weights": "sha256:0123"}, "command": "gradprobe compare --op x --k 58",
    }  # fmt: skip
    return Comparison(**(fields | changes))
