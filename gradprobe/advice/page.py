"""The page of an advice: one HTML file that asks the network for nothing, in the look of a comparison's."""

from pathlib import Path

from gradprobe.advice.advice import Advice, Row
from gradprobe.advice.tables import HEADINGS, by_seed, legend, measure, retained, rung_lines, spent
from gradprobe.comparison.page import Line, Table, Text, environment
from gradprobe.plotting.columns import interval, number
from gradprobe.plotting.pages import check_html, write_html

TEMPLATE = Path(__file__).parent / "advice.html.jinja"
UP, DOWN = "ascending", "descending"


def write_advice(advice: Advice, path: Path | str) -> Path:
    """Write an advice as one self-contained page: the verdict first, candidates, rungs, and what would change it.

    Same advice, same bytes.

    Args:
        advice: as `gradprobe.advise` returns it.
        path: an .html file; its folder is made if need be.

    Raises:
        UsageError: another suffix.
        GradprobeError: the file cannot be written.
    """
    path = check_html(path)
    text = (
        environment()
        .from_string(TEMPLATE.read_text(encoding="utf-8"))
        .render(
            advice=advice,
            candidates=_candidates(advice),
            rungs=[_rung(title, row) for title, row in zip(rung_lines(advice), advice.rungs, strict=True)],
            legend=legend(advice),
            spent=spent(advice),
        )
    )
    return write_html(text, path)


def _candidates(advice: Advice) -> Table:
    headings = [("operator", "", UP), ("tau", "temperatures of the first and the last step", UP)]
    headings += [(HEADINGS[advice.measure], "", DOWN)] if advice.measure else []
    headings += [("s a step", "", UP), ("cost", "a training step over the cheapest", UP)]
    headings += [("rung", "the last that it was trained in", DOWN), ("steps", "", DOWN), ("retention", "", DOWN)]
    lines = [_candidate(advice, row, "focus" if i == 0 else "") for i, row in enumerate(advice.candidates)]
    lines += [_ranking(advice, row) for row in advice.rankings]
    return Table("", tuple(headings), tuple(lines))


def _candidate(advice: Advice, row: Row, kind: str) -> Line:
    texts = [Text(row["tau"], sort=row["tau"])]
    if advice.measure:
        main, bracket, ends = measure(advice, row).partition(" [")
        texts.append(Text(main, bracket.strip() + ends, sort=_sort(row["value"])))
    texts += [Text(f"{row['step']:.2g}", sort=_sort(row["step"]))]
    texts += [Text(f"×{row['relative']:.1f}", sort=_sort(row["relative"]))]
    texts += [Text("–" if row[name] is None else str(row[name]), sort=_sort(row[name])) for name in ("rung", "steps")]
    return Line(row["op"], kind, (*texts, _bracketed(retained(row), row)))


def _ranking(advice: Advice, row: Row) -> Line:
    empty = [Text("")] * (5 if advice.measure else 4)
    return Line(f"by {row['ranking']}", "floor", (*empty, Text("0", sort="0"), _bracketed(retained(row), row)))


def _rung(title: str, row: Row) -> Table:
    headings = (("candidate", "", UP), ("retention", "", DOWN), ("each seed", "", DOWN), ("seconds", "", UP))
    return Table(title, headings, tuple(map(_trained, row["trained"])))


def _trained(row: Row) -> Line:
    spent = Text(f"{row['spent']:.1f}", sort=_sort(row["spent"]))
    return Line(row["label"], "", (_retention(row), Text(by_seed(row), sort=_sort(row["retention"])), spent))


def _retention(row: Row) -> Text:
    value, low, high = row["retention"], row["low"], row["high"]
    return _bracketed(number(value, 3) if low is None or high is None else interval(value, low, high), row)


def _bracketed(text: str, row: Row) -> Text:
    """Return the text of a row's retention with its interval apart."""
    main, bracket, ends = text.partition(" [")
    return Text(main, bracket.strip() + ends, sort=_sort(row["retention"]))


def _sort(value: float | None) -> str:
    return "" if value is None else repr(float(value))
