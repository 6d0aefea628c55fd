"""Tables of the terminal fit its width: no cell is cut, and names break where a part of them ends."""

import re

import compared
import pytest
from probe_contract import measured
from rich.console import Group
from rich.table import Table
from rich.text import Text
from stored import asked, result

from gradprobe.cli.screen import Screen
from gradprobe.comparison.tables import summary_table
from gradprobe.plotting.broken import NAME
from gradprobe.probes import BUILT_IN, probe_of
from gradprobe.store.results import Store

NAMES = ("lapsum+vpnoise", "gumbel-ste:backward=soft+gather", "my_operators/of_mine.py:MyOperator+scale-vpnoise")
WIDTHS = (60, 80, 120)
_rows = {}


def rows_of(probe):
    """Rows of three operators with names of all lengths."""
    if probe not in _rows:
        _rows[probe] = measured(probe_of(probe)).row()
    return [_rows[probe] | {"op": name} for name in NAMES]


def printed(renderable, width):
    console = Screen(width=width, color_system=None)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get().splitlines()


def flat(renderable):
    return (
        [each for part in renderable.renderables for each in flat(part)]
        if isinstance(renderable, Group)
        else [renderable]
    )


def check_whole(tables, width):
    lines = printed(Group(*tables), width)
    assert all(len(line.rstrip()) <= width for line in lines) and "…" not in "".join(lines)
    shown = re.sub(r"\s+", "", "".join(lines))
    for table in tables:
        for column in table.columns:
            for cell in column.cells:
                for text in str(cell).split("\n"):
                    for piece in filter(None, (piece.strip() for piece in NAME.split(text))):
                        assert piece.replace(" ", "") in shown, (piece, lines)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("probe", BUILT_IN)
def test_tables_of_probes_fit_and_lose_nothing(probe, width):
    check_whole(flat(probe_of(probe).part("view").table(rows_of(probe))), width)


@pytest.mark.parametrize("width", WIDTHS)
def test_tables_of_a_comparison_fit_and_lose_nothing(width):
    check_whole(flat(summary_table(compared.comparison())), width)


@pytest.mark.parametrize("width", [100, 60])
def test_the_list_of_answers_fits_and_names_each(width, run, monkeypatch, tmp_path):
    store = Store(tmp_path / "runs")
    keys = [store.save(result(asked(op=name))).stem for name in NAMES]
    run()
    monkeypatch.setenv("COLUMNS", str(width))
    code, out, _ = run("list")
    assert code == 0 and all(len(line.rstrip()) <= width for line in out.splitlines())
    for key, name in zip(keys, NAMES, strict=True):
        assert key in out and all(piece in out for piece in NAME.split(name))
    assert ("scenes" in out) and "2026-01-02" in out and "…" not in out


def table(*names, **columns):
    made = Table(caption="what it means, in words that are longer than the table is wide")
    made.add_column("operator")
    for heading in columns:
        made.add_column(heading, justify="right", no_wrap=True)
    for name in names:
        made.add_row(name, *columns.values())
    return made


def test_a_table_with_room_is_left_as_it_is():
    lines = printed(table("gumbel-ste:backward=soft+gather", C="0.5"), 80)
    assert any("gumbel-ste:backward=soft+gather" in line for line in lines)


def test_names_break_before_columns_go_below():
    lines = printed(table("gumbel-ste:backward=soft+gather", C="0.5", centred="0.25"), 50)
    assert sum("operator" in line for line in lines) == 1
    names = [line.split("│")[1].strip() for line in lines if line.startswith("│")]
    assert names == ["gumbel-ste:backward=soft", "+gather"]


def test_columns_without_room_come_below_with_the_names_again():
    lines = printed(table("lapsum+vpnoise", first="0.123456789", second="0.987654321", third="0.555555555"), 44)
    heads = [line for line in lines if "operator" in line]
    assert len(heads) == 2 and "first" in heads[0] and "third" in heads[1]
    assert sum("lapsum" in line for line in lines) == 2
    assert sum("what it means" in line for line in lines) == 1


def test_titles_within_a_table_and_other_renderables_stay():
    made = table("lapsum+vpnoise", C="0.5", more="0.123456789012345")
    made.add_row(Text("K = 58 of 196"))
    lines = printed(made, 36)
    assert any("K = 58 of 196" in line for line in lines)
    assert printed("a line", 60) == ["a line"]
