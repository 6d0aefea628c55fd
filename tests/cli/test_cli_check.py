"""``gradprobe check``, ``list operators`` and ``cite`` as a user meets them, also with someone else's package."""

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from gradprobe.operators import registry
from gradprobe.operators.citations import BIBTEX
from gradprobe.testing import PROPERTIES

DOCS = Path(__file__).parents[2] / "docs" / "add-an-operator.md"


@pytest.fixture
def run(run, monkeypatch):
    """Run gradprobe in a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    return run


def test_check_tells_every_property(run):
    code, out, _ = run("check", "lapsum+scale", "gumbel")
    assert code == 0
    assert "lapsum+scale: 15 passed" in out
    assert "gumbel-ste+gather: 14 passed, 1 skipped" in out
    for name in PROPERTIES:
        assert re.search(rf"^ {name} +(passed|skipped)", out, re.M), name
    assert max(map(len, out.splitlines())) <= 80


def test_a_broken_operator_is_told_with_its_input_and_remedy_and_exit_code_one(run, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from gradprobe import Selection\n"
        "def Twice(patches, scores, k, noise):\n"
        "    return Selection(patches * 2, scores.sigmoid() * 2)\n"
        "def Raises(patches, scores, k, noise):\n    raise ValueError('I am broken')\n"
    )
    code, out, err = run("check", "mine.py:Twice")
    assert code == 1
    assert "weights failed: Weights lie in [0, 1]." in out
    assert "identity failed" in out
    assert "input: normal, float64, N = 17, K = 1" in out
    assert "to do: " in out
    assert "skipped: give it `about = gradprobe.About(" in " ".join(out.split())
    assert "Traceback" not in out + err
    code, out, _ = run("check", "mine.py:Twice", "scale", "--json")
    assert code == 1
    twice, scale = json.loads(out)["checked"]
    assert (twice["op"], twice["ok"], scale["op"], scale["ok"]) == ("mine.py:Twice", False, "lapsum+scale", True)
    assert {f["property"]: f["status"] for f in twice["findings"]}["weights"] == "failed"
    code, out, _ = run("check", "mine.py:Raises")
    assert code == 1
    assert "raised ValueError: I am broken (mine.py, line 5)" in " ".join(out.split())


BARE = """
from gradprobe import Selection
from gradprobe.operators.relaxations.lapsum import LapSum

SLOPE = 4.0

class Whole:
    def __call__(self, patches, scores, k, noise):
        return Selection(patches, scores.sigmoid())

def function(patches, scores, k, noise):
    return Whole()(patches, scores, k, noise)

class MyRelaxation:
    def __call__(self, scores, k, noise):
        return scores.sigmoid()

class MyThrottle:
    def __call__(self, patches, weights, k, noise):
        return Selection(patches * weights[..., None], weights)

class _Hidden(Whole):
    pass

class Other:
    pass
"""


@pytest.mark.parametrize("command", [["check"], ["coherence", "--k", "58", "--op"], ["cite", "--op"]])
def test_a_bare_file_lists_its_classes_as_they_are_typed(run, tmp_path, command):
    (tmp_path / "mine.py").write_text(BARE)
    code, _, err = run(*command, "mine.py")
    assert code == 2
    names = "mine.py:Whole, mine.py:function, mine.py:MyRelaxation+gather, lapsum+mine.py:MyThrottle"
    assert " ".join(err.split()).endswith(f"mine.py is a file; name what is meant in it: {names}")
    for name in names.split(", "):
        assert registry.build(name)


def test_half_of_an_operator_says_how_it_is_joined(run, tmp_path):
    (tmp_path / "mine.py").write_text(BARE)
    assert "mine.py:MyRelaxation+gather" in run("check", "mine.py:MyRelaxation")[2]
    assert "lapsum+mine.py:MyThrottle" in run("check", "mine.py:MyThrottle")[2]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["check"], "Missing argument"),
        (["check", "gone.py"], "no such file; name a Python file and a class in it"),
        (["check", "vpnose"], "did you mean 'vpnoise'"),
        (["check", "lapsum"], "only one part"),
        (["check", "gone.py:Op"], "no such file"),
        (["list", "operator"], "operators"),
        (["cite"], "nothing to cite"),
        (["cite", "--op", "vpnose"], "did you mean 'vpnoise'"),
        (["cite", "--probe", "landscap"], "did you mean 'landscape'"),
    ],
)
def test_a_wrong_input_is_one_line(run, arguments, words):
    code, _, err = run(*arguments)
    assert code == 2
    assert len(err.strip().splitlines()) == 1
    assert words in err


def test_list_operators_names_all_of_them_within_80_columns(run):
    code, out, _ = run("list", "operators", "--no-cost")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    for name in (*registry.RELAXATIONS, *registry.THROTTLES, *registry.ALIASES):
        assert re.search(rf"^  {name} ", out, re.M), name
    assert " ms" not in out
    assert "LapSum, arXiv 2503.06242" in out


def test_list_throttles_measures_them_and_json_has_it_all(run):
    code, out, _ = run("list", "throttles")
    assert code == 0
    assert len(re.findall(r" \+ .* ms$", out, re.M)) == len(registry.THROTTLES)
    listed = json.loads(run("list", "relaxations", "--no-cost", "--json")[1])
    assert [row["name"] for row in listed["relaxations"]] == list(registry.RELAXATIONS)
    lapsum = next(row for row in listed["relaxations"] if row["name"] == "lapsum")
    assert lapsum["about"]["gradient"] == "exact"
    assert lapsum["about"]["budget"] == 1e-9
    assert lapsum["provider"] == "gradprobe"
    assert lapsum["forward_ms"] is None


def test_list_alone_lists_results_as_before(run):
    code, out, _ = run("list")
    assert code == 0
    assert "no results in runs" in out
    assert run("list", "results", "--json")[1].strip() == "[]"


def test_cite_prints_each_entry_once_in_order(run):
    code, out, _ = run("cite", "--op", "vpnoise", "--op", "scale", "--probe", "landscape", "--backbone", "scenes")
    assert code == 0
    assert re.findall(r"^@\w+\{(.+),$", out, re.M) == ["lapsum", "diffprune", "li2018landscape", "pedregosa2011scikit"]
    assert "pedregosa2011scikit" in run("cite", "--backbone", "photos-vlm")[1]


@pytest.mark.parametrize("spec", [*(f"{r}+gather" for r in registry.RELAXATIONS), *registry.ALIASES])
def test_every_built_in_cites_entries_that_exist(spec):
    keys = {key for key in registry.build(spec).about.cite if not key.startswith("@")}  # else a whole entry
    assert keys <= set(BIBTEX)


def test_cite_says_how_to_declare_and_takes_whole_entries(run, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from gradprobe import About\n"
        "def Silent(patches, scores, k, noise): pass\n"
        "def Told(patches, scores, k, noise): pass\n"
        "Told.about = About('', 'none', cite=('@misc{me, title = {Mine}}',))\n"
        "def Wrong(patches, scores, k, noise): pass\n"
        "Wrong.about = About('', 'none', cite=('difprune',))\n"
    )
    code, out, err = run("cite", "--op", "mine.py:Silent", "--op", "mine.py:Told")
    assert code == 0
    assert out == "@misc{me, title = {Mine}}\n"
    assert "mine.py:Silent declares no source" in err
    assert "About(" in err
    code, _, err = run("cite", "--op", "mine.py:Wrong")
    assert code == 2
    assert "did you mean 'diffprune'" in err


def test_the_examples_of_the_documentation_pass(run, tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.S)
    (tmp_path / "my_ops.py").write_text("\n\n".join(blocks))
    code, out, _ = run("check", "my_ops.py:SoftMask", "my_ops.py:MyRelaxation+vpnoise", "lapsum+my_ops.py:MyThrottle")
    assert code == 0, out


MODULE = """
from dataclasses import dataclass
import torch
import gradprobe as gp

@dataclass(frozen=True)
class Soft:
    slope: float = 4.0
    about = gp.About("x_i sigmoid(slope s_i)", "exact", "a package")

    def __call__(self, patches, scores, k, noise):
        weights = torch.ones_like(scores) if k == scores.shape[1] else (self.slope * scores).sigmoid()
        return gp.Selection(patches * weights[..., None], weights)

@dataclass(frozen=True)
class Half:
    about = gp.About("alpha_i = Phi((s_i - b) / tau)", "exact", budget=1e-9)

    def __call__(self, scores, k, noise):
        return gp.soft_topk(scores, k, cdf="gaussian")
"""
POINTS = """
[gradprobe.operators]
soft-mask = their_ops:Soft
broken-mask = their_ops:Gone
[gradprobe.relaxations]
their-half = their_ops:Half
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Someone else's package, installed from a wheel into a folder; runs gradprobe with it."""
    folder = tmp_path_factory.mktemp("package")
    wheel, site = folder / "their_ops-1.2-py3-none-any.whl", folder / "site"
    info = "their_ops-1.2.dist-info"
    files = {
        "their_ops.py": MODULE,
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: their-ops\nVersion: 1.2\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: by hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": POINTS,
    }
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(wheel, "w") as packed:
        for name, text in files.items():
            packed.writestr(name, text)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", site, wheel]
    subprocess.run(pip, check=True, capture_output=True)
    env = {**os.environ, "PYTHONPATH": str(site), "COLUMNS": "80", "OMP_NUM_THREADS": "1"}

    def go(*arguments):
        command = [sys.executable, "-m", "gradprobe", *arguments]
        return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)

    return go


def test_an_installed_package_is_checked_by_name(installed):
    done = installed("check", "soft-mask", "their-half+vpnoise")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "soft-mask: 11 passed, 1 skipped" in done.stdout
    assert "their-half+vpnoise: 15 passed" in done.stdout


def test_an_installed_package_is_listed_with_who_provides_it(installed):
    done = installed("list", "operators", "--no-cost")
    assert done.returncode == 0, done.stderr
    assert re.search(
        r"^  soft-mask +exact +no budget\n +x_i sigmoid\(slope s_i\)\n +a package; from their-ops 1.2",
        done.stdout,
        re.M,
    )
    assert re.search(r"^  their-half +exact +budget", done.stdout, re.M)
    assert "cannot be loaded: AttributeError" in " ".join(done.stdout.split())


def test_an_installed_package_is_measured_by_name(installed):
    done = installed(
        "coherence", "--op", "soft-mask:slope=2", "--op", "their-half+vpnoise", "--k", "58", "--batches", "3",
        "--batch-size", "2", "--weights", "none", "--baseline", "none", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [row["op"] for row in json.loads(done.stdout)["rows"]] == ["soft-mask:slope=2", "their-half+vpnoise"]
