"""``gradprobe cite``: BibTeX entries of operators, selectors, probes and models."""

import re
from typing import Annotated, Any

import typer

from gradprobe.cli import completion
from gradprobe.cli.output import say, say_lines
from gradprobe.errors import UsageError, nearest
from gradprobe.probes import probe_of

COMPARE = ("diffprune", "li2018landscape", "salimans2017evolution")
DIGITS = ("pedregosa2011scikit",)  # digits, and two photographs, of scikit-learn
BACKBONES = {"scenes": DIGITS, "photos": DIGITS, "deit": ("touvron2021deit",)}


def cite(
    op: Annotated[
        list[str] | None, typer.Option(help="Operator to cite, repeatable.", autocompletion=completion.operators)
    ] = None,
    select: Annotated[
        list[str] | None,
        typer.Option(
            help="Selector or plan to cite, divprune;fastv@8, repeatable.", autocompletion=completion.selectors
        ),
    ] = None,
    probe: Annotated[list[str] | None, typer.Option(help="Probe to cite, repeatable.")] = None,
    backbone: Annotated[str | None, typer.Option(help="Model to cite: scenes, deit_tiny_patch16_224, ...")] = None,
) -> None:
    """Print the BibTeX entries of operators, selectors, probes and a model, each once, in order."""
    if not op and not select and not probe and not backbone:
        raise UsageError(
            "nothing to cite; give --op vpnoise, --select divprune, --probe landscape, --backbone scenes, or several "
            "of them"
        )
    for name in probe or []:
        if name != "compare":
            probe_of(name)  # refuses an unknown one

    from gradprobe.core import Operator
    from gradprobe.operator_info import about_of
    from gradprobe.operators import registry
    from gradprobe.selectors.plan import plan_of
    from gradprobe.view import SelectorAbout

    entries: list[str] = []
    for operator in map(registry.build, op or []):
        for part in (operator.relaxation, operator.throttle) if isinstance(operator, Operator) else (operator,):
            entries += _entries(registry.label(part), about_of(part), "gradprobe.About(formula, gradient, cite=...)")
    for plan in map(plan_of, select or []):
        for name, selector in {stage.name: stage.selector for stage in plan.stages}.items():
            about = getattr(selector, "about", None)
            about = about if isinstance(about, SelectorAbout) else None
            entries += _entries(name, about, "gradprobe.view.SelectorAbout(formula, source, cite)")
    for name in probe or []:
        cited = COMPARE if name == "compare" else probe_of(name).cites
        entries += _known(cited, f"probe {name}")
    if backbone:
        entries += _known(BACKBONES.get(re.split("[_-]", backbone)[0], ()), f"backbone {backbone}")
    if entries:
        say_lines("\n".join(dict.fromkeys(entries)).removesuffix("\n"))


def _entries(name: str, about: Any, declaration: str) -> list[str]:
    """Return the entries that a part or selector declares, by key or in full."""
    if about is None:
        say(f"{name} declares no source: give it `about = {declaration}`", err=True)
        return []
    return _known(about.cite, name)


def _known(keys: tuple[str, ...], name: str) -> list[str]:
    """Return the entries of keys; an entry in full is its own key."""
    from gradprobe.operators.citations import BIBTEX

    if not keys:
        say(f"{name}: nothing to cite", err=True)
    for key in keys:
        if not key.lstrip().startswith("@") and key not in BIBTEX:
            raise UsageError(f"{name} cites {key!r}, which is no BibTeX entry; {nearest(key, BIBTEX)}")
    return [BIBTEX.get(key, key).strip() + "\n" for key in keys]
