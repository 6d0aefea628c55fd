"""The command that trains the operator of an advice."""

import shlex
from pathlib import Path
from typing import Any

from gradprobe.advice.candidates import USUAL, Candidate, words
from gradprobe.advice.model import typed
from gradprobe.advice.questions import Asking

RUNS = Path("runs")


def command(best: Candidate, asking: Asking, wanted: Any) -> str:
    """Return the command for a shell; seeds and test images are those of the last rung, which may be stored already.

    Args:
        best: operator and temperatures.
        asking: how it was asked for.
        wanted: arguments of `gradprobe.advice.run.advise`.
    """
    rung = asking.plan.rungs[-1] if asking.plan.rungs else None
    seeds = asking.seeds[: rung.seeds if rung else 1]
    named = {"op": best.op, "k": str(asking.k)} | ({} if best.tau == USUAL else {"tau": words(best.tau)})
    named |= {"steps": str(wanted.steps), "batch-size": str(wanted.batch_size), "seeds": ",".join(map(str, seeds))}
    named |= ({"images": str(rung.images)} if rung else {}) | typed(wanted) | {"baseline": "none"}
    named |= {} if Path(wanted.results) == RUNS else {"results": str(wanted.results)}
    parts = [part for name, value in named.items() for part in (f"--{name}", value)]
    return shlex.join(["gradprobe", "retention", *parts])


def in_python(best: Candidate, asking: Asking, wanted: Any) -> str:
    """Return the call that trains it on an open task."""
    first, last = best.tau
    taus = f"tau_start={first}, tau_end={last}, seed={asking.seeds[0]}"
    recipe = f"gp.Recipe(steps={wanted.steps}, batch_size={wanted.batch_size}, {taus})"
    return f'gp.retention(task, "{best.op}", k={asking.k}, recipe={recipe})'
