"""Names from outside leave the program escaped: on the terminal, in figures, pages, scripts and Markdown."""

import ast
import io
import json
import re
from html import unescape
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from gradprobe.cli.screen import Screen
from gradprobe.plotting.escape import code_span, html, script_json, visible
from gradprobe.plotting.style import RISE, look, save_figure

STEERING = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
EVIL = [
    "o[/x].py:Op", "[red]x[/red]", ":bomb:", "a\x1b[31mb", "\x9b2J", "\u202egnp.exe", "a\rb", "bad\udcff", "$\\frac{$",
    "$x", "\\$", "<!--<script>", "</script>", "\u2028", "a|`b`|c", "_hidden", "{{ 1 }}", "{0}", "%s", "\x7f",
]  # fmt: skip
evil = pytest.mark.parametrize("name", EVIL, ids=ascii)
text = st.text(st.characters(codec=None, exclude_categories=()), max_size=20)


@given(text)
def test_nothing_that_steers_is_left(name):
    shown = visible(name)
    assert not STEERING.search(shown)
    assert "\n" not in shown
    shown.encode()


@given(st.text(st.sampled_from("abc[]/$<>|`_é漢 "), max_size=20))
def test_what_is_harmless_stays_as_it_is(name):
    assert visible(name) == name


@given(text)
def test_json_in_a_script_is_the_same_value_and_ends_nothing(name):
    shown = script_json({name: [name]})
    assert json.loads(shown) == {name: [name]}
    assert not set("<>&\u2028\u2029") & set(shown)
    assert shown.isascii()


@given(text)
def test_html_holds_no_element(name):
    assert not set("<>\"'") & set(html(name))


@given(st.text(st.sampled_from("a`|\\ "), max_size=12))
def test_a_code_span_is_ended_by_its_own_fence_alone(name):
    shown = code_span(name)
    fence = re.match("`+", shown)[0]
    inner = shown[len(fence) : -len(fence)]
    assert shown.endswith(fence)
    assert len(fence) not in map(len, re.findall("`+", inner))


@evil
def test_the_screen_takes_names_literally(name):
    from rich.table import Table
    from rich.text import Text

    screen = Screen(file=io.StringIO(), width=100)
    table = Table(f"head {name}", title=f"title {name}", caption=f"caption {name}")
    table.add_row(f"cell {name}")
    table.add_row(Text(f"styled {name}"))
    screen.print(table)
    screen.print(f"line {name}")
    shown = screen.file.getvalue()
    for word in ("head", "title", "caption", "cell", "line"):
        assert f"{word} {visible(name)}" in shown
    assert not STEERING.search(shown)


@evil
def test_progress_bars_take_descriptions_literally(name, capsys, monkeypatch):
    from gradprobe.cli import progress

    out = io.StringIO()
    monkeypatch.setattr(progress, "Screen", lambda stderr: Screen(file=out, width=100, force_terminal=True))
    with progress.bars() as tell:
        tell(name, 1, 2)
        tell(name, 2, 2)
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", out.getvalue())  # what rich itself moves the cursor with
    assert visible(name) in shown
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202e\u2028\ud800-\udfff]", shown)


@evil
def test_a_figure_takes_names_literally(name, tmp_path):
    with look():
        figure = Figure()
        axes = figure.subplots()
        axes.plot([1, 10], [1, 10], label=f"legend {name}")
        axes.set_title(f"title {name} $x")
        axes.set_xticks([1, 10], [f"tick {name}", "b"])
        axes.set_yscale("log")
        axes.set_ylabel(RISE)
        axes.annotate(f"note {name}", (1, 1))
        axes.legend()
        figure.suptitle(f"above {name}")
    shown = save_figure(figure, tmp_path / "a.svg").read_text(encoding="utf-8")
    words = unescape(re.sub("<!--.*?-->", "", shown, flags=re.DOTALL))
    for word in ("legend", "title", "tick", "note", "above"):
        assert f"{word} {visible(name)}" in words
    assert "mathdefault" not in words  # numbers of the logarithmic axis stay formulas
    assert "$L -" not in words


def test_a_name_that_begins_with_an_underscore_stays_in_the_legend():
    from gradprobe.plotting.escape import legend_label

    with look():
        axes = Figure().subplots()
        axes.plot([0, 1], [0, 1], label=legend_label("_mine.py:Op"))
        assert [text.get_text().strip() for text in axes.legend().get_texts()] == ["_mine.py:Op"]


def test_the_commands_print_through_one_module_alone():
    """No other file of the command line writes to the terminal, so none can forget to escape."""
    folder = Path(__file__).parents[2] / "gradprobe" / "cli"
    for path in folder.glob("*.py"):
        if path.name in ("output.py", "screen.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("print", "typer.echo", "typer.secho", "Console", "sys.stdout.write"), path.name


@evil
def test_the_card_of_a_pruner_quotes_names(name):
    import yaml

    from gradprobe.plotting.escape import visible
    from gradprobe.vlm.hub_card import front_matter

    text = front_matter(name, "scenes-vlm", [("the tokens kept", 1.5)], held_out=4)
    entries = yaml.safe_load(text.removeprefix("---\n").removesuffix("\n---"))
    assert entries["model-index"][0]["name"] == visible(name)
    assert set(entries) == {"library_name", "license", "pipeline_tag", "tags", "model-index"}
