"""Properties of every selector: each function returns its observation, or raises `Broken` or `Skipped`.

The first line of each docstring is the promise, as users read it.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from gradprobe.core import top_k
from gradprobe.errors import nearest
from gradprobe.operators.citations import BIBTEX
from gradprobe.testing.findings import Broken, Skipped
from gradprobe.testing.properties import KEYED
from gradprobe.testing.selector_cases import PLACES, SIZES, TIED, TOKENS, ViewCase, budgets, projector
from gradprobe.testing.selector_subject import SCORES, SelectorSubject
from gradprobe.testing.surroundings import global_state
from gradprobe.view import Kept, SelectorAbout, Sizes

SelectorProperty = Callable[[SelectorSubject], str]
DECLARE = "give it `about = SelectorAbout(formula, source, cite, layers, positions)`, of gradprobe.view"
LLAVA = Sizes(
    576, 1024, 4096, 2 * 4096 * (1024 + 4096),
    tower_width=1024, tower_heads=16, patches=577, text=60, query_width=4096, key_width=4096,
)  # fmt: skip  # LLaVA-1.5 7B


def call(subject: SelectorSubject) -> str:
    """Every view and K gives a Kept whose index is int64, (B, ...), on the device of the tokens."""
    for answer in subject.answers:
        if answer.broken is not None and answer.case.kind == "random":
            raise answer.broken
    asked = dict.fromkeys(answer.case.place.name for answer in subject.kept())
    refused: dict[str, dict[str, None]] = {}
    for answer in subject.answers:
        if answer.unavailable:
            place, case = answer.case.place.name, answer.case
            where = f"{place} with N = {case.n}, K = {case.k}" if place in asked else place
            refused.setdefault(answer.unavailable, {})[where] = None
    parts = [f"tokens {', '.join(asked)}", *(f"not {', '.join(where)}: {why}" for why, where in refused.items())]
    return "; ".join(parts)


def budget(subject: SelectorSubject) -> str:
    """Exactly K different tokens are kept, for every K of 1 .. N."""
    _without_fault(subject, "budget")
    return f"K in {budgets(TOKENS)} of N = {TOKENS}, and N = 1, 2"


def order(subject: SelectorSubject) -> str:
    """Kept tokens stay in their order: the index ascends."""
    _without_fault(subject, "order")
    return "all views"


def merged(subject: SelectorSubject) -> str:
    """Shape (B, K, width), dtype and device of merged tokens are those of the tokens that they stand for."""
    _without_fault(subject, "merged")
    return "all views" if _merges(subject) else "it merges no tokens"


def identity(subject: SelectorSubject) -> str:
    """With every token kept (K = N) nothing changes: merged tokens equal the original ones, bit for bit."""
    for answer in subject.faultless():
        case, kept = answer.case, answer.kept
        assert kept is not None
        if case.k == case.n and kept.tokens is not None:
            off = (kept.tokens != case.original) & ~kept.tokens.isnan()  # NaN is for `finite` to report
            if bool(off.any()):
                remedy = "where k == view.shape[1], return Kept(index) without tokens"
                raise Broken(case.describe(), "merged tokens differ from the original ones", remedy)
    return "all views"


def finite(subject: SelectorSubject) -> str:
    """Constant, zero, huge and equal tokens are withstood; scores and merged tokens are finite."""
    broken = {answer.case.kind: answer.broken for answer in subject.answers if answer.broken is not None}
    if broken and "random" not in broken:  # else it is for `call` to report
        raise next(iter(broken.values()))
    has_scores = callable(getattr(subject.selector, "scores", None))
    for answer in subject.faultless():
        assert answer.kept is not None
        scores = _scores(subject, answer.case) if has_scores else None
        for name, values in (("merged tokens", answer.kept.tokens), ("scores", scores)):
            if values is not None and not bool(values.isfinite().all()):
                remedy = "clamp norms and sums that are divided by: x / x.norm(dim=-1, keepdim=True).clamp(min=1e-6)"
                raise Broken(answer.case.describe(), f"{name} are not finite", remedy)
    return "all views"


def scores_agree(subject: SelectorSubject) -> str:
    """Tokens of the K largest scores are kept, where scores are declared."""
    for answer in subject.faultless():
        assert answer.kept is not None
        scores = subject.scores(answer.case)
        if scores is not None and not _largest(scores, answer.kept.index):
            raise Broken(answer.case.describe(), "a token of a lower score is kept instead of one of a higher", SCORES)
    return "all views"


def ties(subject: SelectorSubject) -> str:
    """Of equal scores the first token is kept, where scores are declared."""
    examined = False
    for answer in subject.faultless():
        assert answer.kept is not None
        scores, index = _scores(subject, answer.case), answer.kept.index
        if scores is None or not bool(scores.isfinite().all()) or not _largest(scores, index):
            continue  # for other properties to report
        examined = examined or answer.case.kind in TIED
        if not torch.equal(index, top_k(scores, answer.case.k)):
            raise Broken(answer.case.describe(), "of equal scores a later token is kept", SCORES)
    if not examined:
        raise Skipped("there are no scores of equal tokens")
    return ", ".join(f"{kind} tokens" for kind in TIED)


def repeatable(subject: SelectorSubject) -> str:
    """Equal views give equal bits: called again, after other views, and in another thread."""
    for case in subject.plain():
        first = subject.right(case)
        with ThreadPoolExecutor(1) as pool:
            again = {"called again": subject.right(case)}
            subject.right(case.subset([1]))
            again["after another view"] = subject.right(case)
            again["in another thread"] = pool.submit(subject.right, case).result()
        for how, other in again.items():
            if not _same(first, other):
                raise Broken(case.describe(), f"{how} it gives another result", f"keep no state, and {DRAW}")
    return "called again, after another view, in another thread"


def equivariance(subject: SelectorSubject) -> str:
    """Renumbering the tokens renumbers those that are kept, unless their place matters."""
    case = subject.plain()[0]
    moved = torch.randperm(TOKENS, generator=torch.Generator().manual_seed(6))
    here = subject.right(case)
    if not _same(here, subject.right(replace(case, noise=replace(case.noise, seed=1)))):
        raise Skipped("its choice is random")
    there = moved[subject.right(case.renumbered(moved)).index].sort(1).values
    if not torch.equal(here.index, there):
        common = float((here.index[:, :, None] == there[:, None]).any(2).double().mean())
        raise Skipped(f"the place of a token matters: {common:.0%} are kept as before once tokens are renumbered")
    return f"tokens {case.place.name}"


def keyed_by_image(subject: SelectorSubject) -> str:
    """Each image's choice is independent of the rest of the batch, and random numbers belong to the image."""
    for case in subject.plain():
        together, count = subject.right(case), len(case.original)
        for which in (*([row] for row in range(count)), [2, 0]):
            other = subject.right(case.subset(which))
            one = Kept(together.index[which], None if together.tokens is None else together.tokens[which])
            if not _same(one, other, exact=False):
                remedy = f"use no mean, sort or norm over the batch, and {DRAW}"
                raise Broken(case.describe(), "an image alone and within a batch gives different tokens", remedy)
    return "a batch of 3, of 2 in another order, and each image alone"


def inputs_untouched(subject: SelectorSubject) -> str:
    """Everything that is read from a view is left as it was."""
    for case in subject.plain():
        parts = {name: value.clone() for name, value in case.tensors.items()}
        view = case.view(parts)
        with torch.no_grad():
            parts["projected"] = view.projected
        before = {name: (value._version, value.clone()) for name, value in parts.items()}
        subject.ask(case, view)
        for name, value in parts.items():
            version, was = before[name]
            if value._version != version or not torch.equal(value, was):
                raise Broken(case.describe(), f"{name} are changed in place", "work on a copy: x = x.clone()")
            if value.requires_grad or value.grad is not None:
                raise Broken(case.describe(), f"{name} ask for a gradient afterwards", "leave requires_grad as it is")
    return "tokens, tower, text and states"


def surroundings_untouched(subject: SelectorSubject) -> str:
    """Global random numbers (torch, numpy, Python), grad mode, default dtype and threads are left as they were."""
    for case in subject.plain():
        view = case.view()
        with torch.no_grad():
            before = global_state()
            subject.selector(view, case.k)
            after = global_state()
        for what, value in after.items():
            if value != before[what]:
                remedy = DRAW if "random" in what else "change no global setting inside a selector"
                raise Broken(case.describe(), f"it changes {what}", remedy)
    return "random numbers, grad mode, default dtype, threads"


def gradient(subject: SelectorSubject) -> str:
    """No gradient is kept or left behind where the caller asks for none."""
    for case in subject.plain():
        layers = projector(case.original.dtype, case.original.device).layers
        weights = [weight for layer in layers for weight in layer.parameters()]
        for weight in weights:
            weight.grad = None
        parts = {name: value.clone().requires_grad_(value.is_floating_point()) for name, value in case.tensors.items()}
        tokens = subject.ask(case, case.view(parts)).tokens
        remedy = "work without a graph: torch.autograd.grad inside torch.enable_grad, and detach what is returned"
        if tokens is not None and tokens.requires_grad:
            raise Broken(case.describe(), "merged tokens come with a graph", remedy)
        if any(leaf.grad is not None for leaf in (*weights, *parts.values())):
            raise Broken(case.describe(), "a gradient is added to tensors of the model", remedy)
    return "no graph"


def flops(subject: SelectorSubject) -> str:
    """FLOPs of its own are a whole number, where they are declared."""
    if not callable(getattr(subject.selector, "flops", None)):
        raise Skipped("it declares no FLOPs", "give it flops(sizes, k) -> int, its own for one image")
    value = 0
    for k in (1, 2, 64, LLAVA.n - 1, LLAVA.n, 64):
        where = f"N = {LLAVA.n}, D = {LLAVA.dim}, d = {LLAVA.width}, K = {k}"
        try:
            value = subject.selector.flops(LLAVA, k)
        except Exception as error:  # anyone's code
            message = f"raised {type(error).__name__}: {' '.join(str(error).split())}"
            raise Broken(where, message, "flops(sizes, k) takes gradprobe.view.Sizes and K") from error
        if type(value) is not int or value < 0:
            raise Broken(where, f"{value!r} FLOPs", "return a whole number, 0 or more: int(...)")
    told = f"{value:.3g} for LLaVA-1.5 at K = 64, {value / (LLAVA.n * LLAVA.projector):.3g} projector passes"
    try:
        case = subject.plain()[0]
        with FlopCounterMode(display=False) as counter:
            subject.right(case.subset([0]))
    except (Broken, Skipped):  # torch's counter cannot follow torch.autograd.grad
        return told
    if case.place != PLACES[0]:
        return told
    own, counted = subject.selector.flops(SIZES, case.k), counter.get_total_flops()
    return f"{told}; for N = {case.n}, K = {case.k}: {own}, counted: {counted}"


def declared(subject: SelectorSubject) -> str:
    """Layers, position ids and citations that are declared are possible ones."""
    about = getattr(subject.selector, "about", None)
    if about is None:
        raise Skipped("nothing is declared", DECLARE)
    if not isinstance(about, SelectorAbout):
        raise Broken("about", f"it is {type(about).__name__}", DECLARE)
    layers = about.layers
    if not all(type(layer) is int and 0 <= layer < 32 for layer in layers) or list(layers) != sorted(set(layers)):
        raise Broken("about.layers", f"layers are {layers}", "name layers of 0 .. 31 in ascending order, or ()")
    if about.positions not in ("keep", "compact"):
        raise Broken("about.positions", f"positions are {about.positions!r}", "say keep or compact")
    for key in about.cite:
        if not key.lstrip().startswith("@") and key not in BIBTEX:
            raise Broken("about.cite", f"{key!r} is no BibTeX entry", nearest(key, BIBTEX))
    inside = {answer.case.place.inside for answer in subject.kept()}
    if bool(layers) not in inside:
        place = "outside" if layers else "inside"
        remedy = "leave layers out" if layers else "name the layers at which it is asked by default: layers=(2,)"
        raise Broken("about.layers", f"layers are {layers}, but it can only be asked {place} a language model", remedy)
    return f"before layers {', '.join(map(str, layers))} of 32" if layers else "outside a language model"


DRAW = KEYED.replace("`noise`", "`view.noise`").replace("noise.normal", "view.noise.normal") + ", or view.uniform()"


def _without_fault(subject: SelectorSubject, name: str) -> None:
    for answer in subject.kept():
        if answer.fault is not None and answer.fault[0] == name:
            raise answer.fault[1]


def _merges(subject: SelectorSubject) -> bool:
    return any(answer.kept is not None and answer.kept.tokens is not None for answer in subject.answers)


def _scores(subject: SelectorSubject, case: ViewCase) -> Tensor | None:
    """Return the scores; None where another property reports that there are none."""
    try:
        return subject.scores(case)
    except Broken:
        return None


def _largest(scores: Tensor, index: Tensor) -> bool:
    """Return True unless a token is left out whose score is higher than that of one kept."""
    least = scores.gather(1, index).amin(1)
    return not bool((scores.scatter(1, index, -torch.inf).amax(1) > least).any())


def _same(one: Kept, other: Kept, exact: bool = True) -> bool:
    if not torch.equal(one.index, other.index) or (one.tokens is None) != (other.tokens is None):
        return False
    if one.tokens is None or other.tokens is None:
        return True
    tolerance = 0.0 if exact else 1e-6
    return torch.allclose(one.tokens, other.tokens, rtol=tolerance, atol=tolerance, equal_nan=True)
