"""One open model a command, whatever the number of operators, budgets, steps and seeds."""

import pytest
from typer.testing import CliRunner

from gradprobe.cli import app

QUICK = ["--batches", "3", "--batch-size", "1", "--weights", "none"]


@pytest.fixture
def loads(monkeypatch, tmp_path):
    """The models that were opened."""
    import gradprobe.tasks
    import gradprobe.vlm.task

    monkeypatch.chdir(tmp_path)
    opened = []
    for module, name in ((gradprobe.tasks, "load_backbone"), (gradprobe.vlm.task, "open_vlm")):
        opening = getattr(module, name)

        def counted(*given, opening=opening, **named):
            opened.append(given)
            return opening(*given, **named)

        monkeypatch.setattr(module, name, counted)
    return opened


@pytest.mark.parametrize(
    ("command", "answers"),
    [
        (["coherence", "--op", "vpnoise", "--op", "scale", "--k", "20,58", "--steps", "0,1", *QUICK], 12),
        (["equivalence", "--op", "vpnoise", "--op", "scale", "--k", "20,58", "--images", "2", "--weights", "none"], 6),
        (
            [
                "coherence",
                "--op",
                "vpnoise",
                "--op",
                "scale",
                "--k",
                "20",
                "--batches",
                "3",
                "--batch-size",
                "1",
                "--task",
                "scenes-vlm",
            ],
            3,
        ),
        (
            [
                "retention",
                "--op",
                "vpnoise",
                "--op",
                "scale",
                "--k",
                "20,58",
                "--steps",
                "1",
                "--batch-size",
                "2",
                "--images",
                "4",
                "--rankings",
                "none",
            ],
            12,
        ),
    ],
    ids=["operators, budgets and steps", "equivalence", "a vision-language model", "seeds"],
)
def test_a_command_opens_its_model_once(loads, tmp_path, command, answers):
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert done.output.count("stored: runs/") == answers
    assert len(loads) == 1


def test_a_comparison_opens_its_model_once(loads, monkeypatch):
    from compared_sizes import shrink

    from gradprobe.comparison import run

    shrink(monkeypatch)
    found = run.compare(["scale"], 58, baselines=["gumbel"], size="tiny", workers=1)
    assert found.missing == ()
    assert len(loads) == 1


PRESET = """
title = "Two operators, two budgets"
figure = "fig1c"
baseline = "gumbel-ste+gather"
claim = "One model."
[question]
probe = "coherence"
op = ["gumbel-ste+gather", "lapsum+scale"]
k = [20, 58]
batches = 3
batch_size = 1
draws = 2
seed = [0, 1]
steps = 0
layer = 0
loss = "ce"
dtype = "float32"
scorer = ["mlp:width=8", "transformer:depth=1,width=8"]
backbone = "scenes"
weights = "sha256:ec291f87e24113c1"
data = "scenes"
[[run]]
panel = "scenes"
"""


def test_a_preset_opens_a_model_once_for_all_that_it_asks(loads, tmp_path):
    from gradprobe.comparison.experiments import load_experiment, run_experiment
    from gradprobe.store.results import Store

    (tmp_path / "fig.toml").write_text(PRESET)
    answers, missing = run_experiment(load_experiment(tmp_path / "fig.toml"), [Store(tmp_path / "runs")])
    assert (len(answers), missing) == (16, [])
    assert len(loads) == 1
