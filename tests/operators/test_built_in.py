"""A built-in relaxation or throttle is one file: name, listings, citation and the page of operators follow from it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gradprobe.cli.cite import cite
from gradprobe.cli.operators import listing
from gradprobe.errors import UsageError
from gradprobe.operators import built_in, registry, relaxations, throttles
from gradprobe.operators.page import updated
from gradprobe.testing import check_operator

PAGE = Path(__file__).parents[2] / "docs" / "operators.md"
NEW = """
from dataclasses import dataclass

import torch

from gradprobe.core import top_k_mask
from gradprobe.operator_info import About


@dataclass(frozen=True)
class _Base:
    slope: float = 2.0


@dataclass(frozen=True)
class SlowStart(_Base):
    suited = "mean"
    about = About("alpha_i = sigmoid(slope s_i)", "exact", "a test", ("@misc{slow, title = {Slow}}",))

    def __call__(self, scores, k, noise):
        return top_k_mask(scores, k) if k == scores.shape[-1] else torch.sigmoid(self.slope * scores)
"""


@pytest.fixture
def new(tmp_path, monkeypatch):
    """Name of a relaxation whose file is in the folder of the built-in ones."""
    (tmp_path / "slow_start.py").write_text(NEW)
    monkeypatch.setattr(relaxations, "__path__", [*relaxations.__path__, str(tmp_path)])
    monkeypatch.setitem(built_in.RELAXATIONS, "slow-start", built_in.files("relaxation")["slow-start"])
    yield "slow-start"
    sys.modules.pop("gradprobe.operators.relaxations.slow_start", None)


def test_a_new_file_is_an_operator_with_all_that_belongs_to_one(new, capsys):
    names = registry.names("relaxation")
    assert names == [*relaxations.FIRST, *sorted(set(names) - set(relaxations.FIRST))]
    assert new in names
    operator = registry.build(f"{new}:slope=3+gather")
    assert registry.label(operator) == "slow-start:slope=3+gather"
    assert registry.label(type(operator.relaxation)()) == new
    assert registry.code_of(operator) is None
    assert "slow-start+mean" in registry.registered()
    check_operator(f"{new}+mean")
    listing("relaxations", no_cost=True, as_json=True)
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["relaxations"]}
    assert (rows[new]["provider"], rows[new]["about"]["source"]) == ("gradprobe", "a test")
    cite(op=[f"{new}+mean"])
    assert capsys.readouterr().out.startswith("@misc{slow, title = {Slow}}\n")
    line = "| `slow-start` | alpha_i = sigmoid(slope s_i) | exact | no | no | `slope=2` | `mean` | a test |"
    assert line in updated(PAGE.read_text(encoding="utf-8")).splitlines()
    with pytest.raises(UsageError, match="did you mean 'slow-start'"):
        registry.build("slow-strat+mean")


@pytest.mark.parametrize("folder", [relaxations, throttles])
def test_names_that_come_first_have_files(folder):
    kind = folder.__name__.rpartition(".")[2].removesuffix("s")
    names = [file.stem.replace("_", "-") for file in Path(folder.__path__[0]).glob("[!_]*.py")]
    assert sorted(built_in.files(kind)) == sorted(names)


def test_the_page_of_operators_is_up_to_date():
    page = PAGE.read_text(encoding="utf-8")
    assert page == updated(page), "type: make docs"


def test_names_of_operators_are_known_without_torch():
    code = "import sys, gradprobe.operators.registry as r; print(r.names('throttle')[0], 'torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "gather False\n"
