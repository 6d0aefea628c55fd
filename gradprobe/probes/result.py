"""Base of the results of probes, and how each is shown: by the view and the figure that its probe declares."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from gradprobe.errors import GradprobeError, UsageError
from gradprobe.files import atomic_write
from gradprobe.plotting.shown import Shown, Writer
from gradprobe.probes.contract import Probe
from gradprobe.store.results import content_of, key_of

FACTS = ("op", "task", "k", "seed")  # of a question, that tell one result from another


class ProbeResult(Shown):
    """Base of the results of probes, also of one's own: ``class MyResult(ProbeResult)``.

    The class is a frozen dataclass with ``question``, ``environment``, ``row(baseline, path)`` and the name of its
    ``probe``; ``repr=False`` in the decorator leaves the short ``repr``.
    """

    _shown_by: ClassVar[str] = "gradprobe.probes.result"


def facts(result: Any) -> dict[str, Any]:
    """Return what tells a result from others of its kind: operator, K, seed and the key of its question."""
    told = {name: result.question[name] for name in FACTS if name in result.question}
    try:
        return told | {"key": key_of(result.question)}
    except GradprobeError:  # a question that JSON cannot hold
        return told


def rows(result: Any) -> list[dict[str, Any]]:
    """Return the row of the result, compared with nothing."""
    return [result.row()]


def tables(result: Any) -> Sequence[Any]:
    """Return the table of the probe's command, the sentences on it, and the words for its columns."""
    view, own = _probe(result).part("view"), rows(result)
    lines = view.lines(own, None) if hasattr(view, "lines") else []  # absent of a probe that is no command
    return [view.table(own), *lines, *([view.meaning(own)] if hasattr(view, "meaning") else [])]


def figure(result: Any) -> Any:
    """Draw the figure of the probe's command.

    Raises:
        UsageError: the probe declares none.
    """
    probe, question = _probe(result), result.question
    draw = probe.part("figure")
    if draw is None:
        raise UsageError(f"the probe {probe.name} draws no figure; its numbers are in row() and to_frame()")
    parts = [str(question[name]) for name in ("backbone",) if name in question]
    parts += [f"K = {question['k']}"] if "k" in question else []
    return draw([result], rows(result), ", ".join(parts))


def content(result: Any) -> dict[str, Any]:
    """Return all plain values, as ``gradprobe show --json`` prints them."""
    about = {"probe": result.probe, "key": key_of(result.question)}
    return about | {"question": result.question, "environment": result.environment, "rows": rows(result)}


def writers(result: Any) -> Mapping[str, Writer]:
    """Return the writer of the whole answer, arrays included; the same answer has the same bytes as in a store."""
    return {".npz": partial(_write_answer, result)}


def _write_answer(result: Any, path: Path) -> None:
    atomic_write(path, content_of(result))


def _probe(result: Any) -> Probe:
    from gradprobe.probes import probe_of

    return probe_of(result.probe)
