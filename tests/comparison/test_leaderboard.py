"""The leaderboard: every operator that has a name is asked, a new one changes nothing else, every number is told."""

import json
import re
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
from compared import MINE, answers
from landscapes import GUMBEL, VPNOISE
from retentions import retained
from test_plotting_fidelity import result as fidelity

from gradprobe.cli.leaderboard import leaderboard as command
from gradprobe.comparison.comparison import metrics, rows, to_json
from gradprobe.comparison.experiments import Answer, Experiment, Missing, Run, load_experiment, run_experiment
from gradprobe.comparison.leaderboard import SHARED, comparisons, lacking, ranks, shares, write
from gradprobe.comparison.leaderboard_figure import leaderboard_pages
from gradprobe.comparison.tables import value
from gradprobe.errors import GradprobeError
from gradprobe.operator_info import about_of
from gradprobe.operators import packages, registry
from gradprobe.plotting.style import save_pages
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
            if panel != "ViT-S/14, K = 77":
                assert set(registry.registered()) <= set(ops), (panel, question)
            assert experiment.baseline in ops
            assert sorted(ops) == sorted({run.question["op"] for run in experiment.runs if run.panel == panel})
        seeds = {run.question["seed"] for run in experiment.runs
                 if run.panel == panel and run.question["probe"] == "retention"}  # fmt: skip
        assert seeds == ({1, 2, 3} if panel.startswith("ViT-S") else {1, 2, 3, 4, 5})


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
    assert [board.missing for board in boards] == [(), ("cost: 3 of 4 answers (no time)",)]


def test_the_page_shows_every_page_of_the_figure(tmp_path):
    boards = comparisons(experiment(), [answer for i in range(9) for answer in toy(panel=f"model {i}")])
    pages = save_pages(leaderboard_pages(boards), tmp_path / "leaderboard.svg")
    assert [path.name for path in pages[:2]] == ["leaderboard.svg", "leaderboard_2.svg"]
    titles = [f">model {i}<" for path in pages for i in range(9) if f">model {i}<" in path.read_text(encoding="utf-8")]
    assert titles == [f">model {i}<" for i in range(9)]
    write(boards, tmp_path / "board.md", tmp_path / "board.json", pictures=len(pages))
    text = (tmp_path / "board.md").read_text(encoding="utf-8")
    assert [path.stem for path in pages] == re.findall(r"[(]../figures/(\w+)[.]png[)]", text)


def test_the_page_has_every_interval_and_the_file_every_number(tmp_path):
    gap = Missing(Run("DeiT", {"probe": "cost", "op": "x+y"}, {}), "no time")
    boards = comparisons(experiment(), [*toy(), *toy(panel="DeiT")], [gap])
    page, data = tmp_path / "docs" / "board.md", tmp_path / "deep" / "board.json"
    write(boards, page, data)
    text = page.read_text(encoding="utf-8")
    told = json.loads(data.read_text())
    assert {row.pop("rank") for board in told for row in board["rows"]} == {None}  # one seed each
    assert told == json.loads(json.dumps([to_json(board) for board in boards]))
    assert "There as yet: cost: 3 of 4 answers (no time); `gradprobe leaderboard` goes on." in text
    assert "missing:" not in text
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


def trained(kept, seeds, panel="scenes", data="scenes"):
    """Answers of retention alone: images right, of 40, under each seed."""
    found = []
    for op, right in kept.items():
        for seed in seeds[op] if isinstance(seeds, dict) else seeds:
            result = retained(right[seed - 1], op=op, seed=seed)
            question = ASKED | {"backbone": panel} | result.question | {"data": data}
            found.append(Answer(Run(panel, question, {}), replace(result, question=question), Path("runs"), False))
    return found


FIVE = {VPNOISE: (34, 35, 34, 33, 34), MINE: (34, 34, 35, 33, 34), GUMBEL: (3, 30, 4, 29, 5), "lapsum+zero": (1,) * 5}


def test_five_seeds_are_ranked_by_their_mean_with_what_pairs_leave_open(tmp_path):
    (board,) = comparisons(experiment(), trained(FIVE, range(1, 6)))
    found = ranks(board)
    assert (found[VPNOISE].value, found[VPNOISE].low) == (1.5, 1) and found[VPNOISE].high < 4
    assert found[MINE] == found[VPNOISE]
    assert (found["lapsum+zero"].value, found["lapsum+zero"].high, found["lapsum+zero"].best) == (4, 4, False)
    page, data = tmp_path / "board.md", tmp_path / "board.json"
    write([board], page, data)
    text = page.read_text(encoding="utf-8")
    lines = {op: line for line in text.splitlines() if line.startswith("| ") for op in FIVE if f"`{op}`" in line}
    for op, line in lines.items():
        place = found[op]
        told = f"{place.value:g} [{place.low}, {place.high}]"
        assert line.split(" | ")[1] == told
    assert f"first `{board.ops[0]}`, not told apart from it: `{board.ops[1]}`" in text
    (told,) = json.loads(data.read_text())
    assert {row["op"]: row["rank"]["value"] for row in told["rows"]} == {op: place.value for op, place in found.items()}
    spread = {row["op"]: row["metrics"]["retention"]["spread"] for row in told["rows"]}
    assert spread[GUMBEL]["seeds"] == pytest.approx(np.std(FIVE[GUMBEL], ddof=1) / 36)
    assert spread[GUMBEL]["seeds"] > 3 * spread[GUMBEL]["images"] > 0
    assert f"{spread[GUMBEL]['seeds']:.3f} / {spread[GUMBEL]['images']:.3f}" in lines[GUMBEL]


def test_images_that_seeds_share_leave_more_open():
    own, shared = (comparisons(experiment(), trained(FIVE, range(1, 6), data=data))[0] for data in ("scenes", "abc"))
    pairs = zip(ranks(own).values(), ranks(shared).values(), strict=True)
    assert all(a.low >= b.low and a.high <= b.high for a, b in pairs)


def test_few_seeds_have_no_rank_and_say_how_many(tmp_path):
    seeds = {VPNOISE: range(1, 6), MINE: (1, 2), GUMBEL: (2, 3), "lapsum+zero": range(1, 6)}
    (board,) = comparisons(experiment(), trained(FIVE, seeds))
    assert set(ranks(board)) == {VPNOISE, "lapsum+zero"}
    page = tmp_path / "board.md"
    write([board], page, tmp_path / "board.json")
    text = page.read_text(encoding="utf-8")
    (line,) = (line for line in text.splitlines() if line.startswith(f"| `{MINE}`"))
    assert line.split(" | ")[1:3] == ["–", "0.944 (0.94, 0.94) · (1 seed)"]  # one in common with the baseline
    (line,) = (line for line in text.splitlines() if line.startswith(f"| **`{GUMBEL}`**"))
    assert "(0.83, 0.11) (2 seeds)" in line
    assert "among the 2 of 4 operators with 5 seeds" in text
    assert ranks(comparisons(experiment(), toy(probes=("cost",)))[0]) == {}


def test_a_panel_of_which_nothing_is_there_yet_is_named(tmp_path):
    asked = [{"probe": probe, "op": op} for probe in ("cost", "retention") for op in OPS]
    gaps = [Missing(Run("ViT", question, {}), "not stored") for question in asked]
    found = shares(toy(), gaps)
    assert [str(share) for share in found if share.panel == "ViT"] == ["retention: 0 of 3 trainings (not stored)",
                                                                       "cost: 0 of 3 answers (not stored)"]  # fmt: skip
    write(comparisons(experiment(), toy(), gaps), tmp_path / "board.md", tmp_path / "board.json", found)
    text = (tmp_path / "board.md").read_text(encoding="utf-8")
    assert text.count("\n## ") == 2 and f"Nothing of `{GUMBEL}` yet. retention: 0 of 3 trainings" in text
    assert lacking(found) == [f"ViT: 3 of 3 {probe} missing ({GUMBEL}, {VPNOISE}, {MINE}): not stored"
                              for probe in ("retention", "cost")]  # fmt: skip


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
    assert f"scenes: {total - 2} of {total} coherence missing (logistic+vpnoise, probit+vpnoise, " in out
    assert out.count("not stored") == out.count("to go on: gradprobe") == 1
    assert all(path.stat().st_size > 500 for path in files.values())
    (board,) = json.loads(files["data"].read_text())
    assert sorted(board["ops"]) == [GUMBEL, VPNOISE]
    assert board["missing"] == [f"coherence: 2 of {total} answers"]
    with pytest.raises(GradprobeError, match="no answers for the baseline gumbel-ste"):
        command(preset=preset, results=tmp_path / "none", draw_only=True, **files)
