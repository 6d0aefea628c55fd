"""The page of a comparison: one HTML file that asks the network for nothing, to be sent to a co-author."""

import importlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from gradprobe.comparison.comparison import Comparison, answers_of, compared, few_seeds, probe_rows, rows
from gradprobe.comparison.tables import (
    LEGEND,
    TESTED,
    by_seeds,
    chance,
    difference,
    mark,
    measured,
    value,
)
from gradprobe.comparison.verdict import (
    COMPARED,
    DIRECTIONS,
    SIGNS,
    Measure,
    floors_line,
    measures,
    standing,
    verdict_of,
)
from gradprobe.plotting.columns import Row, name_of, seeds
from gradprobe.plotting.escape import visible
from gradprobe.plotting.pages import check_html, write_html
from gradprobe.probes.metrics import Grid, Metric, grid
from gradprobe.store.results import key_of

TEMPLATE = Path(__file__).parent / "page.html.jinja"
DARK, LIGHT = 0x17, 0xEC  # greys that stand for white and for black in figures on a dark page
OPERATOR = ("op", "op_code", "probe")


@dataclass(frozen=True)
class Text:
    """A cell: its number, its interval, a mark with its meaning, and what it sorts by (empty: always last)."""

    main: str
    ends: str = ""
    mark: str = ""
    says: str = ""
    sort: str = ""


@dataclass(frozen=True)
class Line:
    """A row of a table: an operator's name, what it is here (``focus``, ``floor`` or empty) and its cells."""

    name: str
    kind: str
    cells: tuple[Text, ...]


@dataclass(frozen=True)
class Table:
    """A table of the page.

    Attributes:
        title: above it.
        headings: each with a meaning, which may be empty, an order in which it sorts first, and, where one direction is
            better, that direction in words.
        lines: its rows.
    """

    title: str
    headings: tuple[tuple[str, ...], ...]
    lines: tuple[Line, ...]


def write_report(comparison: Comparison, path: Path | str, figures: Mapping[str, str]) -> Path:
    """Write a comparison as one self-contained page: summary, each probe's figure and tables, settings, keys, command.

    Same comparison and figures, same bytes. The page reads on a phone and prints on A4; its tables sort.

    Args:
        comparison: the operators, compared with its focus.
        path: an .html file; its folder is made if need be.
        figures: SVG text by probe, as `gradprobe.comparison.figures.figures_of` draws it; it is put in as it is.

    Raises:
        UsageError: another suffix.
        GradprobeError: the file cannot be written.
    """
    path = check_report(path)
    return write_html(_page(comparison, figures), path)


def check_report(path: Path | str) -> Path:
    """Refuse a page that cannot be made (before the work that it would show is done).

    Raises:
        UsageError: another suffix.
    """
    return check_html(path)


def environment() -> Any:
    """Return jinja2's environment; a template that extends `TEMPLATE` has its look, its script and the macro ``sheet``.

    Such a template gives the blocks ``title`` and ``main``.
    """
    import jinja2

    strict: Any = {"autoescape": True, "undefined": jinja2.StrictUndefined, "finalize": _visible}
    loader = jinja2.FileSystemLoader(TEMPLATE.parent)
    made = jinja2.Environment(loader=loader, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, **strict)
    made.filters["named"] = _named
    return made


def _page(comparison: Comparison, figures: Mapping[str, str]) -> str:
    operator_rows = rows(comparison)
    shown = measured(operator_rows)
    sections = [
        {
            "probe": probe,
            "question": getattr(place, "QUESTION", ""),
            "directions": _directions(place.METRICS),
            "figure": figures.get(probe, ""),
            "tables": [_of_grid(grid, comparison, probe) for grid in probe_grids(comparison, probe, place)],
        }
        for probe, place in compared().items()
    ]
    template = environment().get_template(TEMPLATE.name)
    return template.render(
        comparison=comparison,
        others=len(comparison.ops) - 1,
        verdict=verdict_of(comparison, operator_rows),
        grid=_grid(operator_rows),
        same=COMPARED,
        floors=floors_line(operator_rows, comparison.focus),
        chance=chance(operator_rows, comparison.focus),
        summary=_summary(operator_rows, shown),
        differences=_differences(operator_rows, shown, comparison.focus),
        legend=LEGEND.format(focus=comparison.focus),
        tested=TESTED if any(metric.name == "equivalence" for metric in shown) else "",
        metrics=shown,
        counted={metric.name: by_seeds(operator_rows, metric) for metric in shown},
        sections=[section for section in sections if section["tables"]],
        greys=_greys(figures.values()),
        asked=_asked(comparison),
        answers=_answers(comparison),
        dates=_dates(comparison),
    )


def probe_grids(comparison: Comparison, probe: str, place: Any) -> list[Grid]:
    """Return the tables of one probe, compared with the focus; none where nothing was asked.

    Args:
        comparison: the operators.
        probe: its name.
        place: its place in a comparison; without ``grids`` its metrics are the columns.
    """
    rows = probe_rows(comparison, probe)
    if not rows:
        return []
    others = [row for op, row in rows if op != comparison.focus]
    if not hasattr(place, "grids"):
        columns = {m.heading: partial(_metric_text, m) for m in place.METRICS}
        return [grid("", [row for _, row in rows], columns)]
    return [each for each in place.grids([row for _, row in rows], others, comparison.focus) if each.lines]


def _metric_text(metric: Metric, row: Row) -> str:
    return value(metric, metric.read(row))


def _greys(figures: Iterable[str]) -> list[tuple[str, str]]:
    """Return the variables of the figures' greys and their colours on a dark page, black and white exchanged."""
    found = sorted({grey for text in figures for grey in re.findall(r"var\(--n([0-9a-f]{2}),", text)})
    dark = {grey: f"{round(LIGHT - (LIGHT - DARK) * int(grey, 16) / 255):02x}" for grey in found}
    return [(f"--n{grey}", f"#{3 * each}") for grey, each in dark.items()]


def _visible(value: Any) -> Any:
    """Text of the page that is not HTML already, without control characters."""
    return visible(value, keep="\n") if type(value) is str else value


def _named(name: str) -> Any:
    """Return an operator's name with break opportunities before its pluses and colons."""
    escaped = importlib.import_module("markupsafe").escape(visible(name))
    wbr = importlib.import_module("markupsafe").Markup("<wbr>")
    return escaped.replace("+", wbr + "+").replace(":", wbr + ":")


@dataclass(frozen=True)
class Standings:
    """The grid of the page: operators that the focus is compared with, and a line for each measure.

    A line has the measure's heading, its direction, and a cell an operator: word, sign and what it rests on, all empty
    where nothing was compared.
    """

    ops: tuple[str, ...]
    lines: tuple[tuple[str, str, tuple[tuple[str, str, str], ...]], ...]


def _grid(operator_rows: Sequence[Row]) -> Standings:
    ops = tuple(row["op"] for row in operator_rows if not row["focus"] and not row["floor"])
    lines = []
    for line in measures(operator_rows):
        cells = tuple(_standing_cell(line, op) for op in ops)
        lines.append((line.metric.heading, _direction(line.metric), cells))
    return Standings(ops, tuple(lines))


def _standing_cell(line: Measure, op: str) -> tuple[str, str, str]:
    word = line.against.get(op)
    return ("", "", "") if word is None else (word, SIGNS[word], line.rests_on(op))


def _summary(operator_rows: Sequence[Row], shown: Sequence[Metric]) -> Table:
    lines = []
    for row in operator_rows:
        cells = []
        for metric in shown:
            cell = row["metrics"].get(metric.name)
            if cell is None:
                cells.append(Text(""))
                continue
            says = cell["reason"] or standing(metric, cell) or cell["verdict"] or ""
            says += f" with {seeds(cell['seeds'])}" if few_seeds(cell) else ""
            says = says or mark(metric, cell).strip("()")
            text = _text(value(metric, cell), "" if cell["value"] is None else repr(float(cell["value"])))
            cells.append(replace(text, mark=mark(metric, cell), says=says))
        lines.append(Line(name_of(row), _kind(row), tuple(cells)))
    return Table("", (("operator", "", "ascending"), *(_heading(m) for m in shown)), tuple(lines))


def _differences(operator_rows: Sequence[Row], shown: Sequence[Metric], focus: str) -> Table:
    lines = []
    for row in operator_rows:
        if row["focus"]:
            continue
        cells = [(metric, row["metrics"].get(metric.name)) for metric in shown]
        texts = [_text(difference(metric, cell)) if cell else Text("") for metric, cell in cells]
        lines.append(Line(name_of(row), _kind(row), tuple(texts)))
    headings: list[tuple[str, ...]] = [("operator", "", "ascending")]
    headings += [(m.heading + (" ×" if m.ratio else ""), "", _first(m), _direction(m)) for m in shown]
    return Table(f"each operator less {focus}; × over it", tuple(headings), tuple(lines))


def _heading(metric: Metric) -> tuple[str, ...]:
    return metric.heading, metric.meaning, _first(metric), _direction(metric)


def _direction(metric: Metric) -> str:
    return "nearer 0 is better" if metric.name == "equivalence" else DIRECTIONS[metric.better]


def _directions(metrics: Sequence[Metric]) -> str:
    """Return the direction of each metric of a probe, in words."""
    return "; ".join(f"{metric.heading}: {_direction(metric)}" for metric in metrics)


def _first(metric: Metric) -> str:
    return "ascending" if metric.better == "lower" else "descending"


def _of_grid(grid: Grid, comparison: Comparison, probe: str) -> Table:
    focus = {result.question["op"] for result in answers_of(comparison, probe, comparison.focus)}
    kinds = dict.fromkeys(focus, "focus") | {name_of({"op": floor}): "floor" for floor in comparison.floors}
    lines = [Line(name, kinds.get(name, ""), tuple(map(_text, cells))) for name, cells in grid.lines]
    first, *others = grid.headings
    return Table(grid.title, ((first, "", "ascending"), *((name, "", "descending") for name in others)), tuple(lines))


def _text(text: str, sort: str | None = None) -> Text:
    """Return the cell of a table's text such as ``0.68 [0.63, 0.73]``; it sorts by its first number."""
    main, bracket, ends = text.partition(" [")
    return Text(main, bracket.strip() + ends, sort=_number(main) if sort is None else sort)


def _number(text: str) -> str:
    """Return the number that a text begins with; else the text itself, empty where there is nothing to sort by."""
    first = (text.lstrip("×+ ").split() or [""])[0].rstrip("%,").replace("∞", "inf")
    try:
        return repr(float(first))
    except ValueError:
        return "" if text in ("–", "none") else text


def _kind(row: Row) -> str:
    return "focus" if row["focus"] else "floor" if row["floor"] else ""


def _asked(comparison: Comparison) -> list[tuple[str, str]]:
    """Return the settings of each probe beyond the shared ones; a field with several values names them all."""
    told = []
    for probe in compared():
        fields: dict[str, dict[str, None]] = {}
        for question in (result.question for result in comparison.results.get(probe, ())):
            for name, asked in question.items():
                if name not in OPERATOR and comparison.settings.get(name) != asked:
                    fields.setdefault(name, {})[str(asked)] = None
        text = "; ".join(f"{name} {', '.join(values)}" for name, values in fields.items())
        told += [(probe, text)] if text else []
    codes = {r.question["op"]: r.question["op_code"] for r in _every(comparison) if "op_code" in r.question}
    return told + [(op, f"code {code}") for op, code in codes.items()]


def _answers(comparison: Comparison) -> Table:
    """Keys of the stored answers: an operator a line, a probe a column."""
    keys_of: dict[str, dict[str, list[str]]] = {}
    for probe, results in comparison.results.items():
        for result in results:
            keys_of.setdefault(result.question["op"], {}).setdefault(probe, []).append(key_of(result.question))
    probes = [probe for probe in compared() if comparison.results.get(probe)]
    lines = [
        Line(name_of({"op": op}), "", tuple(Text(" ".join(keys.get(probe, ()))) for probe in probes))
        for op, keys in keys_of.items()
    ]
    return Table("", (("operator", "", "ascending"), *((probe, "", "ascending") for probe in probes)), tuple(lines))


def _dates(comparison: Comparison) -> str:
    """Return the days on which the answers were computed, first and last."""
    days = sorted(str(result.environment["date"])[:10] for result in _every(comparison) if "date" in result.environment)
    return " to ".join(dict.fromkeys((days[0], days[-1]))) if days else ""


def _every(comparison: Comparison) -> list[Any]:
    return [result for results in comparison.results.values() for result in results]
