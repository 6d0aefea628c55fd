"""Notebooks run cell by cell, as a kernel does; ``python tests/docs/notebooks.py`` writes what they print into them."""

import ast
import contextlib
import io
import json
import linecache
import os
import sys
import tempfile
from pathlib import Path

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def code_cells(notebook):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def text_of(cell):
    """Text that a cell has printed when it was last run."""
    return "".join("".join(output["text"]) for output in cell["outputs"])


def run(notebook):
    """Run the code cells in their order in one namespace; returns what each prints, a last expression included."""
    namespace = {"__name__": "__main__"}
    return [_run_cell("".join(cell["source"]), number, namespace) for number, cell in enumerate(code_cells(notebook))]


def _run_cell(source, number, namespace):
    name = f"<cell {number}>"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)  # for inspect, as a kernel does
    tree = ast.parse(source, name)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, name, "exec"), namespace)
        value = eval(compile(ast.Expression(last.value), name, "eval"), namespace) if last else None
        if value is not None:
            print(repr(value))
    return printed.getvalue()


def main():
    for path in map(Path, sys.argv[1:] or NOTEBOOKS):
        path, notebook = path.resolve(), read(path)
        os.chdir(tempfile.mkdtemp())
        for number, (cell, text) in enumerate(zip(code_cells(notebook), run(notebook), strict=True), start=1):
            lines = text.splitlines(keepends=True)
            cell["execution_count"] = number
            cell["outputs"] = [{"name": "stdout", "output_type": "stream", "text": lines}] if text else []
        path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
