"""The leaderboard: every operator that has a name is asked, a new one changes nothing else, every number is told."""

import json
import re
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from compared import MINE, answers
from landscapes import GUMBEL, VPNOISE
from retentions import retained
from test_plotting_fidelity import result as fidelity

from gradprobe.cli.leaderboard import leaderboard as command
from gradprobe.comparison.comparison import metrics, rows, to_json
from gradprobe.comparison.experiments import Answer, Experiment, Missing, Run, load_experiment, run_experiment
from gradprobe.comparison.leaderboard import SHARED, comparisons, write
from gradprobe.comparison.tables import value
from gradprobe.errors import GradprobeError
from gradprobe.operator_info import about_of
from gradprobe.operators import packages, registry
from gradprobe.store.results import Store, key_of

TREE = Path(__file__).parents[2]
PRESET = """
title = "Every operator"
figure = "leaderboard"
baseline = "gumbel-ste+gather"
claim = "None."
[question]
probe = "coherence"
k = 58
batches = 6
batch_size = 16
draws = 2
seed = [0, 1]
steps = 0
layer = 0
loss = "ce"
dtype = "float32"
scorer = "mlp"
backbone = "scenes"
weights = "0123456789ab"
data = "scenes"
op = ["registered", "gumbel-ste:backward=soft+gather", "gumbel-ste+gather"]
[[run]]
panel = "scenes"
"""
THIRD = """\
from dataclasses import dataclass
from gradprobe import Selection

@dataclass(frozen=True)
class Half:
    by: float = 0.5

    def __call__(self, patches, scores, k, noise):
        weights = scores.sigmoid()
        return Selection(patches * (self.by * weights)[..., None], weights)

@dataclass(frozen=True)
class Slow:
    def __call__(self, scores, k, noise):
        return (scores / 10).sigmoid()

@dataclass(frozen=True)
class Blur:
    def __call__(self, patches, weights, k, noise):
        return Selection(patches * weights[..., None], weights)
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install somebody's package with operators, whose names are the entry points of a group."""

    def go(module="somebodys_ops", text=THIRD, **groups):
        (tmp_path / f"{module}.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        points = {
            f"gradprobe.{kind}": [
                EntryPoint(name, f"{module}:{cls}", f"gradprobe.{kind}") for name, cls in each.items()
            ]
            for kind, each in groups.items()
        }
        monkeypatch.setattr(packages, "entry_points", lambda group: points.get(group, []))

    return go


@pytest.fixture
def preset(tmp_path):
    path = tmp_path / "leaderboard.toml"
    path.write_text(PRESET)
    return path


# --- who is on it ---


def test_every_relaxation_and_throttle_that_lets_a_gradient_through_is_registered():
    found = registry.registered()
    assert len(set(found)) == len(found)
    built = [registry.build(name) for name in found]
    assert [registry.label(op) for op in built] == found
    assert all(about_of(op).gradient != "none" for op in built)
    firsts, seconds = ({name.split("+")[i] for name in found} for i in (0, 1))
    assert set(registry.RELAXATIONS) - firsts == {"hard", "random"}
    assert set(registry.THROTTLES) <= seconds
    suited = {f"{name}+{registry.suited(name)}" for name in registry.RELAXATIONS if name in firsts}
    assert suited <= set(found) <= suited | {f"lapsum+{name}" for name in registry.THROTTLES}
    assert GUMBEL in found and "gumbel-softmax+dynamicvit" in found and VPNOISE in found


def test_an_installed_package_is_registered_too(install):
    before = registry.registered()
    install(relaxations={"slow": "Slow"}, throttles={"blur": "Blur"}, operators={"half": "Half"})
    found = registry.registered()
    assert set(found) - set(before) == {"slow+scale", "lapsum+blur", "half"}
    assert [name for name in found if name in before] == before


# --- what is asked ---


def test_registered_stands_for_every_name_and_names_beside_it_are_asked_once(preset):
    questions = [run.question for run in load_experiment(preset).runs]
    ops = list(dict.fromkeys(q["op"] for q in questions))
    assert ops == [*registry.registered(), "gumbel-ste:backward=soft+gather"]
    assert len(questions) == 2 * len(ops)
    assert all("op_code" not in q for q in questions)
    alone = preset.with_name("alone.toml")
    alone.write_text(re.sub("^op = .*$", 'op = "registered"', PRESET, flags=re.M))
    assert list(dict.fromkeys(run.question["op"] for run in load_experiment(alone).runs)) == registry.registered()


def test_third_party_code_is_part_of_the_question(preset, install):
    install(operators={"half": "Half"}, relaxations={"slow": "Slow"})
    codes = {run.question["op"]: run.question.get("op_code") for run in load_experiment(preset).runs}
    assert {op for op, code in codes.items() if code} == {"half", "slow+scale"}
    assert codes["half"] == registry.code_of(registry.build("half")) != None  # noqa: E711
    install("changed_ops", THIRD + "\n# changed\n", operators={"half": "Half"})
    changed = {run.question["op"]: run.question.get("op_code") for run in load_experiment(preset).runs}
    assert changed["half"] not in (None, codes["half"])


def test_a_new_operator_leaves_all_other_questions_as_they_are(preset, install, tmp_path):
    before = [key_of(run.question) for run in load_experiment(preset).runs]
    store = Store(tmp_path / "runs")
    from stored import result

    for run in load_experiment(preset).runs:
        store.save(result(run.question))
    install(relaxations={"slow": "Slow"})
    experiment = load_experiment(preset)
    new = [run for run in experiment.runs if run.question["op"] == "slow+scale"]
    assert [key_of(run.question) for run in experiment.runs if run not in new] == before
    found, missing = run_experiment(experiment, [store], draw_only=True)
    assert len(found) == len(before)
    assert [gap.run for gap in missing] == new
    assert len(new) == 2


def test_the_shipped_preset_asks_every_probe_of_every_operator_the_same():
    experiment = load_experiment(TREE / "experiments" / "leaderboard.toml")
    for panel in {run.panel for run in experiment.runs}:
        asked = {}
        for run in (run for run in experiment.runs if run.panel == panel):
            rest = {name: field for name, field in run.question.items() if name not in ("op", "probe")}
            asked.setdefault((run.question["probe"], json.dumps(rest, sort_keys=True)), []).append(run.question["op"])
        for question, ops in asked.items():
            assert set(registry.registered()) <= set(ops), (panel, question)


# --- what is written ---

OPS = (GUMBEL, VPNOISE, MINE)
ASKED = {
    "weights": "sha256:0123", "layer": 0, "loss": "ce", "dtype": "float32", "scorer": "mlp", "k": 58, "sigmas": "0.1,1",
    "draws": 2, "seed": 1, "grid": "11", "batch_size": 32,
}  # fmt: skip
KEPT = {GUMBEL: 8, VPNOISE: 19, MINE: 20}  # of 40 images


def toy(ops=OPS, panel="scenes", probes=("coherence", "landscape", "fidelity", "retention", "cost"), kept=KEPT):
    """Answers of every probe on some operators, in the order of a preset: probe by probe."""
    found = []
    for probe in probes:
        for i, op in enumerate(ops):
            each = answers(op, i, seeds=(1,)) | {"retention": [retained(kept[op], op=op, seed=1)]}
            for result in each[probe]:
                question = ASKED | {"backbone": panel} | result.question
                found.append(Answer(Run(panel, question, {}), replace(result, question=question), Path("runs"), False))
    return found


def experiment(baseline=GUMBEL):
    return Experiment("leaderboard", "Every operator", "leaderboard", "None.", baseline, (), ())


def test_a_panel_is_a_comparison_with_the_baseline_the_best_first():
    (board,) = comparisons(experiment(), toy())
    assert (board.title, board.focus) == ("scenes", GUMBEL)
    assert board.ops == (MINE, VPNOISE, GUMBEL)
    assert set(board.settings) == set(SHARED)
    assert sum(map(len, board.results.values())) == 15
    assert board.missing == ()
    assert [row["op"] for row in rows(board)] == [MINE, VPNOISE, GUMBEL]


def test_equal_retention_is_sorted_by_fidelity_and_what_was_not_trained_comes_last():
    level = dict.fromkeys(OPS, 15)
    agrees = {op: max(fidelity(op, cos=c).row()["sigmas"], key=lambda s: s["sigma"])["cosine"]
              for op, c in zip(OPS, (0.6, 0.4, 0.2), strict=True)}  # fmt: skip
    assert agrees[GUMBEL] > agrees[VPNOISE] > agrees[MINE]
    (board,) = comparisons(experiment(), toy(kept=level))
    assert board.ops == (GUMBEL, VPNOISE, MINE)
    some = [a for a in toy() if (a.run.question["probe"], a.run.question["op"]) != ("retention", MINE)]
    assert comparisons(experiment(), some)[0].ops == (VPNOISE, GUMBEL, MINE)


def test_panels_stand_apart_and_one_without_the_baseline_is_left_out():
    both = [*toy(), *toy(panel="DeiT")]
    assert [board.title for board in comparisons(experiment(), both)] == ["scenes", "DeiT"]
    assert comparisons(experiment("lapsum+scale"), both) == []
    gap = Missing(Run("DeiT", {"probe": "cost", "op": "x+y"}, {}), "no time")
    boards = comparisons(experiment(), both, [gap])
    assert [board.missing for board in boards] == [(), ("cost of x+y: no time",)]


def test_the_page_has_every_interval_and_the_file_every_number(tmp_path):
    gap = Missing(Run("DeiT", {"probe": "cost", "op": "x+y"}, {}), "no time")
    boards = comparisons(experiment(), [*toy(), *toy(panel="DeiT")], [gap])
    page, data = tmp_path / "docs" / "board.md", tmp_path / "deep" / "board.json"
    write(boards, page, data)
    text = page.read_text(encoding="utf-8")
    assert json.loads(data.read_text()) == json.loads(json.dumps([to_json(board) for board in boards]))
    assert "missing: cost of x+y: no time" in text
    assert f"compared with `{GUMBEL}`" in text
    sections = text.split("\n## ")[1:]
    assert [section.splitlines()[0] for section in sections] == ["scenes", "DeiT"]
    for board, section in zip(boards, sections, strict=True):
        lines = [line for line in section.splitlines() if line.startswith("| ")]
        for row, line in zip(rows(board), lines[2:], strict=True):
            assert row["op"] in line
            for metric in metrics():
                cell = row["metrics"][metric.name]
                if metric.name == "equivalence":
                    assert cell["value"] is None
                    continue
                assert cell["value"] is not None
                assert value(metric, cell) in line, metric.name
                if None not in (cell["low"], cell["high"]):
                    assert "[" in value(metric, cell)
        for told in ("K = 58", "6 batches of 16", "retention: ", "test images, seed 1", "9 rounds on 8 images"):
            assert told in section, told
    again = tmp_path / "again.md"
    write(boards, again, data)
    assert again.read_bytes() == page.read_bytes()


def test_what_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(GradprobeError, match=r"cannot write .*; name another file") as caught:
        write(comparisons(experiment(), toy()), tmp_path / "taken" / "board.md", tmp_path / "board.json")
    assert "\n" not in str(caught.value)


# --- the command ---


def test_the_command_shows_what_is_stored_and_says_what_is_not(preset, tmp_path, monkeypatch, capsys):
    from stored import result

    monkeypatch.chdir(tmp_path)
    store = Store(tmp_path / "runs")
    for run in load_experiment(preset).runs:
        if run.question["seed"] == 0 and run.question["op"] in (GUMBEL, VPNOISE):
            store.save(result(run.question))
    files = {"page": tmp_path / "board.md", "data": tmp_path / "board.json", "figure": tmp_path / "board.png"}
    command(preset=preset, results=tmp_path / "runs", draw_only=True, **files)
    out = capsys.readouterr().out
    total = len(load_experiment(preset).runs)
    assert f"2 answers stored, 0 computed, {total - 2} missing" in out
    assert "missing: coherence of plackett-luce+gather, scenes: not stored" in out
    assert all(path.stat().st_size > 500 for path in files.values())
    (board,) = json.loads(files["data"].read_text())
    assert sorted(board["ops"]) == [GUMBEL, VPNOISE]
    assert len(board["missing"]) == total - 2
    with pytest.raises(GradprobeError, match="no answers for the baseline gumbel-ste"):
        command(preset=preset, results=tmp_path / "none", draw_only=True, **files)
