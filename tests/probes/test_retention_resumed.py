"""Trainings of retention that were stopped: they go on from their checkpoint to the same bytes."""

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from retentions import RECIPE, measured
from stored import array_bytes

from gradprobe.errors import GradprobeError
from gradprobe.store.results import Store
from gradprobe.training.train import Recipe

SCRIPT = """
import sys, time
from toy import Toy
from gradprobe.probes.retention.measure import retention
from gradprobe.operators.registry import build
from gradprobe.training.train import Recipe

def told(what, done, total):
    if done == 31:
        print("there", flush=True)
        time.sleep(600)

recipe = Recipe(steps=40, batch_size=4)
retention(Toy(), build("vpnoise"), 4, recipe=recipe, images=20, folder=sys.argv[1], progress=told)
"""
LONG = Recipe(steps=40, batch_size=4)


def bytes_of(result, root):
    return array_bytes(Store(root).save(result))


def test_killed_by_force_it_goes_on_to_the_same_bytes(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "partial")], stdout=subprocess.PIPE, cwd=Path(__file__).parents[1]
    )
    assert process.stdout.readline() == b"there\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (tmp_path / "partial" / "checkpoint.safetensors").is_file()
    done = []
    resumed = measured(recipe=LONG, folder=tmp_path / "partial", progress=lambda *words: done.append(words[1]))
    assert done[0] == 26  # 25 steps were kept
    whole = measured(recipe=LONG, folder=tmp_path / "other")
    assert bytes_of(resumed, tmp_path / "a") == bytes_of(whole, tmp_path / "b")
    scorers = [(tmp_path / folder / "keep" / "scorer.safetensors").read_bytes() for folder in ("partial", "other")]
    assert scorers[0] == scorers[1]


def test_a_checkpoint_of_another_question_is_not_taken(tmp_path):
    measured(folder=tmp_path)
    other = replace(RECIPE, seed=1)
    steps = []
    fresh = measured(recipe=other, folder=tmp_path, progress=lambda *words: steps.append(words[1]))
    assert steps[0] == 1 and np.array_equal(fresh.losses, measured(recipe=other).losses)


def test_a_broken_checkpoint_says_what_to_delete(tmp_path):
    (tmp_path / "checkpoint.safetensors").write_bytes(b"half a file")
    with pytest.raises(GradprobeError, match=r"checkpoint\.safetensors is no checkpoint that can be read .*delete it"):
        measured(folder=tmp_path)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(GradprobeError, match=r"name another folder \(--results"):
        measured(folder=tmp_path / "file")


def test_a_finished_checkpoint_trains_no_further(tmp_path):
    words = []
    first = measured(folder=tmp_path)
    again = measured(folder=tmp_path, progress=lambda *told: words.append(told[0]))
    assert all("test" in word for word in words) and np.array_equal(first.correct, again.correct)
    assert np.array_equal(first.curve, again.curve) and np.array_equal(first.spread, again.spread)
