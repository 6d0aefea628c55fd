"""An advice: which operator to train, what it costs, what it is expected to retain, and what that rests on."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from gradprobe.plotting.shown import Shown

Row = Mapping[str, Any]


@dataclass(frozen=True, repr=False)
class Advice(Shown):
    """Verdict on the candidates for one model, data and number of tokens; plain numbers, strings and None throughout.

    Attributes:
        title: model and tokens kept.
        verdict: sentences, the operator to use first.
        op: canonical name of that operator.
        tau: temperature schedule to train it with, as ``--tau`` takes it.
        command: that trains it, for a shell; Python where the task was an open one.
        expected: ``retention`` with ``low`` and ``high`` (None with fewer than 5 seeds), ``by_seed`` and ``seeds``, of
            its last trainings; None without any.
        price: ``step`` and ``forward`` in seconds, and ``relative``: its step over that of the ``cheapest``.
        runners_up: labels of candidates that are not told apart from it.
        measure: name of the confirmed measure by which candidates were ranked; None: none is confirmed.
        candidates: a row each, in the order of the advice: ``label``, ``op``, ``tau``, the measure's ``value`` with
            its interval and ``behind``, the first's value less this one's; ``step`` and ``relative``; ``rung``, the
            last one that it was trained in, with ``steps``, ``retention`` and ``by_seed`` there.
        rungs: a row each: ``steps``, ``seeds``, ``images``, ``trained`` and ``failed``.
        rankings: a row for each ranking without training: ``ranking``, ``retention``, ``by_seed`` and ``as_good``.
        changes: sentences on what would change the advice.
        missing: reason of each candidate without an answer, by its label.
        seconds: ``budget``, ``planned``, and ``spent`` on ``timing``, ``measure``, ``trainings`` and ``rankings``.
        settings: of the questions.
    """

    title: str
    verdict: tuple[str, ...]
    op: str
    tau: str
    command: str
    expected: Row | None
    price: Row
    runners_up: tuple[str, ...]
    measure: str | None
    candidates: tuple[Row, ...]
    rungs: tuple[Row, ...]
    rankings: tuple[Row, ...]
    changes: tuple[str, ...]
    missing: Mapping[str, str]
    seconds: Row
    settings: Row
    _shown_by: ClassVar[str] = "gradprobe.advice.shown"

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON can hold it."""
        return {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, tuple | list) else value
