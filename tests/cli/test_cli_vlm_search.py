"""`gradprobe vlm search` as a user types it: a plan that other commands take, and refusals that say what to type."""

import json

import pytest
from typer.testing import CliRunner

from gradprobe.cli import app
from gradprobe.errors import UsageError
from gradprobe.selectors.plan import plan_of

FEW = ("--outer", 1, "--inner", 1, "--batch-size", 2, "--validation", 3)


def run(*arguments):
    return CliRunner().invoke(app, ["vlm", *map(str, arguments)])


def search(folder, *arguments, budget="0.5", select="fastv"):
    return run("search", "--select", select, "--budget", budget, "--out", folder / "plan.json", *FEW, *arguments)


def test_the_plan_is_taken_by_other_commands(tmp_path):
    out = search(tmp_path, "--kernel", "step", "--grid", "--grid-counts", "100,3", "--figure", tmp_path / "f.svg")
    assert out.exit_code == 0, out.output
    assert all(words in out.output for words in ("all tokens", "step", "grid", "searched for", "plan.json"))
    assert (tmp_path / "f.svg").stat().st_size > 1000
    counts = plan_of(tmp_path / "plan.json").counts(100, 4).layers
    cost = run("cost", "--model", "photos-vlm", "--select", tmp_path / "plan.json", "--json")
    assert tuple(json.loads(cost.output)["rows"][1]["counts"]) == counts
    assert sorted(path.name for path in (tmp_path / "plan.search").iterdir()) == ["0.5.safetensors", "schedules.json"]


def test_several_budgets_have_a_plan_each(tmp_path):
    out = search(tmp_path, "--json", budget="0.9,0.4")
    assert out.exit_code == 0, out.output
    told = json.loads(out.stdout)
    assert [row["budget"] for row in told["rows"][1:]] == [0.4, 0.9] and told["grid"] == []
    for budget, row in zip((0.4, 0.9), told["rows"][1:], strict=True):
        assert list(plan_of(tmp_path / f"plan-{budget}.json").counts(100, 4).layers) == row["counts"]
        assert row["share"] <= budget and row["images"] == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"budget": "1.5"}, "share in (0, 1]"),
        ({"budget": "much"}, "give numbers"),
        ({"budget": ""}, "--budget"),
        ({"select": "fastv@2"}, "selector alone"),
        ({"select": "fastw"}, "did you mean 'fastv'"),
        ({"select": "dart"}, "scores none"),
    ],
)
def test_wrong_questions(tmp_path, arguments, words):
    out = search(tmp_path, **arguments)
    assert isinstance(out.exception, UsageError) and words in str(out.exception)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--kernel", "linear"), "--kernel linear"),
        (("--constraint", "none"), "--constraint none"),
        (("--grid-counts", "50"), "goes with --grid"),
        (("--figure", "f.bmp"), "f.bmp"),
        (("--model", "llava-hf/llava-1.5-7b-hf"), "--data captions.jsonl"),
        (("--inner", "0"), "--inner 0"),
    ],
)
def test_wrong_options(tmp_path, options, words):
    out = search(tmp_path, *options)
    assert isinstance(out.exception, UsageError) and words in str(out.exception)
    assert not list(tmp_path.iterdir())


def test_a_plan_needs_a_name(tmp_path):
    out = run("search", "--select", "fastv", "--budget", "0.5", "--out", tmp_path / "plan")
    assert isinstance(out.exception, UsageError) and "plan.json" in str(out.exception)
    (tmp_path / "plan.json").mkdir()
    out = search(tmp_path)
    assert isinstance(out.exception, UsageError) and "it is a folder" in str(out.exception)


def test_a_file_that_cannot_be_read_is_not_told_as_a_fault_of_out(tmp_path, monkeypatch):
    def refused(*arguments, **options):
        raise PermissionError(13, "Permission denied", "captions.jsonl")

    monkeypatch.setattr("gradprobe.vlm.task.captioning", refused)
    error = search(tmp_path).exception
    assert isinstance(error, PermissionError) and error.filename == "captions.jsonl"
