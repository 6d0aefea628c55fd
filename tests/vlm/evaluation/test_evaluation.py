"""Results of an evaluation: units, retention, the paper's rows, stored answers, and the command's refusals."""

import json
from dataclasses import replace

import numpy as np
import pytest

from gradprobe.errors import GradprobeError, UsageError
from gradprobe.probes import names, probe_of
from gradprobe.store.results import Store
from gradprobe.vlm.evaluation import PROBE
from gradprobe.vlm.evaluation.benchmarks import BENCHMARKS, MME_CATEGORIES, benchmark_of
from gradprobe.vlm.evaluation.groups import units_of
from gradprobe.vlm.evaluation.paper import quoted
from gradprobe.vlm.evaluation.prepared import YAMLS, Prepared
from gradprobe.vlm.evaluation.result import EvaluationResult, average_retention


def result(name, parts, op="unpruned", **others):
    parts = np.array(parts, float)
    question = {"probe": "evaluation", "task": name, "backbone": "scenes-vlm", "op": op, "batch_size": 1, **others}
    return EvaluationResult(question, ("yes",) * len(parts), np.arange(len(parts)), parts, 50.0, {"seconds": 1.0})


def right(*values):
    return [[float(value), 1.0] for value in values]


def test_units_of_mme_are_pictures_in_their_category():
    grades = [("existence", 0, 1.0), ("existence", 0, 1.0), ("code_reasoning", 1, 1.0), ("code_reasoning", 1, 0.0)]
    samples = [
        {"doc": {"unit": unit}, "mme_perception_score" if category == "existence" else "mme_cognition_score": {
            "category": category, "score": grade, "question_id": f"{category}/1"}}
        for category, unit, grade in grades
    ]  # fmt: skip
    units, parts = units_of(benchmark_of("mme"), samples)
    assert units.tolist() == [0, 1] and parts.shape == (2, 2 * len(MME_CATEGORIES))
    assert parts[0, :2].tolist() == [200, 1] and parts[1, -2:].tolist() == [50, 1] and parts.sum() == 252
    with pytest.raises(GradprobeError, match="1 questions, not 2"):
        units_of(benchmark_of("mme"), samples[:3])


def test_units_of_pope_count_positives():
    pairs = [("yes", "yes"), ("no", "yes"), ("yes", "no"), ("no", "no"), ("yes", "maybe")]
    samples = [
        {"doc": {"unit": i}, "pope_f1_score": {"ground_truth": truth, "prediction": said}}
        for i, (truth, said) in enumerate(pairs)
    ]
    _, parts = units_of(benchmark_of("pope"), samples)
    assert parts.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0], [0, 0, 0]]


def test_scores_and_retention_are_those_of_a_hand_count():
    theirs = result("gqa", right(1, 1, 1, 1, 0))
    ours = result("gqa", right(1, 0, 1, 0, 1), op="ranked:divprune", k=11)
    row = ours.row(theirs)
    assert (row["score"], row["unpruned"], row["retention"], row["k"]) == (60, 80, 0.75, 11)
    assert row["retention_low"] < 0.75 < row["retention_high"]
    other = result("seedbench_img", right(1, 1)), result("seedbench_img", right(1, 1))
    mean = average_retention([(ours, theirs), other])
    assert mean.value == (0.75 + 1) / 2 and mean.low < mean.value < mean.high


def test_other_questions_are_not_paired():
    theirs = result("gqa", right(1, 1, 0))
    with pytest.raises(UsageError, match="the same questions"):
        result("vizwiz", right(1, 1, 0)).retention(theirs)
    with pytest.raises(UsageError, match="the same questions"):
        replace(theirs, units=np.array([0, 1, 3])).retention(theirs)
    with pytest.raises(GradprobeError, match="parts"):
        replace(theirs, parts=np.ones((2, 2)))


def test_answers_are_stored_and_shown_like_those_of_a_probe(run, tmp_path):
    assert probe_of("evaluation") is PROBE and "evaluation" in names()
    stored = result("gqa", right(1, 0), op="ranked:divprune", k=11)
    path = Store(tmp_path / "runs").save(stored)
    again = Store(tmp_path / "runs").load(path)
    assert again.answers == ("yes", "yes") and again.parts.tobytes() == stored.parts.tobytes()
    code, out, _ = run("show", path.stem)
    assert code == 0 and "GQA" in out and "50.0 [" in out
    code, out, _ = run("list", "--json")
    assert [each["question"]["op"] for each in json.loads(out)] == ["ranked:divprune"]


def test_rows_of_the_paper_are_those_of_its_table_at_the_nearest_rate():
    rows = quoted("llava", 0.12)
    assert "LLaVA-1.5-7B at 11.1 %" in rows.title
    assert rows.rows["DiffPrune"]["GQA"] == pytest.approx(56.8 / 61.9)
    assert set(rows.rows["VisionZip"]) == {each.column for each in BENCHMARKS.values()} - {"MMB-CN", "VizWiz"}
    assert "FastV" in rows.contested
    assert "LLaVA-NeXT" in quoted("llava_next", 0.5).title and "Qwen" in quoted("qwen2_5_vl", 0.5).title


def test_without_presets_there_are_no_rows(tmp_path):
    assert quoted("llava", 0.3, (tmp_path,)) is None


def test_a_first_part_ends_with_a_whole_unit():
    record = Prepared("mmbench_en", 7, (2, 5, 7), (), "")
    assert [record.whole(n) for n in (1, 2, 3, 6, 7, 99, None)] == [2, 2, 5, 7, 7, 7, 7]
    assert Prepared("gqa", 7, (), (), "").whole(3) == 3


def test_every_benchmark_has_its_task_file():
    assert {path.stem for path in YAMLS.glob("*.yaml")} == {each.task for each in BENCHMARKS.values()}
    assert len({each.column for each in BENCHMARKS.values()}) == 10


def test_the_command_names_what_is_wrong(run, tmp_path):
    told = ["vlm", "evaluate", "--model", "scenes-vlm", "--data", tmp_path, "--tasks"]
    code, _, err = run(*told, "gqa,pop")
    assert code == 2 and "did you mean 'pope'?" in err
    code, _, err = run("vlm", "evaluate", "--tasks", "gqa", "--data", tmp_path)
    assert code == 2 and "name the model" in err
    code, _, err = run(*told, "gqa", "--samples", "0")
    assert code == 2 and "--samples 0 is not possible" in err
    code, _, err = run("vlm", "benchmark", "prepare", "pop", "--from", tmp_path, "--out", tmp_path)
    assert code == 2 and "did you mean 'pope'?" in err
    code, out, _ = run("vlm", "benchmark", "list", "--json")
    assert code == 0 and [each["name"] for each in json.loads(out)] == list(BENCHMARKS)


def test_a_benchmark_that_is_not_prepared_is_told_how(run, tmp_path, monkeypatch):
    monkeypatch.setattr("gradprobe.vlm.evaluation.installed.version", lambda name: "0.7.3")
    told = ["vlm", "evaluate", "--model", "scenes-vlm", "--data", tmp_path, "--tasks"]
    code, _, err = run(*told, "gqa")
    assert code == 2 and f"gradprobe vlm benchmark prepare gqa --from FOLDER --out {tmp_path}" in err.replace("\n", "")
    (tmp_path / "pope").mkdir()
    (tmp_path / "pope" / "gradprobe.json").write_text("{}")
    code, _, err = run(*told, "pope")
    assert code == 1 and "prepare it again" in err


def test_without_lmms_eval_the_command_says_what_to_type(run, tmp_path, monkeypatch):
    from importlib.metadata import PackageNotFoundError

    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("gradprobe.vlm.evaluation.installed.version", missing)
    code, _, err = run("vlm", "evaluate", "--model", "scenes-vlm", "--data", tmp_path, "--tasks", "gqa")
    assert code == 1 and 'pip install "gradprobe[lmms]"' in err


def test_without_datasets_nothing_is_prepared(run, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    code, _, err = run("vlm", "benchmark", "prepare", "gqa", "--from", tmp_path, "--out", tmp_path / "data")
    assert code == 1 and 'pip install "gradprobe[lmms]"' in err
    assert not (tmp_path / "data").exists()


def test_importing_gradprobe_imports_no_lmms_eval():
    import subprocess
    import sys

    code = (
        "import sys, gradprobe.cli, gradprobe.vlm.evaluation.run, gradprobe.vlm.evaluation.lmms_entry as entry; "
        "print(sorted({'lmms_eval', 'datasets'} & set(sys.modules)), callable(entry.manifest))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "[] True"
