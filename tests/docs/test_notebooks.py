"""The notebooks run, and print what they show."""

import re

import pytest

import notebooks

NUMBER = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")


@pytest.mark.parametrize("path", notebooks.NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_prints_what_it_shows(folder, path):
    notebook = notebooks.read(path)
    shown = [notebooks.text_of(cell) for cell in notebooks.code_cells(notebook)]
    printed = notebooks.run(notebook)
    assert [NUMBER.sub("#", text) for text in printed] == [NUMBER.sub("#", text) for text in shown]
    for ours, theirs in zip(printed, shown, strict=True):  # threads and versions may move a last digit
        assert [float(x) for x in NUMBER.findall(ours)] == pytest.approx(
            [float(x) for x in NUMBER.findall(theirs)], rel=0.05, abs=0.02
        )


def test_notebooks_are_there_and_small():
    assert {path.stem for path in notebooks.NOTEBOOKS} == {"own_operator", "own_model_and_probe"}
    for path in notebooks.NOTEBOOKS:
        assert path.stat().st_size < 20_000


@pytest.mark.parametrize("path", notebooks.NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_as_a_fresh_run_leaves_it(path):
    notebook = notebooks.read(path)
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    cells = notebook["cells"]
    assert len({cell["id"] for cell in cells}) == len(cells)
    counts = [cell["execution_count"] for cell in notebooks.code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))
