"""Plans of all kinds, drawn at random, and a user's file with a selector."""

import textwrap

from hypothesis import settings
from hypothesis import strategies as st

from gradprobe.operators import registry
from gradprobe.selectors.plan import Plan, Stage

MINE = """
    from dataclasses import dataclass
    from pathlib import Path
    from typing import ClassVar
    from gradprobe.view import Kept, SelectorAbout
    Path({mark!r}).touch()
    @dataclass(frozen=True)
    class Mine:
        width: int = 1
        about: ClassVar[SelectorAbout] = SelectorAbout("none", layers=(4, 20))
        def __call__(self, view, k):
            return Kept(view.uniform().topk(k).indices.sort().values)
    """
quick = settings(max_examples=60)
SELECTORS = [registry.part("selector", name) for name in ("random", "norm", "zoo:draws=8,exact")]


def write_mine(folder):
    """A user's file with a selector, and the mark that it leaves when it runs."""
    path, mark = folder / "my.py", folder / "it ran"
    path.write_text(textwrap.dedent(MINE).format(mark=str(mark)))
    return path, mark


@st.composite
def models(draw):
    """N visual tokens, and L layers."""
    return draw(st.integers(1, 600)), draw(st.integers(1, 40))


@st.composite
def possible(draw):
    """A plan that is possible, its model, and K where its last stage has no budget."""
    n, layers = draw(models())
    places = sorted(draw(st.sets(st.integers(0, layers - 1), min_size=0, max_size=4)))
    places = [None, *places] if not places or draw(st.booleans()) else places
    counts = sorted(draw(st.lists(st.integers(1, n), min_size=len(places), max_size=len(places))), reverse=True)
    selectors = [draw(st.sampled_from(SELECTORS)) for _ in places]
    keeps = list(counts)
    for i in range(len(places) - 1):
        goes_on = places[i] is not None and selectors[i] == selectors[i + 1]
        keeps[i] = None if goes_on and draw(st.booleans()) else counts[i]
    if free := draw(st.booleans()):
        keeps[-1] = None
    stages = tuple(map(Stage, selectors, places, keeps))
    return Plan(stages), (n, layers), counts[-1] if free else None


@st.composite
def texts(draw):
    """Any plan in canonical text, shares of tokens and layers by default among them."""
    stages = draw(possible())[0].stages
    shares = [replace_keep(s, draw(st.floats(0.001, 1))) if s.keep and draw(st.booleans()) else s for s in stages]
    plan = Plan(tuple(shares))
    usual = draw(st.sampled_from(["", "pyramiddrop", "fastv:k=3", "pyramiddrop:keep=0.5,0.25,0.125", "fastv:keep=1.0"]))
    return usual if usual and plan.inside else f"{plan.label};{usual}" if usual else plan.label


def replace_keep(stage, keep):
    return Stage(stage.selector, stage.layer, keep)
