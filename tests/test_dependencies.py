"""The package imports what pyproject declares, each with a lower bound, its reason, and a way to run it."""

import ast
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import floors
import pytest

import gradprobe

ROOT = Path(gradprobe.__file__).parent
UNIMPORTED = {"torchvision"}  # timm's transforms need it
WITH_TORCH = {"triton"}  # CUDA builds of torch bring it; without it a kernel is replaced


def imported():
    """Distributions that the package imports by statement or by ``importlib.import_module``, with a file that does."""
    known = packages_distributions()
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "importlib.import_module":
                names = [a.value for a in node.args if isinstance(a, ast.Constant)]
            for top in {str(name).partition(".")[0] for name in names} - {"gradprobe"} - sys.stdlib_module_names:
                (distribution,) = set(known.get(top, [top]))
                found[distribution.lower().replace("_", "-")] = path.relative_to(ROOT).as_posix()
    return found


@pytest.fixture(scope="module")
def lines():
    """The line of pyproject that declares each dependency."""
    text = floors.PYPROJECT.read_text(encoding="utf-8")
    project = text[text.index("[project]") : text.index("[project.scripts]")]
    return {m["name"]: m[0] for m in re.finditer(r'^.*"(?P<name>[a-z0-9-]+)>=.*$', project, re.M)}


def test_every_import_is_declared():
    core, extras = floors.declared()
    declared = {*core, *(name for each in extras.values() for name in each)}
    assert {name: where for name, where in imported().items() if name not in declared | WITH_TORCH} == {}


def test_everything_declared_for_the_core_is_imported():
    core, _ = floors.declared()
    assert set(core) - set(imported()) == UNIMPORTED


def test_every_lower_bound_has_its_reason(lines):
    core, extras = floors.declared()
    for name, version in {**core, **{n: v for each in extras.values() for n, v in each.items()}}.items():
        assert re.search(rf"# {re.escape(version)}[: ]", lines[name]), lines[name]


def test_the_lowest_versions_are_the_bounds_and_extras_may_lift_the_core():
    core, extras = floors.declared()
    assert floors.lowest() == [f"{name}=={version}" for name, version in core.items()]
    lifted = floors.lowest(["vlm"])
    assert f"typer>={core['typer']}" in lifted
    assert f"transformers=={extras['vlm']['transformers']}" in lifted


def test_a_bound_that_is_not_a_lower_one_is_refused():
    with pytest.raises(ValueError, match="torch<3: write name>=version"):
        floors._bounds(["typer>=0.19", "torch<3"])
