"""``gradprobe check``, ``list selectors`` and ``cite --select``, also with a user's file and someone else's package."""

import json
import re
from pathlib import Path

import pytest

from gradprobe.operators import built_in, registry
from gradprobe.operators.citations import BIBTEX
from gradprobe.operators.third_party import role_of
from gradprobe.testing import SELECTOR_PROPERTIES, selector_speed

DOCS = Path(__file__).parents[2] / "docs" / "add-a-selector.md"
MINE = """
from dataclasses import dataclass
from gradprobe import Selection
from gradprobe.core import top_k
from gradprobe.view import Kept, SelectorAbout, Unavailable

@dataclass(frozen=True)
class Longest:
    order: float = 2.0
    about = SelectorAbout("|x_i|", "my paper", ("@misc{me, title = {Mine}}",), layers=(8, 16), positions="compact")

    def scores(self, view):
        return view.projected.norm(self.order, dim=-1)

    def __call__(self, view, k):
        return Kept(top_k(self.scores(view), k))

def Raises(view, k):
    raise ValueError("I am broken")

def Refuses(view, k):
    raise Unavailable("not today")

def MyOperator(patches, scores, k, noise):
    return Selection(patches, scores.sigmoid())

def cosine(one, two):
    return one

class Other:
    pass
"""


@pytest.fixture
def run(run, monkeypatch):
    """Run gradprobe in a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    return run


@pytest.fixture
def mine(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)


def test_check_finds_out_what_is_a_selector(run, mine):
    code, out, _ = run("check", "mine.py:Longest:order=1", "random", "lapsum+scale")
    assert code == 0
    headings = re.findall(r"^(selector \S+|lapsum\+scale) *$", out, re.M)
    assert headings == ["selector mine.py:Longest:order=1", "selector random", "lapsum+scale"]
    assert "mine.py:Longest:order=1: 15 passed, 1 skipped" in out
    for name in SELECTOR_PROPERTIES:
        assert re.search(rf"^ {name} +(passed|skipped)", out, re.M), name
    assert max(map(len, out.splitlines())) <= 80


def test_a_broken_selector_is_told_with_its_line_and_exit_code_one(run, mine):
    code, out, err = run("check", "mine.py:Raises", "norm", "--json")
    assert code == 1
    raises, norm = json.loads(out)["checked"]
    assert (raises["selector"], raises["ok"], norm["selector"], norm["ok"]) == ("mine.py:Raises", False, "norm", True)
    failed = [f for f in raises["findings"] if f["status"] == "failed"]
    assert [f["property"] for f in failed] == ["call"]
    assert failed[0]["told"] == "raised ValueError: I am broken (mine.py, line 19)"
    code, out, err = run("check", "mine.py:Raises")
    assert code == 1
    assert "call failed: Every view and K gives a Kept" in out
    assert "input: random tokens before a language model, float64, N = 16, K = 1" in out
    assert "Traceback" not in out + err
    code, out, _ = run("check", "mine.py:Refuses")
    assert code == 0
    assert "mine.py:Refuses: 16 skipped" in out
    assert "not today" in out


def test_a_bare_file_lists_what_is_asked_for(run, mine):
    def listed(*command):
        code, _, err = run(*command, "mine.py")
        assert code == 2
        return re.sub(r"^.*name what is meant in it: ", "", " ".join(err.split()))

    assert listed("check") == "mine.py:Longest, mine.py:Raises, mine.py:Refuses, mine.py:MyOperator"
    assert listed("cite", "--select") == "mine.py:Longest, mine.py:Raises, mine.py:Refuses"
    assert listed("cite", "--op") == "mine.py:MyOperator"
    Path("none.py").write_text("from gradprobe.view import Kept\n")
    assert "defines no operator: a class or function called with (patches" in run("check", "none.py")[2]
    assert "and no selector: a class or function called with (view, k)" in run("check", "none.py")[2]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["check", "divprun"], "did you mean 'divprune'"),
        (["check", "vpnose"], "did you mean 'vpnoise'"),
        (["check", "random:seed=1"], "no field 'seed'"),
        (["check", "mine.py:Longest:odrer=1"], "did you mean 'order'"),
        (["check", "mine.py:cosine"], "nor with (view, k), as a selector is"),
        (["check", "mine.py:Other"], "can be called neither with (patches, scores, k, noise)"),
        (["check", "mine.py:Longst"], "did you mean 'Longest'"),
        (["coherence", "--k", "58", "--op", "mine.py:Longest"], "is a selector, called with (view, k), and no"),
        (["list", "selector"], "selectors"),
        (["cite", "--select", "divprun"], "did you mean 'divprune'"),
        (["cite"], "--select divprune"),
        (["cite", "--select", "mine.py:MyOperator"], "is called as operators are; a selector is called with (view, k)"),
    ],
)
def test_a_wrong_input_is_one_line(run, mine, arguments, words):
    code, _, err = run(*arguments)
    assert code == 2
    assert len(err.strip().splitlines()) == 1
    assert words in err


def test_a_selector_is_known_by_its_signature():
    class Own:
        def __call__(self, view, k, temperature=1.0):
            pass

    assert role_of(Own) == role_of(Own()) == "selector"
    assert role_of(lambda tokens, k: None) == role_of(lambda view, count: None) == "selector"
    assert role_of(lambda one, two: None) == "none"
    assert role_of(lambda scores, k, noise: None) == "relaxation"
    assert role_of(lambda patches, weights, k, noise: None) == "throttle"
    assert {role_of(built_in.load("selector", name)) for name in built_in.SELECTORS} == {"selector"}


def test_list_selectors_names_all_of_them_within_80_columns(run):
    code, out, _ = run("list", "selectors", "--no-cost")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    assert "cannot be used" not in out and "undeclared" not in out
    assert " ms" not in out
    for name in built_in.SELECTORS:
        about = registry.part("selector", name).about
        place = f"inside @{','.join(map(str, about.layers))}" if about.layers else "outside"
        assert re.search(rf"^  {name} +{place} +{about.positions}$", out, re.M), name
        assert " ".join(about.source.split()) in " ".join(out.split())


def test_list_selectors_measures_them_and_json_has_it_all(run, monkeypatch):
    monkeypatch.setitem(built_in.TABLES, "selector", {n: built_in.SELECTORS[n] for n in ("random", "fastv", "scored")})
    monkeypatch.setattr(selector_speed, "SHAPE", (1, 9, 3, 32, 16))
    code, out, _ = run("list", "selectors")
    assert code == 0
    assert len(re.findall(r"^  (?:random|fastv) .* [\d.]+ ms$", out, re.M)) == 2
    assert re.search(r"^  scored +outside +keep +– ms\n +not timed: ", out, re.M)
    random, fastv, scored = json.loads(run("list", "selectors", "--json")[1])["selectors"]
    assert random["ms"] > 0 and fastv["ms"] > 0 and scored["ms"] is None
    assert fastv["about"]["layers"] == [2] and fastv["provider"] == "gradprobe" and fastv["problem"] is None


@pytest.mark.parametrize("name", built_in.SELECTORS)
def test_every_built_in_cites_entries_that_exist(name):
    assert {key for key in registry.part("selector", name).about.cite if not key.startswith("@")} <= set(BIBTEX)


def test_cite_prints_each_entry_of_each_stage_once_in_order(run, mine):
    code, out, _ = run("cite", "--select", "divprune;fastv@8", "--select", "divprune", "--select", "mine.py:Longest@3")
    assert code == 0
    assert re.findall(r"^@\w+\{([^,]+),", out, re.M) == ["divprune", "fastv", "me"]
    code, out, err = run("cite", "--select", "mine.py:Raises", "--op", "vpnoise")
    assert code == 0
    assert "mine.py:Raises declares no source: give it `about = gradprobe.view.SelectorAbout(" in err
    assert "@inproceedings{lapsum," in out


POINTS = """
[gradprobe.selectors]
longest = their_selectors:Longest
gone = their_selectors:Gone
random = their_selectors:Longest
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Someone else's package, as pip leaves it."""
    (tmp_path / "their_selectors.py").write_text(MINE)
    info = tmp_path / "their_selectors-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-selectors\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(POINTS)
    monkeypatch.syspath_prepend(tmp_path)


def test_an_installed_package_is_checked_listed_and_cited_by_name(run, installed):
    assert "longest:order=1: 15 passed, 1 skipped" in run("check", "longest:order=1")[1]
    code, out, err = run("list", "selectors", "--no-cost")
    assert code == 0
    assert re.search(r"^  longest +inside @8,16 +compact\n +\|x_i\|\n +my paper; from their-selectors 1.2", out, re.M)
    assert re.search(r"^  gone +undeclared\n +cannot be used: .*their-selectors", out, re.M)
    assert "'random' of their-selectors 1.2 is hidden by the built-in" in err
    assert run("cite", "--select", "longest")[1] == "@misc{me, title = {Mine}}\n"
    code, _, err = run("check", "gone")
    assert code == 1
    assert "entry point their_selectors:Gone" in err and len(err.strip().splitlines()) == 1


def test_the_examples_of_the_documentation_pass(run, tmp_path):
    blocks = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", DOCS.read_text(), re.S)
    assert blocks
    for name, text in blocks:
        (tmp_path / name).write_text(text)
        for cls in re.findall(r"^class (\w+)", text, re.M):
            code, out, _ = run("check", f"{name}:{cls}")
            assert code == 0 and "passed" in out, out
