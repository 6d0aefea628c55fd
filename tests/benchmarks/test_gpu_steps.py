"""Parts that the steps of the campaign measure with: counts, floors, times, order, and what is kept of a result."""

import doctest
import importlib
import pkgutil
from collections import Counter
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version

import gpu_steps
import numpy as np
import pytest
import torch
from gpu_steps import gpu_tests, operators, table5
from gpu_steps.encoder_floor import LARGE, BarePasses
from gpu_steps.noise_pictures import Call, noise_task
from gpu_steps.noise_time import KINDS, noise_timed
from gpu_steps.operators_by_seeds import operators_by_seeds
from gpu_steps.report import Report
from gpu_steps.step import ROOT, Setup
from gpu_steps.timing import milliseconds, peak_flops
from toy import Toy

import gradprobe
import gradprobe as gp
from gradprobe.comparison.experiments import load_experiment
from gradprobe.core import Noise
from gradprobe.errors import GradprobeError
from gradprobe.probes import environment
from gradprobe.probes.fidelity import REFERENCE
from gradprobe.probes.retention.result import over_seeds
from gradprobe.training.train import Recipe

SIZES = {
    "retention": {"steps": 1, "batch_size": 2, "images": 4},
    "coherence": {"batches": 3, "batch_size": 2, "draws": 2},
    "fidelity": {
        "images": 3,
        "held_out": 3,
        "draws": 32,
        "sigmas": (0.5, 1.0),
        "ladder": (0.001, 0.01),
        "noise_draws": 3,
    },
}
MODULES = [each.name for each in pkgutil.iter_modules(gpu_steps.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_the_steps_hold(name):
    assert doctest.testmod(importlib.import_module(f"gpu_steps.{name}")).failed == 0


# --- the encoder's work, and its floor ---


@pytest.fixture(scope="module")
def task():
    return noise_task("test_vit", "cpu", "float32", 32)


def test_every_pass_of_the_encoder_is_counted(task):
    task.backbone.counted()
    gp.coherence(task, "vpnoise", 2, batches=3, batch_size=4, draws=2)
    whole = task.n_tokens + task.backbone.model.num_prefix_tokens
    assert task.backbone.counted() == Counter({Call(4, whole, True, torch.float32): 3 * 2})
    assert task.backbone.counted() == Counter()  # those are forgotten
    gp.equivalence(task, "hard", 2, images=8)
    (call,) = task.backbone.counted()
    assert (call.tokens, call.graph) == (2 + task.backbone.model.num_prefix_tokens, False)


def test_watching_changes_no_number(task):
    plain = replace(task, backbone=gp.Backbone(**{n: v for n, v in vars(task.backbone).items() if n != "calls"}))
    a, b = (gp.coherence(each.with_new_scorer(0), "vpnoise", 2, batches=3, batch_size=2) for each in (task, plain))
    assert np.array_equal(a.gram, b.gram)


def test_a_floor_is_that_of_each_kind_of_pass_times_their_number(task):
    bare = BarePasses(task.backbone, "cpu", second=False, repeats=1)
    kinds = [Call(2, 5, True, torch.float32), Call(3, 3, False, torch.float32), Call(1, 5, False, torch.float64)]
    single = [bare.floor(Counter({kind: 1})) for kind in kinds]
    whole = bare.floor(Counter(dict(zip(kinds, (4, 5, 6), strict=True))))
    for name in ("seconds", "large", "flops", "images"):
        parts = [getattr(each, name) for each in single]
        assert getattr(whole, name) == pytest.approx(4 * parts[0] + 5 * parts[1] + 6 * parts[2])
    assert [each.images for each in single] == [2, 3, 1]
    forward = bare.floor(Counter({replace(kinds[0], graph=False): 1}))
    assert 1.5 < single[0].flops / forward.flops < 2.6  # of frozen weights a backward pass costs as much as a forward
    second = BarePasses(task.backbone, "cpu", second=True, repeats=1).floor(Counter({kinds[0]: 1}))
    assert second.flops > 1.5 * single[0].flops
    assert LARGE["cpu"] > 0


def test_bare_passes_are_not_counted_as_the_probes(task):
    task.backbone.counted()
    BarePasses(task.backbone, "cpu", second=False, repeats=1).floor(Counter({Call(1, 5, True, torch.float32): 1}))
    assert task.backbone.counted() == Counter()


def test_pictures_come_round_under_ids_of_their_own(task):
    source, pool = task.source, len(task.source.pictures)
    first, later = source.probe(0, 2, 0), source.probe(pool, 2, 0)
    assert torch.equal(first.images, later.images)
    assert set(first.ids).isdisjoint(later.ids)
    assert set(first.ids).isdisjoint(source.train(0, 2, 0).ids)


def test_every_call_for_noise_is_timed_and_gives_the_same_numbers():
    noise = Noise(0, (1, 2))
    before = [getattr(noise, kind)(*((0.5, (3,)) if kind == "gamma" else ((3,),))) for kind in KINDS]
    with noise_timed("cpu") as total:
        within = [getattr(noise, kind)(*((0.5, (3,)) if kind == "gamma" else ((3,),))) for kind in KINDS]
        assert total.calls == len(KINDS)
    assert all(map(torch.equal, before, within))
    noise.normal((3,))
    assert total.calls == len(KINDS)
    assert total.seconds == total.host > 0
    assert total.device == 0


def test_times_are_medians_after_a_warm_up():
    calls = []
    assert milliseconds(lambda: calls.append(1), "cpu", 5, warm_up=2) >= 0
    assert len(calls) == 7
    assert peak_flops("cpu", 32, 2) > 0


# --- operators by seeds ---


def test_the_seeds_of_an_operator_are_trained_side_by_side_with_the_numbers_of_each(monkeypatch):
    measured, references = REFERENCE.part("measure"), []
    noted = replace(REFERENCE, measure=lambda *a: references.append(a[1].seed) or measured(*a))
    monkeypatch.setattr("gpu_steps.operators_by_seeds.REFERENCE", noted)
    names, task = ["vpnoise", "scale"], Toy()
    rows = list(operators_by_seeds((task, task), names, (1, 2), 4, SIZES, lambda op, seed: (op, seed) == ("scale", 1)))
    assert [(row["op"], row["seed"]) for row in rows] == [("vpnoise", 1), ("vpnoise", 2), ("scale", 2)]
    assert references == [1, 2]  # one a seed, which its operators share
    single = gp.retention(Toy().with_new_scorer(2), "scale", 4, recipe=Recipe(steps=1, batch_size=2, seed=2), images=4)
    assert rows[-1]["retention"] == single.row()["retention"]
    assert rows[-1]["loss"] == pytest.approx(single.row()["loss"])
    coherence = gp.coherence(Toy().with_new_scorer(2), "scale", 4, batches=3, batch_size=2, seed=2)
    assert rows[-1]["coherence"] == coherence.row()["coherence"]
    assert rows[-1]["step"] == 0.01  # the largest of the ladder
    assert rows[0]["descent"] is not None


def test_an_operator_without_a_gradient_has_a_row_that_says_why():
    (row,) = operators_by_seeds((Toy(), Toy()), ["hard"], (1,), 4, SIZES, lambda op, seed: False)
    assert "gives the scorer no gradient" in row["retention_error"]
    assert "retention" not in row
    assert row["coherence"] is None


def test_the_leaderboards_operators_come_with_the_papers_first_and_the_slow_ones_last():
    names = operators.asked()
    assert len(names) == len(set(names)) == 26
    chosen = operators.ordered(names)
    assert sorted(chosen) == sorted(names)
    assert tuple(chosen[: len(operators.FIRST)]) == operators.FIRST
    assert tuple(chosen[-len(operators.LAST) :]) == operators.LAST


def test_rows_that_are_there_are_not_measured_again_and_those_not_reached_are_told(tmp_path, monkeypatch):
    setup = Setup("cpu", True, tmp_path)
    settings = operators.settings(setup) | {"operators": ["lapsum+vpnoise", "lapsum+scale"], "k": 4} | SIZES
    monkeypatch.setattr(operators, "_tasks", lambda *_: (Toy(), Toy()))
    report = Report(tmp_path / "e.json", {})
    operators.measure(setup, settings, report)
    assert [row["op"] for row in report.rows] == settings["operators"]
    before = list(report.rows)
    operators.measure(setup, settings, report)
    assert report.rows == before
    late = Report(tmp_path / "late.json", {}, seconds=0)
    operators.measure(setup, settings, late)
    assert late.missing == ["2 of 2 rows (operators x seeds)"]


# --- Table 5 ---


def test_what_is_kept_of_a_training_gives_the_same_row(tmp_path):
    setup, report = Setup("cpu", True, tmp_path), Report(tmp_path / "f.json", {})
    task = gp.vlm.captioning("scenes-vlm")
    result = gp.retention(
        task.with_new_scorer(1), "vpnoise", 11, recipe=Recipe(steps=2, batch_size=2, seed=1), images=16
    )
    again = table5._result(table5._packed(result) | {"seconds": 0.0})
    mine, theirs = over_seeds([again]), over_seeds([result])
    loose = {"auc", "loss", "untrained", "seconds"}
    assert {n: v for n, v in mine.items() if n not in loose} == {n: v for n, v in theirs.items() if n not in loose}
    assert mine["auc"] == pytest.approx(theirs["auc"])
    assert mine["loss"] == pytest.approx(theirs["loss"], abs=1e-4)
    assert table5.settings(setup)["seeds"] == (1, 2)
    assert not report.rows


def test_table_5_asks_every_variant_with_ten_seeds_the_fewest_tokens_first(tmp_path):
    experiment = load_experiment(table5.PRESET)
    settings = table5.settings(Setup("cuda", False, tmp_path))
    questions = list(table5._questions([run.question for run in experiment.runs], settings))
    assert sorted({q["seed"] for q in questions}) == list(range(1, 11))
    one = [q for q in questions if q["seed"] == 1]
    assert len(questions) == 10 * len(one)
    assert [q["k"] for q in one] == sorted(q["k"] for q in one)
    preset = {(r.question["op"], r.question.get("denoiser"), r.question["k"]) for r in experiment.runs}
    assert {(q["op"], q.get("denoiser"), q["k"]) for q in one} == preset
    assert {q["steps"] for q in one} == {0, 150}


# --- the GPU tests, and where they run ---


def test_versions_are_told_where_gradprobe_is_on_the_path_alone(monkeypatch):
    def metadata(package):
        if package == "gradprobe":
            raise PackageNotFoundError(package)
        return version(package)

    monkeypatch.setattr(environment, "version", metadata)
    assert environment.versions()["gradprobe"] == gradprobe.__version__
    assert environment.versions()["torch"] == version("torch")


def test_tests_that_fail_or_do_not_run_fail_the_step(tmp_path, capsys):
    marked = "import pytest\n@pytest.mark.gpu\ndef test_x(): "
    for name, text, words in (
        ("test_bad.py", f"{marked}assert 0, 'wrong sum'\n", "1 of the GPU tests failed"),
        ("test_none.py", "def test_x(): pass\n", "0 passed"),
        ("test_skip.py", f"{marked}pytest.skip('no')\n", "0 passed"),
    ):
        (tmp_path / name).write_text(text)
        report = Report(tmp_path / "a.json", {})
        with pytest.raises(GradprobeError, match=words):
            gpu_tests.measure(Setup("cpu", True, tmp_path), {"tests": str(tmp_path / name)}, report)
        assert len(report.rows) == 1
    capsys.readouterr()
    good = tmp_path / "test_good.py"
    good.write_text(f"{marked}pass\n")
    gpu_tests.measure(Setup("cpu", True, tmp_path), {"tests": str(good)}, report)
    assert report.rows[0] | {"passed": 1, "failed": 0, "skipped": 0, "exit": 0} == report.rows[0]


@pytest.mark.slow
def test_all_gpu_tests_run_on_a_cpu(tmp_path):
    report = Report(tmp_path / "a.json", {})
    gpu_tests.measure(Setup("cpu", False, tmp_path), {"tests": str(ROOT / "tests" / "gpu")}, report)
    assert report.rows[0]["failed"] == report.rows[0]["skipped"] == 0
