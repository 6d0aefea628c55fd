"""Presets of a leaderboard by users: what comes first, what has no place, and what is refused before it is asked."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from landscapes import GUMBEL
from retentions import retained
from test_leaderboard import ASKED, PRESET, experiment, toy

from gradprobe.cli.leaderboard import leaderboard as command
from gradprobe.comparison.experiments import Answer, Missing, Run
from gradprobe.comparison.leaderboard import SHARED, check_preset, comparisons, shares, write
from gradprobe.errors import UsageError


@pytest.mark.parametrize("first", ["equivalence", "ranking", "user"])
def test_answers_that_name_less_than_others_may_come_first(first, tmp_path, monkeypatch):
    known = toy(probes=("retention", "equivalence"))
    floor = retained(5, op="ranked:random", seed=1)
    question = {name: value for name, value in (ASKED | floor.question).items() if name != "scorer"}
    ranking = Answer(Run("scenes", question, {}), replace(floor, question=question), Path("runs"), False)
    if first == "user":  # a place that is told by its metrics alone
        monkeypatch.delattr("gradprobe.probes.equivalence.compared.BUDGET")
    for answer in known:
        if answer.result.probe == "equivalence":
            del answer.result.question["scorer"]
    others = [a for a in known if a.result.probe == "equivalence"]
    answers = [ranking, *known] if first == "ranking" else [*others, *(a for a in known if a not in others)]
    boards = comparisons(experiment(), answers)
    assert set(boards[0].settings) == set(SHARED)
    write(boards, tmp_path / "board.md", tmp_path / "board.json")
    text = (tmp_path / "board.md").read_text(encoding="utf-8")
    assert "scorer mlp. " in text and "equivalence: " in text


@pytest.mark.parametrize(
    ("baseline", "probe", "message"),
    [
        ("gumbel-ste", "cost", f"nothing of its baseline 'gumbel-ste'; did you mean '{re.escape(GUMBEL)}'"),
        (GUMBEL, "curvature", "'curvature', which has no place on a board; Known: coherence, cost, "),
    ],
)
def test_a_preset_of_which_no_board_could_be_made_is_refused(baseline, probe, message):
    with pytest.raises(UsageError, match=message):
        check_preset(replace(experiment(baseline), runs=(Run("scenes", {"probe": probe, "op": GUMBEL}, {}),)))


def test_the_command_refuses_a_baseline_that_is_not_asked_before_it_asks_anything(tmp_path):
    preset = tmp_path / "leaderboard.toml"
    preset.write_text(PRESET.replace('baseline = "gumbel-ste+gather"', 'baseline = "gumbel-ste+gathr"'))
    with pytest.raises(UsageError, match="did you mean 'gumbel-ste\\+gather'"):
        command(preset=preset, results=tmp_path / "runs", page=tmp_path / "p.md", data=tmp_path / "d.json", figure=None)
    assert not (tmp_path / "runs").exists()


def test_a_probe_without_a_place_breaks_no_figure_of_the_others():
    run = Run("scenes", {"probe": "curvature", "op": GUMBEL}, {})
    assert str(shares(toy(), [Missing(run, "not stored")])[-1]) == "curvature: 0 of 1 answers (not stored)"
