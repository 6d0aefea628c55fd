"""Files of a wheel beside the modules, and their places."""

import tomllib
from pathlib import Path

import pytest

from gradprobe.comparison.experiments import load_experiment
from gradprobe.errors import UsageError
from gradprobe.store import presets

ROOT = Path(__file__).parents[1]


def test_presets_are_found_from_anywhere(tmp_path, monkeypatch):
    here = load_experiment("experiments/leaderboard.toml")
    monkeypatch.chdir(tmp_path)
    assert load_experiment("experiments/leaderboard.toml").runs == here.runs
    own = tmp_path / "experiments" / "leaderboard.toml"
    own.parent.mkdir()
    own.write_text("title = 1")
    with pytest.raises(UsageError, match="title"):  # a folder of one's own goes first
        load_experiment("experiments/leaderboard.toml")


def test_a_wheel_puts_presets_where_they_are_sought():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (target,) = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"].values()
    package = Path(presets.__file__).parents[1]
    assert package.parent / target == presets.HOMES[1] and presets.HOMES[0] == (ROOT / "experiments")
