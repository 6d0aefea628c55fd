"""The public names: lazy, known to type checkers, and the same however they are reached."""

import ast
import importlib
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest
import stubs

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


@pytest.mark.parametrize("name", PACKAGES)
def test_a_stub_holds_every_name_and_the_signatures_that_are_made_on_import(name):
    assert set(stubs.PACKAGES) == set(PACKAGES)
    written = ast.parse(stubs.file_of(name).read_text(encoding="utf-8"))
    right = ast.parse(stubs.stub_of(name))
    parts = [sorted(part for node in tree.body for part in statements(node)) for tree in (written, right)]
    assert parts[0] == parts[1], "type: python tests/stubs.py; then ruff check --fix and ruff format gradprobe/**/*.pyi"


def statements(node):
    """Text of a statement; an import or a list of several names is one of each, since ruff puts them in its order."""
    if isinstance(node, ast.ImportFrom):
        return [ast.unparse(ast.ImportFrom(node.module, [alias], 0)) for alias in node.names]
    if isinstance(node, ast.Assign):
        return [f"{ast.unparse(node.targets[0])}: {each}" for each in ast.literal_eval(node.value)]
    return [ast.unparse(node)]


@pytest.mark.parametrize("name", PACKAGES)
def test_a_type_checker_and_the_lazy_table_know_the_same_names(name):
    """Both ways: no name of the table is missing in the stub, and the stub promises none that is not there."""
    package, tree = importlib.import_module(name), ast.parse(stubs.file_of(name).read_text(encoding="utf-8"))
    imported = {a.asname for node in tree.body if isinstance(node, ast.ImportFrom) for a in node.names if a.asname}
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert imported | defined == {*package._HOME, *(["vlm"] if name == "gradprobe" else [])}
    for public in imported | defined:
        assert getattr(package, public) is not None


@pytest.mark.parametrize("task", ["gradprobe.tasks:Classification", "gradprobe.vlm.task:Captioning"])
def test_what_a_task_promises_as_a_property_is_one(task):
    """Editors' type checkers take no class variable and no cached property for it, and then refuse every call."""
    module, _, name = task.partition(":")
    kind = getattr(importlib.import_module(module), name)
    for member, promised in vars(gp.Task).items():
        if isinstance(promised, property) and member not in kind.__dataclass_fields__:
            assert isinstance(inspect.getattr_static(kind, member), property), member


RIGHT = """
from dataclasses import dataclass

import torch

import gradprobe as gp


@dataclass(frozen=True)
class SoftScale:
    tau: float = 0.3
    about = gp.About("w_i x_i", "exact", budget=1e-9)

    def __call__(self, patches: torch.Tensor, scores: torch.Tensor, k: int, noise: gp.Noise) -> gp.Selection:
        weights = gp.soft_topk(scores, k, tau=self.tau)
        return gp.Selection(patches * weights[..., None], weights)


task: gp.Task = gp.classification("scenes")
result = gp.coherence(task=task, operator="vpnoise", k=58, batches=3)
gp.coherence(task, gp.Operator, keep=0.3)
reference = gp.reference(task, 58, sigmas=(1.0,))
fidelity = gp.fidelity(task, SoftScale(), reference, noise_draws=3)
print(result.plot().get_figwidth(), result.save("result.npz").name, len(fidelity.ids), gp.vlm.cost("llava", k=[64]))
comparison = gp.compare(["vpnoise", SoftScale], k=58, size="tiny")
print(comparison.focus, comparison.save("page.html"))
words: gp.Task = gp.vlm.captioning("scenes-vlm")
print(gp.retention(words, "vpnoise", k=11, images=64).save("r.npz"), gp.advise(58, budget=60.0).save("advice.html"))
pruner = gp.vlm.Pruner.from_pretrained("runs/pruner")
print(gp.vlm.attach(pruner.vlm.model, "divprune", k=11))
gp.check_operator(SoftScale)
"""
WRONG = {  # a line of a script, and the error that it is
    "gp.coherense": 'Module has no attribute "coherense"',
    "gp.vlm.captoning": 'Module has no attribute "captoning"',
    'gp.coherence(task, "vpnoise", k=58, batchs=3)': 'Unexpected keyword argument "batchs" for "coherence"',
    'gp.coherence(task, "vpnoise", 58, 0.3)': 'Too many positional arguments for "coherence"',
    'gp.coherence(task, "vpnoise", k="58")': 'Argument "k" to "coherence" has incompatible type "str"',
    "gp.classification(58)": 'Argument 1 to "classification" has incompatible type "int"',
    'gp.coherence(task, "vpnoise", k=58).rows()': '"CoherenceResult" has no attribute "rows"',
    'gp.coherence(task, "vpnoise", k=58).save(3)': 'Argument 1 to "save" of "Shown" has incompatible type "int"',
}
SEEN = {  # an expression, and its type
    'gp.build("vpnoise")': "gradprobe.core.SelectionOperator",
    'gp.classification("scenes")': "gradprobe.tasks.Classification",
    'gp.coherence(task, "vpnoise", keep=0.3)': "gradprobe.probes.coherence.result.CoherenceResult",
    'gp.coherence(task, "vpnoise", keep=0.3).plot()': "matplotlib.figure.Figure",
}


@pytest.mark.slow
def test_strict_mypy_passes_a_right_script_and_finds_every_fault_of_a_wrong_one(tmp_path):
    pytest.importorskip("mypy", reason="no mypy; type: pip install mypy")
    head = 'import gradprobe as gp\ntask = gp.classification("scenes")\n'
    (tmp_path / "right.py").write_text(RIGHT)
    (tmp_path / "wrong.py").write_text(head + "\n".join(WRONG))
    (tmp_path / "seen.py").write_text(head + "\n".join(f"reveal_type({each})" for each in SEEN))
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "right.py", "wrong.py", "seen.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    told = [line for line in done.stdout.splitlines() if ": error: " in line]
    assert len(told) == len(WRONG) and done.stdout.splitlines()[-1].startswith(f"Found {len(WRONG)} errors in 1 file")
    for number, (line, error) in enumerate(WRONG.items(), start=3):
        assert any(each.startswith(f"wrong.py:{number}: error: {error}") for each in told), (line, done.stdout)
    revealed = [line.partition('Revealed type is "')[2] for line in done.stdout.splitlines() if "Revealed" in line]
    assert [each.rstrip('"') for each in revealed] == list(SEEN.values())


@pytest.mark.slow
def test_strict_pyright_agrees(tmp_path):
    """Pyright is the type checker of editors; it is stricter on protocols than mypy."""
    pytest.importorskip("basedpyright", reason="no basedpyright; type: pip install basedpyright")
    head = 'import gradprobe as gp\ntask = gp.classification("scenes")\n'
    (tmp_path / "right.py").write_text(RIGHT)
    (tmp_path / "wrong.py").write_text(head + "\n".join(WRONG))
    told = {"typeCheckingMode": "strict", "extraPaths": [str(ROOT.parent)]}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(told))
    command = [sys.executable, "-m", "basedpyright", "--pythonpath", sys.executable, "--outputjson"]
    done = subprocess.run([*command, "right.py", "wrong.py"], cwd=tmp_path, capture_output=True, text=True)
    errors = {
        (Path(e["file"]).name, e["range"]["start"]["line"] + 1) for e in json.loads(done.stdout)["generalDiagnostics"]
    }
    assert errors == {("wrong.py", number) for number in range(3, 3 + len(WRONG))}
