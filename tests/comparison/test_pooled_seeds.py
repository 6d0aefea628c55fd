"""One of several seeds of what is not trained decides no more than two do, wherever it is shown."""

from dataclasses import replace

import pytest
from compared import MINE
from landscapes import VPNOISE, bowl, landscape, rough
from stored import asked
from stored import result as coherence
from test_plotting_fidelity import result as fidelity

from gradprobe.comparison.comparison import Comparison, metrics, rows
from gradprobe.comparison.comparison import count as count_of
from gradprobe.comparison.tables import mark
from gradprobe.comparison.verdict import measures, verdict_of

BY_NAME = {metric.name: metric for metric in metrics()}


def cells(found, name):
    return {row["op"]: row["metrics"][name] for row in found}


def only(probe, results, ops):
    return Comparison("a test", ops, ops[0], {probe: results}, {})


def of_seed(result, seed):
    return replace(result, question=result.question | {"seed": seed})


@pytest.mark.parametrize(
    ("probe", "made"),
    [
        ("coherence", lambda op, s: coherence(asked(op=op, seed=s), signal=3.0 if op == MINE else 0.1, seed=s)),
        ("roughness", lambda op, s: landscape(bowl if op == MINE else rough, op=op, rows=1, seed=s)),
        ("fidelity", lambda op, s: of_seed(fidelity(op, cos=0.9 if op == MINE else 0.1, seed=s), s)),
    ],
)
@pytest.mark.parametrize("counts", [(5, 1), (1, 5), (2, 1)])
def test_one_of_several_seeds_decides_no_more_than_two_do(probe, made, counts):
    seeds = dict(zip((MINE, VPNOISE), counts, strict=True))
    alone = only(BY_NAME[probe].probe, [made(op, 1) for op in seeds], tuple(seeds))
    assert cells(rows(alone), probe)[VPNOISE]["verdict"] in ("higher", "lower")  # over one scorer's batches or images
    partly = only(BY_NAME[probe].probe, [made(op, s + 1) for op, n in seeds.items() for s in range(n)], tuple(seeds))
    found = rows(partly)
    focus, cell = (cells(found, probe)[op] for op in seeds)
    assert (cell["verdict"], cell["seeds"], mark(BY_NAME[probe], cell)) == ("undecided", 1, "· (1 seed)")
    assert mark(BY_NAME[probe], focus) == ("" if counts[0] == 5 else f"({counts[0]} seed{'s' * (counts[0] > 1)})")
    assert count_of(found).decided == 0 and verdict_of(partly).outcome == "undecided"
    lines = [line for line in measures(found) if line.metric.name == probe]
    assert [(dict(line.against), line.rests_on(VPNOISE)) for line in lines] == [({VPNOISE: "undecided"}, "1 seed")]
