"""Every kind of result is shown the same way: a line, a table for notebooks, a figure, a data frame, files."""

import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import compared
import numpy as np
import pytest
from matplotlib.figure import Figure
from probe_contract import measured
from rich.table import Table
from schedules import schedule
from test_results import python

from gradprobe.advice.advice import Advice
from gradprobe.errors import GradprobeError, UsageError
from gradprobe.plotting.dots import Dot, Panel, dots_figure
from gradprobe.plotting.html_tables import html_of
from gradprobe.plotting.shown import Shown
from gradprobe.probes import BUILT_IN, probe_of
from gradprobe.probes.result import ProbeResult
from gradprobe.selectors.fastv import FastV
from gradprobe.statistics.estimates import Estimate
from gradprobe.store.results import Store
from gradprobe.vlm.evaluation.result import EvaluationResult
from gradprobe.vlm.search.deployed import Deployed
from gradprobe.vlm.search.result import Front
from gradprobe.vlm.search.search import Found
from gradprobe.vlm.training.result import TrainingResult, Validation


def evaluation():
    question = {"probe": "evaluation", "op": "<b>mine</b>", "task": "gqa", "k": 11}
    right = np.array([[1.0, 1.0], [0.0, 1.0], [1.0, 1.0]])
    return EvaluationResult(question, ("yes",) * 3, np.arange(3), right, 66.7, {"seconds": 1.0})


def advice():
    row = {"tau": "0.3", "step": 0.2, "relative": 2.0, "value": 0.5, "value_low": 0.4, "value_high": 0.6, "apart": None}
    row |= {"rung": 1, "steps": 20, "retention": 0.9, "low": None, "high": None, "by_seed": [0.9]}
    other = row | {"label": "hard", "op": "hard", "rung": None, "steps": None, "retention": None, "by_seed": []}
    floor = {"ranking": "norm", "op": "ranked:norm", "retention": 0.5, "low": None, "high": None, "by_seed": [0.5]}
    return Advice(
        title="toy, K = 4", verdict=("Use vpnoise.",), op="vpnoise", tau="0.3", command="gradprobe retention ...",
        expected={"retention": 0.9}, price={"step": 0.2}, runners_up=(), measure="fidelity",
        candidates=({**row, "label": "vpnoise", "op": "vpnoise"}, other), rungs=(), rankings=(floor,),
        changes=("Seeds.",), missing={"scale": "too slow"}, settings={"k": 4},
        seconds={"budget": 9.0, "spent": 8.0, "timing": 1.0, "measure": 0.0, "trainings": 7.0, "rankings": 0.0},
    )  # fmt: skip


VALIDATIONS = (Validation(2, 1.5, math.nan), Validation(4, 1.4, 1.25))


def training(validations=VALIDATIONS):
    losses = {"unpruned": 1.0, "deployed": 1.25, "random": 2.0, "training": 1.5} if validations else {}
    config = {"k": 5, "ratio": None, "op": "vpnoise", "scorer": "mlp"}
    gain = Estimate(0.75, 0.5, 1.0) if validations else None
    return TrainingResult(
        Path("pruner"), config, 6, 6, 4, validations, losses, 1.4, {"scorer": 9}, 60.0, (),
        {"held_out": 4, "seen": 24}, gain,
    )  # fmt: skip


def front():
    spending = SimpleNamespace(layers=3, tokens=10, share=lambda counts: sum(counts) / 30)
    asked = SimpleNamespace(
        spending=spending, selector=FastV(), kernel=SimpleNamespace(label="free"),
        task=SimpleNamespace(vlm=SimpleNamespace(name="toy")),
    )  # fmt: skip
    found = (Found(0.5, (10, 4, 1), 0.5, Deployed(1.2, 3, 4), (), 1.0),)
    return Front(asked, found, Deployed(1.0, 4, 4))


KINDS = {name: lambda name=name: measured(probe_of(name)) for name in BUILT_IN}
KINDS |= {"evaluation": evaluation, "schedule": schedule, "comparison": compared.comparison, "advice": advice}
KINDS |= {"training": training, "search": front}
PAGES = ("comparison", "advice")
_made = {}


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def result(kind):
    if kind not in _made:
        _made[kind] = KINDS[kind]()
    return _made[kind]


def test_a_repr_is_one_short_line_that_names_the_class(result):
    assert isinstance(result, Shown)
    assert repr(result).startswith(f"{type(result).__name__}(") and repr(result).endswith(")")
    assert len(repr(result)) < 250 and "\n" not in repr(result) and "array" not in repr(result)


def test_a_notebook_shows_its_table_with_text_escaped(result):
    text = result._repr_html_()
    assert text.count("<table>") == text.count("</table>") >= 1
    assert "<b>" not in text and text.count("<td") >= text.count("<tr>") - text.count("<thead>")


def test_the_figure_is_a_figure_that_a_notebook_can_show(result):
    figure = result.plot()
    assert isinstance(figure, Figure) and any(axes.has_data() for axes in figure.axes)
    image, about = figure._repr_png_()
    assert image.startswith(b"\x89PNG") and about["width"] == round(100 * figure.get_figwidth())


def test_the_frame_has_a_row_for_each_row(result):
    frame, rows = result.to_frame(), result._parts.rows(result)
    assert len(frame) == len(rows) >= 1 and set(frame.columns) == {name for row in rows for name in row}


def test_files_are_written_by_suffix_and_others_refused(kind, result, tmp_path):
    suffixes = [".json", ".png", *([".html"] if kind in PAGES else [])]
    for suffix in suffixes:
        path = result.save(str(tmp_path / "new" / f"result{suffix}"))
        assert path.is_file() and path.stat().st_size > 100
    told = json.loads((tmp_path / "new" / "result.json").read_text(), parse_constant=pytest.fail)
    assert len(told) >= 2
    with pytest.raises(UsageError, match=r"cannot save .*result\.docx.*use one of .*\.json, \.png"):
        result.save(tmp_path / "result.docx")
    with pytest.raises(UsageError, match="it is a folder"):
        (tmp_path / "folder.json").mkdir()
        result.save(tmp_path / "folder.json")


def test_a_missing_pandas_is_told_with_what_to_type(result, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(GradprobeError, match="needs pandas; type: pip install pandas"):
        result.to_frame()


@pytest.mark.parametrize("probe", [*BUILT_IN, "evaluation", "schedule"])
def test_the_answer_of_a_probe_is_saved_as_a_store_holds_it(probe, tmp_path):
    result = _made.setdefault(probe, KINDS[probe]())
    assert isinstance(result, ProbeResult)
    path = result.save(tmp_path / "mine.npz")
    assert path.read_bytes() == Store(tmp_path).save(result).read_bytes()
    again = Store(tmp_path).load(path)
    assert repr(again) == repr(result) and again.row() == result.row()


def test_numbers_of_a_comparison_are_a_row_for_each_operator_and_metric():
    comparison = _made.setdefault("comparison", KINDS["comparison"]())
    frame = comparison.to_frame()
    kept = frame[(frame["op"] == comparison.focus) & (frame["metric"] == "retention")].iloc[0]
    assert kept["low"] < kept["value"] < kept["high"] and kept["better"] == "higher" and kept["focus"]
    assert set(comparison.ops) <= set(frame["op"])


def test_what_cannot_be_drawn_is_told():
    with pytest.raises(UsageError, match="no validation"):
        training(()).plot()
    assert "no validation" in training(())._repr_html_()
    with pytest.raises(UsageError, match="nothing to draw"):
        dots_figure([Panel("retention", [])])
    figure = dots_figure([Panel("C", [Dot("a", None), Dot("b", 1.0)])])
    assert [text.get_text() for text in figure.axes[0].texts] == ["–"]


def test_a_result_of_a_probe_of_ones_own_that_is_not_named_here_says_so():
    class Own(ProbeResult):
        probe = "stability"
        question = {"probe": "stability", "op": "vpnoise", "k": 4}  # noqa: RUF012

        def row(self, baseline=None, path=None):
            return {"op": "vpnoise", "stability": 0.5}

    assert repr(Own()).startswith("Own(op='vpnoise', k=4, key='")
    assert "no probe is called" in Own()._repr_html_()
    assert Own().to_frame()["stability"].tolist() == [0.5]


def test_lines_of_a_cell_stay_lines_and_control_characters_are_seen():
    table = Table("a\x1b[31m")
    table.add_row("0.41\n[0.35, 0.46]")
    assert "0.41<br>[0.35, 0.46]" in html_of(table) and "a\\x1b[31m" in html_of(table)


def test_a_stored_result_is_shown_where_torch_cannot_be_imported(tmp_path):
    result = _made.setdefault("coherence", KINDS["coherence"]())
    path = result.save(tmp_path / "mine.npz")
    code = f"""
from gradprobe.store.results import Store
result = Store().load({str(path)!r})
result.save("mine.png")
result.save("mine.json")
print(repr(result), len(result.to_frame()), "<table>" in result._repr_html_())
"""
    done = python(code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{result!r} 1 True"
