"""The public names: lazy, known to type checkers, and the same however they are reached."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import gradprobe as gp

ROOT = Path(gp.__file__).parent
PACKAGES = ["gradprobe", "gradprobe.vlm"]


def typed_names(package):
    """Names that a type checker sees in a package, each with the module and the name that it comes from."""
    tree = ast.parse(Path(package.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    return {
        alias.asname: f"{node.module}:{alias.name}"
        for node in block.body
        for alias in node.names
        if isinstance(node, ast.ImportFrom)
    }


@pytest.mark.parametrize("name", PACKAGES)
def test_a_type_checker_sees_the_very_names_that_are_found_at_run_time(name):
    package = importlib.import_module(name)
    homes = {public: f"{name}.{home}:{public}" for public, home in package._HOME.items()}
    if name == "gradprobe":
        homes["vlm"] = "gradprobe:vlm"
    assert typed_names(package) == homes
    assert (ROOT / "py.typed").is_file()


@pytest.mark.parametrize("name", PACKAGES)
def test_every_public_name_is_what_its_module_defines_also_after_all_modules_were_imported(name):
    package = importlib.import_module(name)
    for path in sorted(Path(package.__file__).parent.glob("*.py")):
        if path.stem not in ("__init__", "__main__"):
            importlib.import_module(f"{name}.{path.stem}")
    for public, home in package._HOME.items():
        assert getattr(package, public) is getattr(sys.modules[f"{name}.{home}"], public)


def test_compare_is_a_function_also_for_those_who_import_its_older_module():
    import gradprobe.compare
    from gradprobe.compare import SIZES

    assert gp.compare is importlib.import_module("gradprobe.comparison.run").compare
    assert gradprobe.compare.compare is gp.compare
    assert "tiny" in SIZES
    assert Path(gradprobe.compare.__file__).name == "compare.py"
    assert gp.compare.__doc__.startswith("Ask every probe of operators and baselines")


def test_importing_the_package_imports_no_torch_and_completion_knows_every_name():
    code = "import sys, gradprobe; print('torch' in sys.modules, *dir(gradprobe))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    torch, *names = done.stdout.split()
    assert torch == "False"
    assert {"coherence", "compare", "Task", "Relaxation", "Throttle", "SelectionOperator", "vlm"} <= set(names)


def test_protocols_are_public():
    op = gp.build("vpnoise")
    assert isinstance(op, gp.SelectionOperator)
    assert isinstance(op.relaxation, gp.Relaxation)
    assert isinstance(op.throttle, gp.Throttle)


def test_a_misspelt_name_is_told_with_those_that_exist():
    with pytest.raises(AttributeError, match=r"no 'coherense'; public names: .*coherence"):
        gp.coherense  # noqa: B018


USE = """
import gradprobe as gp
reveal_type(gp.coherence)
reveal_type(gp.build("vpnoise"))
reveal_type(gp.classification("scenes"))
reveal_type(gp.vlm.cost)
task: gp.Task = gp.classification("scenes")
result = gp.coherence(task, "vpnoise", keep=0.3)
reveal_type(result)
gp.coherence(task, gp.Operator, k=58)
gp.coherence(task, "vpnoise", k=58, batchs=3)
gp.coherense
"""


@pytest.mark.slow
def test_mypy_reveals_the_real_types_and_finds_a_misspelt_name(tmp_path):
    (tmp_path / "use.py").write_text(USE)
    command = [sys.executable, "-m", "mypy", "--config-file=", "--ignore-missing-imports", "--follow-imports=silent"]
    done = subprocess.run([*command, "use.py"], cwd=tmp_path, capture_output=True, text=True)
    if "No module named mypy" in done.stderr:
        pytest.skip("no mypy; type: pip install mypy")
    lines = [line.partition(": ")[2] for line in done.stdout.splitlines()]
    assert lines[0].startswith('note: Revealed type is "def (gradprobe.core.Task, ')
    assert "keep: float | None" in lines[0].replace("builtins.", "")
    assert "batches: int" in lines[0].replace("builtins.", "")
    assert lines[1] == 'note: Revealed type is "gradprobe.core.SelectionOperator"'
    assert lines[2] == 'note: Revealed type is "gradprobe.tasks.Classification"'
    assert lines[3].startswith('note: Revealed type is "def (')
    assert lines[4] == 'note: Revealed type is "gradprobe.probes.coherence.result.CoherenceResult"'
    assert lines[5].startswith('error: Unexpected keyword argument "batchs" for "coherence"; did you mean "batches"?')
    assert lines[7].startswith('error: Module has no attribute "coherense"')
    assert "Found 2 errors" in done.stdout
