"""`gradprobe vlm search-gradient` as a user types it, and refusals that say what to type."""

import json

import pytest
from typer.testing import CliRunner

from gradprobe.cli import app
from gradprobe.errors import UsageError

FEW = ("--batches", 3, "--batch-size", 1, "--draws", 12, "--held-out", 3, "--sigma", 1, "--softness", 0.1)


def probe(folder, *arguments, budget="0.4", select="fastv"):
    named = ("--select", select, "--budget", budget, "--out", folder / "g.json", *FEW, *arguments)
    return CliRunner().invoke(app, ["vlm", "search-gradient", *map(str, named)])


def test_a_start_and_other_numbers(tmp_path):
    figure = tmp_path / "f.svg"
    out = probe(tmp_path, "--kernel", "step", "--at", "start", "--at", "-2,-1.5", "--figure", figure)
    assert out.exit_code == 0, out.output
    for words in ("start: 100, ", "-2,-1.5: 100, ", "tangent C", "tangent cos", "fall after", "mean step", "g.json"):
        assert words in out.output
    assert figure.stat().st_size > 1000 and (tmp_path / "g.pieces").is_dir()
    again = probe(tmp_path, "--kernel", "step", "--at", "start", "--at", "-2,-1.5", "--json")
    told = json.loads(again.stdout)
    assert told == json.loads((tmp_path / "g.json").read_text())
    assert [row["at"] for row in told["rows"]] == ["start"] * 3 + ["-2,-1.5"] * 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"budget": "1.5"}, "share in (0, 1]"),
        ({"select": "fastv@2"}, "selector alone"),
        ({"select": "fastw"}, "did you mean 'fastv'"),
        ({"select": "dart"}, "scores none"),
    ],
)
def test_wrong_questions(tmp_path, arguments, words):
    out = probe(tmp_path, **arguments)
    assert isinstance(out.exception, UsageError) and words in str(out.exception)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--kernel", "linear"), "--kernel linear"),
        (("--draws", "7"), "--draws 7"),
        (("--batches", "2"), "--batches 2"),
        (("--sigma", "wide"), "--sigma wide"),
        (("--softness", "2"), "--softness 2"),
        (("--softness", "soft"), "--softness soft"),
        (("--figure", "f.bmp"), "f.bmp"),
        (("--out", "plan"), "plan.json"),
        (("--model", "llava-hf/llava-1.5-7b-hf"), "--data captions.jsonl"),
    ],
)
def test_wrong_options(tmp_path, options, words):
    out = probe(tmp_path, *options)
    assert isinstance(out.exception, UsageError) and words in str(out.exception)
    assert not list(tmp_path.iterdir())
