"""``gradprobe advise`` as it is typed: a verdict, a command that runs, one page, and clear refusals."""

import json
import re
import shlex

import pytest

from gradprobe.advice import costs, plan, schedule
from gradprobe.operators import registry

QUICK = ("advise", "--k", "5", "--steps", "2", "--batch-size", "2", "--budget", "10m", "--seeds", "1")
MINE = """\
from gradprobe import Selection

def Half(patches, scores, k, noise):
    weights = scores.sigmoid()
    return Selection(patches * weights[..., None], weights)
"""


@pytest.fixture
def small(monkeypatch, tmp_path):
    """One registered operator, a user's own, and few test images; and the folder that the command runs in."""
    monkeypatch.setattr(registry, "registered", lambda: ["hard-concrete+scale"])
    monkeypatch.setattr(schedule, "LEAST_IMAGES", 8)
    monkeypatch.setattr(plan, "IMAGES", 8)
    monkeypatch.setattr(costs, "IMAGES", 8)
    (tmp_path / "mine.py").write_text(MINE)
    return tmp_path


def test_it_prints_a_verdict_and_a_command_that_runs_and_writes_a_page(run, small):
    code, out, err = run(*QUICK, "--op", "mine.py:Half")
    assert code == 0, err
    assert out.startswith("Use ")
    (command,) = [line for line in out.splitlines() if line.startswith("gradprobe retention")]
    (page,) = re.findall(r"page: (\S+)", out)
    text = (small / page).read_text()
    assert "mine.py:Half" in text.replace("<wbr>", "")
    before = sorted(small.glob("runs/*/*.npz"))
    code, table, err = run(*shlex.split(command)[1:], "--rankings", "none")
    assert code == 0, err
    assert "from the store" in table
    assert sorted(small.glob("runs/*/*.npz")) == before  # it was trained already
    code, told, _ = run(*QUICK, "--op", "mine.py:Half", "--json", "--page", "none")
    assert code == 0
    advice = json.loads(told)
    assert advice["command"] == command and advice["page"] is None and advice["path"] == "runs"
    assert {row["op"] for row in advice["candidates"]} == {"hard-concrete+scale", "mine.py:Half"}
    assert sorted(small.glob("runs/*/*.npz")) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--k", "5", "--keep", "0.3"], "either --k"),
        ([], "either --k"),
        (["--k", "0"], "--k 1 to --k 196"),
        (["--k", "196"], "--k 1 to --k 195"),
        (["--k", "5", "--budget", "10"], "--budget 10 is not possible; give a time such as"),
        (["--k", "5", "--budget", "soon"], "--budget soon"),
        (["--k", "5", "--seeds", "1,1"], "seed 1 is named twice"),
        (["--k", "5", "--seeds", "5..1"], "--seeds 5..1"),
        (["--k", "5", "--op", "vpnose"], "did you mean 'vpnoise'"),
        (["--k", "5", "--op", "gone.py:Op"], "no such file"),
        (["--k", "5", "--backbone", "vit_none"], "vit_none"),
        (["--k", "5", "--task", "scenes-vlm", "--backbone", "deit_tiny_patch16_224"], "either --task"),
        (["--k", "5", "--page", "page.pdf"], "page.pdf"),
        (["--k", "5", "--jobs", "0"], "--jobs 0"),
        (["--k", "5", "--no-confirm"], "nothing to go by"),
        (["--k", "5", "--steps", "0"], "--steps 0"),
    ],
)
def test_a_wrong_input_is_one_line_and_leaves_nothing(run, small, arguments, words):
    code, out, err = run("advise", *arguments)
    lines = [line for line in err.splitlines() if line.startswith("gradprobe: ")]
    assert code == 2, err
    assert len(lines) == 1 and words in lines[0], err
    assert "Traceback" not in err + out
    assert not list(small.glob("runs/**/*"))


def test_python_and_the_command_have_the_same_defaults():
    import inspect

    from gradprobe.advice.run import BATCH_SIZE, BUDGET, advise
    from gradprobe.cli.advise import advise as command
    from gradprobe.cli.compare import budget_seconds

    ours, theirs = (inspect.signature(function).parameters for function in (command, advise))
    assert budget_seconds(ours["budget"].default) == BUDGET
    assert ours["batch_size"].default == BATCH_SIZE
    shared = set(ours) & set(theirs) - {"budget", "results", "k"}
    assert {"steps", "seeds", "confirm", "loss", "scorer", "weights", "train_data"} <= shared
    assert {name: ours[name].default for name in shared} == {name: theirs[name].default for name in shared}
