"""The whole command through lmms-eval, offline; run only with -m slow, where lmms-eval is installed (extra lmms)."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import drawn
import pytest
from published import PUBLISHED, published

from gradprobe.store.results import Store
from gradprobe.vlm.evaluation.arguments import ModelArguments
from gradprobe.vlm.evaluation.benchmarks import BENCHMARKS, benchmark_of
from gradprobe.vlm.evaluation.files import READERS
from gradprobe.vlm.evaluation.generation import Request
from gradprobe.vlm.evaluation.prepare import prepare

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not find_spec("lmms_eval"), reason='no lmms-eval; type: pip install "gradprobe[lmms]"'),
]
DRAWN = {"gqa": 24, "pope": 8, "mme": 1}  # benchmark -> pictures, of each kind
SHORT = "\nAnswer the question using a single word or phrase."
PRUNED = {"pretrained": "photos-vlm", "plan": "divprune", "k": 22}


def gradprobe(*arguments, folder, wait=True):
    command = [sys.executable, "-m", "gradprobe", *map(str, arguments)]
    environment = os.environ | {"HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    if not wait:
        return process
    out, err = process.communicate()
    assert process.returncode == 0, err
    return json.loads(out)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with three benchmarks about pictures of photos-vlm."""
    folder = tmp_path_factory.mktemp("evaluation")
    for name, count in DRAWN.items():
        getattr(drawn, name)(folder / "source" / name, count)
        prepare(benchmark_of(name), folder / "source" / name, folder / "data")
    return folder


@pytest.fixture(scope="module")
def told(folder):
    named = ["--model", "photos-vlm", "--plan", "divprune", "--k", "22", "--tasks", "gqa,pope,mme"]
    return gradprobe("vlm", "evaluate", *named, "--data", "data", "--json", folder=folder)


def answers(folder: Path, name: str, arguments: dict) -> list[tuple[dict, str]]:
    """Fields of each question, with the model's own answer to the prompt that lmms-eval makes of it."""
    answering = ModelArguments.of(arguments).opened()
    documents = READERS[name][0](folder / "source" / name)
    requests = [
        Request(
            each.fields["question"].strip() + SHORT,
            lambda path=each.picture: [__import__("PIL.Image").Image.open(path).convert("RGB")],
            {"max_new_tokens": 16},
        )
        for each in documents
    ]
    return [(dict(d.fields), text) for d, text in zip(documents, answering.answers(requests), strict=True)]


def hand_count(name: str, answered: list[tuple[dict, str]]) -> float:
    if name == "gqa":
        return 100 * sum(fields["answer"] == text.lower() for fields, text in answered) / len(answered)
    if name == "pope":
        pairs = [(fields["answer"], text.lower()) for fields, text in answered]
        tp, fp, fn = (pairs.count(pair) for pair in (("yes", "yes"), ("no", "yes"), ("yes", "no")))
        return 100 * 2 * tp / (2 * tp + fp + fn)
    right = [fields["answer"].lower() == text.lower() for fields, text in answered]  # a picture of each category
    return sum(50 * (a + b) + 100 * (a and b) for a, b in zip(right[::2], right[1::2], strict=True))


@pytest.mark.parametrize("name", DRAWN)
def test_scores_equal_a_hand_count_of_the_models_own_answers(folder, told, name):
    (row,) = [row for row in told["rows"] if row["benchmark"] == name]
    pruned = answers(folder, name, PRUNED)
    assert row["score"] == pytest.approx(hand_count(name, pruned))
    assert row["unpruned"] == pytest.approx(hand_count(name, answers(folder, name, {"pretrained": "photos-vlm"})))
    assert row["unpruned"] > 0 and row["retention"] == pytest.approx(row["score"] / row["unpruned"])
    assert Store(folder / "runs").load(folder / row["path"]).answers == tuple(text for _, text in pruned)


def test_the_average_is_that_of_the_benchmarks_beside_the_papers(told):
    mean = sum(row["retention"] for row in told["rows"]) / 3
    assert told["average"]["retention"] == pytest.approx(mean)
    assert told["average"]["low"] < mean < told["average"]["high"]
    assert told["tokens"] == {"layers": [22] * 4, "average": 22, "of": 100}
    assert "22.2 %" in told["paper"]["title"] and "DiffPrune" in told["paper"]["retained"]


def test_an_interrupted_evaluation_goes_on_to_the_same_answers(folder, told):
    command = ["vlm", "evaluate", "--model", "photos-vlm", "--tasks", "gqa", "--data", "data", "--results", "other"]
    process = gradprobe(*command, folder=folder, wait=False)
    until = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < until:
        if any(path.stat().st_size > 100 for path in (folder / "other").rglob("*.journal")):
            process.send_signal(signal.SIGTERM)
            break
        time.sleep(0.02)
    process.communicate()
    again = gradprobe(*command, "--json", folder=folder)
    (whole,) = [
        result
        for path in (folder / "runs" / "evaluation").glob("*.npz")
        if (result := Store(folder / "runs").load(path)).question == (
            mended := Store(folder / "other").load(folder / again["rows"][0]["path"])
        ).question
    ]  # fmt: skip
    assert mended.answers == whole.answers and mended.parts.tobytes() == whole.parts.tobytes()
    assert not list((folder / "other").rglob("*.partial"))


def test_finished_tasks_are_not_run_again(folder, told):
    files = {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("*.npz")}
    named = ["--model", "photos-vlm", "--plan", "divprune", "--k", "22", "--tasks", "mme,gqa"]
    again = gradprobe("vlm", "evaluate", *named, "--data", "data", "--json", folder=folder)
    assert [row["benchmark"] for row in again["rows"]] == ["mme", "gqa"]
    assert {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("*.npz")} == files


def test_all_ten_benchmarks_are_answered_and_scored(tmp_path):
    for name in PUBLISHED:
        prepare(benchmark_of(name), published(name, tmp_path / "source" / name), tmp_path / "data")
    command = ["vlm", "evaluate", "--model", "scenes-vlm", "--tasks", "all", "--data", "data", "--json"]
    told = gradprobe(*command, folder=tmp_path)
    assert [row["benchmark"] for row in told["rows"]] == list(BENCHMARKS)
    questions = {row["benchmark"]: (row["questions"], row["units"]) for row in told["rows"]}
    assert questions["mme"] == (30, 15) and questions["mmbench_cn"] == (3, 2)


SAID = {
    "mmbench_en": ("B", "A", "D"), "mmbench_cn": ("B.", "B", "A"), "scienceqa_img": ("B", "A"), "vqav2": ("two", "9"),
    "textvqa": ("stop", "go"), "seedbench_img": ("C.", "A"), "vizwiz": ("unanswerable", "a cat"),
}  # fmt: skip


@pytest.mark.parametrize("name", SAID)
def test_known_answers_have_the_known_score(name, tmp_path, monkeypatch):
    """Right answers have the full score, wrong ones none, through the functions of lmms-eval."""
    from gradprobe.vlm.evaluation.generation import Answering
    from gradprobe.vlm.evaluation.groups import units_of
    from gradprobe.vlm.evaluation.harness import graded
    from gradprobe.vlm.evaluation.log import Log
    from gradprobe.vlm.model import open_vlm

    benchmark, source = benchmark_of(name), published(name, tmp_path / "source")
    prepare(benchmark, source, tmp_path / "data")
    turned = name == "mmbench_cn"  # one of two versions of a circular question is wrong
    texts = list(SAID[name])
    monkeypatch.setattr(Answering, "answered", lambda self, batch: [texts.pop(0) for _ in batch])
    found = graded(Answering(open_vlm("scenes-vlm")), benchmark, tmp_path / "data" / name, Log())
    _, parts = units_of(benchmark, found.samples)
    assert parts[:, 0].tolist() == ([0, 1] if turned else [1, 0])
    assert found.score * benchmark.reported == pytest.approx(100 * parts[:, 0].mean())
