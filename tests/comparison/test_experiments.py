"""Presets: what they ask, what is taken from a store, what is run, and what is missing."""

import re
from pathlib import Path

import pytest
import torch
import typer
from stored import asked, result
from typer.testing import CliRunner

from gradprobe.cli.figures import figures
from gradprobe.comparison.drawings import drawings
from gradprobe.comparison.experiments import load_experiment, row_panels, run_experiment
from gradprobe.errors import GradprobeError, UsageError
from gradprobe.operators import user_files
from gradprobe.probes import opened
from gradprobe.probes.coherence import PROBE, measure
from gradprobe.probes.contract import TASK, question_of
from gradprobe.store.results import Store, key_of

TREE = Path(__file__).parents[2]
GUMBEL, VPNOISE = "gumbel-ste+gather", "lapsum+vpnoise"
PRESET = """
title = "A figure"
figure = "fig1c"
baseline = "gumbel-ste+gather"
claim = "Up to 28 times."
[[paper]]
model = "DeiT-B"
gumbel = 0.01
diffprune = 0.36
ratio = 28.4
[where]
device = "cpu"
[question]
probe = "coherence"
k = 58
batches = 6
batch_size = 16
draws = 2
seed = 0
steps = 0
layer = 0
loss = "ce"
dtype = "float32"
scorer = "mlp"
backbone = "scenes"
weights = "0123456789ab"
data = "scenes"
[[run]]
panel = "scenes"
op = ["gumbel-ste+gather", "lapsum+vpnoise"]
scorer = ["mlp", "transformer"]
[[run]]
panel = "DeiT"
backbone = "deit"
where = {weights = "$GRADPROBE_TEST/deit.pth", data = "$GRADPROBE_TEST/images"}
op = "lapsum+vpnoise"
"""


@pytest.fixture
def preset(tmp_path):
    def write(text=PRESET, name="fig"):
        path = tmp_path / "presets" / f"{name}.toml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    return write


class Named:
    """A task of which only the names are known."""

    n_tokens, skipped = 196, ()
    scorer = torch.nn.Linear(1, 1)

    def __init__(self, question):
        self.question = {name: value for name, value in question.items() if name in TASK}

    def with_new_scorer(self, seed, scorer=None, denoiser=None):
        return self


@pytest.fixture
def probe(monkeypatch):
    """A probe that notes what it is asked, and has no files where ``weights`` names none."""
    calls = []

    def task(self, question, where):
        calls.append((question, where))
        if "weights" in where and not Path(where["weights"]).exists():
            raise GradprobeError(f"no weights at {where['weights']}")
        return Named(question)

    def measured(subject, settings, resources):
        resources.report("gradients", 1, 1)
        return result(question_of(PROBE, subject, settings))

    monkeypatch.setattr(opened.OpenTasks, "task", task)
    monkeypatch.setattr(measure, "measure", measured)
    monkeypatch.delenv("GRADPROBE_TEST", raising=False)
    return calls


def ask(question, stores, force=False):
    return opened.answered(question, {}, stores, opened.OpenTasks(), force=force)


# --- reading ---


def test_lists_multiply_and_runs_override(preset):
    experiment = load_experiment(preset())
    assert experiment.name == "fig"
    assert experiment.paper == ({"model": "DeiT-B", "gumbel": 0.01, "diffprune": 0.36, "ratio": 28.4},)
    expected = [
        ("scenes", asked(op=op, scorer=scorer), {"device": "cpu"})
        for op in (GUMBEL, VPNOISE)
        for scorer in ("mlp", "transformer")
    ]
    where = {"device": "cpu", "weights": "$GRADPROBE_TEST/deit.pth", "data": "$GRADPROBE_TEST/images"}
    expected.append(("DeiT", asked(op=VPNOISE, backbone="deit"), where))
    assert [(r.panel, r.question, r.where) for r in experiment.runs] == expected


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('title = "A figure"', "title = 3", "needs 'title' as text"),
        ('figure = "fig1c"', "", "needs 'figure'"),
        ('figure = "fig1c"', 'figur = "fig1c"', "unknown key 'figur': did you mean 'figure'"),
        ("[[paper]]\nmodel", "[paper]\nmodel", r"needs 'paper' as \[\[paper\]\] tables"),
        ('title = "A figure"', 'title = "A figure"\nwhere = 3', "cannot read"),  # twice
        ("k = 58", "k = ", "cannot read the preset"),
        ("k = 58", "k = 2026-01-01", r"fig\.toml: question\.k is datetime"),
        ("k = 58", "k = nan", r"question\.k is nan"),
        ('probe = "coherence"', 'probe = "coherense"', "no probe is called 'coherense': did you mean 'coherence'"),
        ('probe = "coherence"', "", "no probe is called 'None'"),
        ("draws = 2", "", "needs draws; write: draws = 2"),
        ("draws = 2", "drews = 2", "coherence has no setting 'drews': did you mean 'draws'"),
        ('"mlp", "transformer"', '"mlp", "mlp"', "same question twice in panel 'scenes'"),
    ],
)
def test_a_wrong_preset_is_told_in_one_line(preset, old, new, message):
    assert old in PRESET
    with pytest.raises(UsageError, match=message) as error:
        load_experiment(preset(PRESET.replace(old, new)))
    assert len(str(error.value).splitlines()) == 1


def test_a_preset_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match="cannot read the preset"):
        load_experiment(tmp_path / "none.toml")


@pytest.mark.parametrize("path", sorted((TREE / "experiments").glob("*.toml")), ids=lambda p: p.stem)
def test_every_shipped_preset_reads_and_has_its_baselines(path):
    experiment = load_experiment(path)
    assert experiment.claim
    assert experiment.paper
    for panel in {run.panel for run in experiment.runs}:
        assert experiment.baseline in {run.question["op"] for run in experiment.runs if run.panel == panel}


# --- answering ---


def test_only_missing_questions_run_and_one_without_files_stops_nothing(preset, probe, tmp_path):
    committed, own = Store(tmp_path / "results"), Store(tmp_path / "runs")
    experiment = load_experiment(preset())
    committed.save(result(asked(op=GUMBEL)))
    told = []
    answers, missing = run_experiment(experiment, [committed, own], lambda *step: told.append(step))
    assert [a.computed for a in answers] == [False, True, True, True]
    assert [a.path.parents[1].name for a in answers] == ["results", "runs", "runs", "runs"]
    assert [q for q, _ in probe] == [a.run.question for a in answers[1:]]  # without $GRADPROBE_TEST: not asked
    assert told == [("gradients", 1, 1)] * 3
    assert [m.run.panel for m in missing] == ["DeiT"]
    assert "export GRADPROBE_TEST" in missing[0].reason
    probe.clear()
    again, _ = run_experiment(experiment, [committed, own])
    assert probe == []
    assert [a.path for a in again] == [a.path for a in answers]


def test_files_are_found_by_their_variable(preset, probe, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADPROBE_TEST", str(tmp_path))
    experiment = load_experiment(preset())
    _, missing = run_experiment(experiment, [Store(tmp_path / "runs")])
    assert [m.reason for m in missing] == [f"no weights at {tmp_path}/deit.pth"]
    (tmp_path / "deit.pth").touch()
    answers, missing = run_experiment(experiment, [Store(tmp_path / "runs")])
    assert missing == []
    assert len(answers) == 5
    assert probe[-1][1] == {"device": "cpu", "weights": f"{tmp_path}/deit.pth", "data": f"{tmp_path}/images"}


def test_workers_of_a_preset_are_those_of_the_measurement(preset, probe, tmp_path, monkeypatch):
    workers, original = [], measure.measure

    def noted(subject, settings, resources):
        workers.append(resources.workers)
        return original(subject, settings, resources)

    monkeypatch.setattr(measure, "measure", noted)
    run_experiment(load_experiment(preset(PRESET.replace("[where]", '[where]\nworkers = "3"'))), [Store(tmp_path)])
    assert workers == [3] * 4
    wrong = load_experiment(preset(PRESET.replace("[where]", '[where]\nworkers = "many"')))
    _, missing = run_experiment(wrong, [Store(tmp_path / "empty")])
    assert 'workers = "many" is not possible' in missing[0].reason


def test_draw_only_computes_nothing(preset, probe, tmp_path):
    store = Store(tmp_path / "runs")
    store.save(result(asked(op=VPNOISE)))
    answers, missing = run_experiment(load_experiment(preset()), [store], draw_only=True)
    assert len(answers) == 1
    assert len(missing) == 4
    assert all("--draw-only" in m.reason for m in missing)
    assert probe == []


def test_a_damaged_answer_is_missing_not_recomputed(preset, probe, tmp_path):
    store = Store(tmp_path / "runs")
    store.save(result(asked(op=VPNOISE))).write_bytes(b"")
    answers, missing = run_experiment(load_experiment(preset()), [store])
    assert len(answers) == 3
    assert "is damaged" in missing[0].reason


def test_an_answer_to_another_question_is_refused(monkeypatch, probe, tmp_path):
    monkeypatch.setattr(
        measure, "measure", lambda *given: result(question_of(PROBE, *given[:2]) | {"weights": "other", "layer": 2})
    )
    with pytest.raises(GradprobeError, match=r"about layer 0 \(here 2\), weights .* \(here other\)"):
        ask(asked(), [Store(tmp_path)])
    assert list(tmp_path.iterdir()) == []


def test_force_asks_again_and_other_errors_are_not_swallowed(preset, probe, tmp_path, monkeypatch):
    stores = [Store(tmp_path / "results"), Store(tmp_path / "runs")]
    stores[0].save(result())
    assert not ask(asked(), stores).computed
    forced = ask(asked(), stores, force=True)
    assert forced.computed
    assert forced.path.is_relative_to(tmp_path / "runs")

    def broken(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(measure, "measure", broken)
    with pytest.raises(ZeroDivisionError):
        run_experiment(load_experiment(preset()), [Store(tmp_path / "empty")])


def test_panels_compare_with_the_baseline_of_the_same_panel_and_fields(preset, probe, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADPROBE_TEST", str(tmp_path))
    (tmp_path / "deit.pth").touch()
    experiment = load_experiment(preset())
    answers, _ = run_experiment(experiment, [Store(tmp_path / "runs")])
    found = dict(row_panels(experiment, answers))
    assert list(found) == ["scenes", "DeiT"]
    bases = {q["scorer"]: result(q) for q, _ in probe if q["op"] == GUMBEL}
    for row, answer in zip(found["scenes"], answers, strict=False):
        q = answer.run.question
        base = None if q["op"] == GUMBEL else bases[q["scorer"]]
        assert row == answer.result.row(baseline=base, path=answer.path)
    assert found["DeiT"][0]["ratio"] is None  # its panel has no baseline
    assert found["scenes"][2]["ratio"] is not None


MINE = """
from dataclasses import dataclass
import torch
from gradprobe import Selection

@dataclass(frozen=True)
class Op:
    def __call__(self, patches, scores, k, noise):
        weights = scores.sigmoid()
        return Selection(patches * weights[..., None], weights)

@dataclass(frozen=True)
class Scorer:
    def make(self, dim, seed):
        return torch.nn.Sequential(torch.nn.Linear(dim, 1), torch.nn.Flatten(-2))
"""


def test_a_users_code_is_part_of_the_question_and_its_rows_are_compared(preset, probe, tmp_path):
    """Its answers do not outlive the code of operator or scorer, and a preset that names it can be computed."""
    file, keys = tmp_path / "mine.py", []
    scenes = PRESET.partition("[[run]]")[0]
    text = f'{scenes}[[run]]\nop = ["{GUMBEL}", "{file}:Op"]\nscorer = ["mlp", "{file}:Scorer"]\n'
    for number, code in enumerate((MINE, f"{MINE}# changed\n")):
        file.write_text(code)
        user_files.forget()
        experiment = load_experiment(preset(text), trust=[file])
        named = [{each for each in run.question if each.endswith("_code")} for run in experiment.runs]
        assert named == [set(), {"scorer_code"}, {"op_code"}, {"op_code", "scorer_code"}]
        answers, missing = run_experiment(experiment, [Store(tmp_path / "runs")])
        assert not missing and [each.computed for each in answers] == [number == 0, True, True, True]
        ((_, rows),) = row_panels(experiment, answers)
        assert [row["ratio"] is None for row in rows] == [True, True, False, False]
        keys.append([key_of(run.question) for run in experiment.runs])
    assert keys[0][0] == keys[1][0] and not {*keys[0][1:]} & {*keys[1]}


# --- the command ---


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    app = typer.Typer()
    app.command()(figures)
    return lambda *arguments: CliRunner().invoke(app, [*arguments, "--presets", "presets"])


def test_figures_draws_what_there_is_and_says_what_is_missing(preset, probe, run, tmp_path):
    preset()
    done = run()
    assert done.exit_code == 0, done.output
    assert "fig: 0 stored, 4 computed, 1 missing" in done.output
    assert "missing: lapsum+vpnoise in DeiT: " in done.output
    drawn = {p.name: p.read_bytes() for p in (tmp_path / "figures").iterdir()}
    assert sorted(drawn) == ["fig.png", "fig.svg"]
    again = run("fig", "--draw-only", "--out", "again")
    assert "fig: 4 stored, 0 computed, 1 missing" in again.output
    assert {p.name: p.read_bytes() for p in (tmp_path / "again").iterdir()} == drawn


def test_figures_refuses(preset, probe, run):
    assert "no presets" in str(run().exception)
    preset()
    wrong = run("fgi").exception
    assert isinstance(wrong, UsageError)
    assert "did you mean 'fig'" in str(wrong)
    nothing = run("--draw-only").exception
    assert isinstance(nothing, GradprobeError)
    assert "no answers for fig" in str(nothing)
    preset(PRESET.replace('"fig1c"', '"fig1d"'))
    assert "no figure 'fig1d': did you mean 'fig1c'" in str(run().exception)


def test_the_page_on_presets_lists_every_figure():
    page = (TREE / "docs" / "results.md").read_text(encoding="utf-8")
    (listed,) = re.findall(r'^figure = "\w+" +# (.+)$', page, re.M)
    assert set(listed.replace(" or ", " ").split(", ")) == set(drawings())


def test_keys_need_no_files(preset):
    assert all(len(key_of(r.question)) == 12 for r in load_experiment(preset()).runs)
