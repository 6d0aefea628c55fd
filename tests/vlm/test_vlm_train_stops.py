"""Stopping and resuming a training, early stopping, several processes."""

import dataclasses
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from captioned import FEW, captioned, log, trained, with_processor
from safetensors.torch import load_file
from tiny_vlms import READING, over

from gradprobe.errors import GradprobeError, UsageError
from gradprobe.training.checkpoint import Checkpoint
from gradprobe.vlm.captions import Captions, open_captions
from gradprobe.vlm.training import validation
from gradprobe.vlm.training.train import fit

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Captions:
    """Eight images to train on and four held out, of three sizes."""
    return open_captions(captioned(tmp_path_factory.mktemp("data")), held_out=4)


# Stopping and resuming


class Stopped(Exception):
    """Stands for whatever ends a process."""


def stop_at(step: int):
    def progress(what, done, total):
        if done == step:
            raise Stopped

    return progress


@over(READING)
@pytest.mark.parametrize("step", [1, 4, 5])
def test_stopped_and_resumed_it_ends_in_the_same_bytes(family, step, data, tmp_path):
    whole = trained(family, data, tmp_path / "whole")
    with pytest.raises(Stopped):
        trained(family, data, tmp_path / "parts", progress=stop_at(step))
    with (tmp_path / "parts/log.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')  # torn
    parts = trained(family, data, tmp_path / "parts")
    for name in ("scorer.safetensors",):
        assert (parts.out / name).read_bytes() == (whole.out / name).read_bytes()
    assert parts.losses == whole.losses and parts.validations == whole.validations
    strip = [[{n: v for n, v in line.items() if n != "seconds"} for line in log(x.out)] for x in (whole, parts)]
    assert strip[0] == strip[1]


def test_a_finished_training_is_not_done_again(data, tmp_path):
    first = trained("llava", data, tmp_path)
    calls = []
    again = trained("llava", data, tmp_path, progress=lambda *what: calls.append(what))
    assert calls == [] and again.losses == first.losses and len(log(tmp_path)) == 6


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from captioned import FEW, with_processor
from gradprobe.vlm.captions import open_captions
from gradprobe.vlm.training.train import fit

def progress(what, done, total):
    if done == 5:
        os.kill(os.getpid(), signal.SIGKILL)

source = open_captions({data!r}, held_out=4)
fit(with_processor("qwen2_5_vl"), source, {out!r}, FEW, rows=2, progress=progress)
"""


def test_a_killed_process_resumes(data, tmp_path):
    whole = trained("qwen2_5_vl", data, tmp_path / "whole")
    file = str(data.listing.root / "captions.jsonl")
    program = KILLED.format(tests=str(ROOT / "tests"), data=file, out=str(tmp_path / "parts"))
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, env=os.environ)
    assert done.returncode == -9, done.stderr
    assert len(log(tmp_path / "parts")) == 5 and not (tmp_path / "parts/scorer.json").exists()
    parts = trained("qwen2_5_vl", data, tmp_path / "parts")
    assert (parts.out / "scorer.safetensors").read_bytes() == (whole.out / "scorer.safetensors").read_bytes()


def test_a_full_disk_leaves_the_last_good_checkpoint(data, tmp_path):
    whole = trained("llava", data, tmp_path / "whole")
    out = tmp_path / "parts"
    with pytest.raises(Stopped):
        trained("llava", data, out, progress=stop_at(3))
    good = (out / "checkpoint.safetensors").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(good) // 2, hard))  # no file may grow past this
    try:
        with pytest.raises(GradprobeError, match=r"cannot write the checkpoint.*the one before it stays"):
            trained("llava", data, out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (out / "checkpoint.safetensors").read_bytes() == good
    assert [p.name for p in out.iterdir() if p.suffix == ".new"] == []
    trained("llava", data, out)
    assert (out / "scorer.safetensors").read_bytes() == (whole.out / "scorer.safetensors").read_bytes()


def test_another_training_is_refused_with_what_differs(data, tmp_path):
    trained("llava", data, tmp_path)
    with pytest.raises(UsageError, match=r"\(k 6 there, 5 here\); give another --out, or --restart"):
        trained("llava", data, tmp_path, k=5)
    with pytest.raises(UsageError, match=r"weights sha256:\w+ there, sha256:\w+ here"):
        fit(with_processor("llava", seed=1), data, tmp_path, FEW, rows=2)
    trained("llava", data, tmp_path, patience=2)  # decides when it ends, not what it does
    fit(with_processor("llava"), data, tmp_path, dataclasses.replace(FEW, k=5), rows=2, restart=True)
    assert json.loads((tmp_path / "scorer.json").read_text())["k"] == 5 and len(log(tmp_path)) == 6


def test_a_damaged_checkpoint_is_one_line(data, tmp_path):
    for content in (b"", b"\0" * 99, (1 << 40).to_bytes(8, "little") + b"{"):
        (tmp_path / "checkpoint.safetensors").write_bytes(content)
        with pytest.raises(GradprobeError, match=r"is no checkpoint that can be read.*delete it to begin anew"):
            trained("llava", data, tmp_path)
    (tmp_path / "checkpoint.safetensors").unlink()
    whole = trained("llava", data, tmp_path)
    saved = Checkpoint.read(tmp_path / "checkpoint.safetensors")
    assert saved is not None and dict(saved.config) == whole.config
    lacking = {name: value for name, value in saved.tensors.items() if name != "losses"}
    matrix = next(n for n, value in saved.tensors.items() if n.startswith("scorer.") and value[..., 2:].numel())
    other = saved.tensors | {matrix: saved.tensors[matrix][..., :2]}
    for tensors, progress in ((lacking, saved.progress), (other, saved.progress), (saved.tensors, {})):
        Checkpoint(saved.config, tensors, progress).write(tmp_path / "checkpoint.safetensors")
        with pytest.raises(GradprobeError, match=r"is no checkpoint that can be read.*delete it to begin anew"):
            trained("llava", data, tmp_path)


def test_two_trainings_do_not_share_a_folder(data, tmp_path):
    def meddle(what, done, total):
        if done == 1:
            with pytest.raises(GradprobeError, match="another process is training"):
                trained("llava", data, tmp_path)

    trained("llava", data, tmp_path, progress=meddle)


@pytest.mark.parametrize("tau_steps", [1, 6])
def test_early_stopping_waits_for_tau_and_keeps_the_best(tau_steps, data, tmp_path, monkeypatch):
    losses = iter([3.0, 2.0, 2.5, float("nan"), 2.0, 2.1, 2.2, 2.3, 2.4, 1.0])
    scorers = []

    def training(validator):
        scorers.append({n: p.detach().clone() for n, p in validator.task.scorer.named_parameters()})
        return next(losses)

    monkeypatch.setattr(validation.Validator, "training", training)
    result = trained("llava", data, tmp_path, steps=10, save_every=1, patience=3, tau_steps=tau_steps)
    assert result.steps == max(2, tau_steps) + 3 and result.planned == 10 and result.step == 2
    assert "validation stopped it" in (tmp_path / "README.md").read_text()
    state = load_file(tmp_path / "scorer.safetensors")
    assert all(torch.equal(t, scorers[1][n]) for n, t in state.items())
    again = trained("llava", data, tmp_path, steps=10, save_every=1, patience=3, tau_steps=tau_steps)
    assert again.steps == result.steps  # it does not begin again


def test_no_patience_trains_to_the_end(data, tmp_path, monkeypatch):
    losses = iter(range(10))
    monkeypatch.setattr(validation.Validator, "training", lambda validator: float(next(losses)))
    assert trained("llava", data, tmp_path, save_every=1, patience=0, tau_steps=1).steps == 6


# Several processes

SHARED = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from captioned import FEW, with_processor
from gradprobe.vlm.captions import open_captions
from gradprobe.vlm.training.processes import process_group
from gradprobe.vlm.training.train import Launch, fit

if __name__ == "__main__":
    with process_group("cpu") as processes:
        assert processes.shard is not None and processes.shard.count == 2
        source = open_captions({data!r}, held_out=4)
        calls, vlm = [], with_processor("qwen2_5_vl")
        progress = lambda *what: calls.append(what)
        result = fit(vlm, source, {out!r}, FEW, rows=1, launch=Launch(processes), progress=progress)
        assert bool(calls) == processes.main
        Path({out!r}, f"rank{{processes.shard.rank}}").write_text(str(result.losses))
"""


def test_two_processes_give_the_curve_of_one(data, tmp_path):
    alone = trained("qwen2_5_vl", data, tmp_path / "alone", rows=1)
    program = tmp_path / "program.py"
    file = str(data.listing.root / "captions.jsonl")
    program.write_text(SHARED.format(tests=str(ROOT / "tests"), data=file, out=str(tmp_path / "both")))
    command = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", *command, str(program)], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    answers = [(tmp_path / "both" / f"rank{rank}").read_text() for rank in range(2)]
    assert answers[0] == answers[1]
    both = log(tmp_path / "both")
    assert len(both) == 6
    for one, two in zip(log(alone.out), both, strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-6)
    about = json.loads((tmp_path / "both/scorer.json").read_text())
    assert about["training"]["losses"] == pytest.approx(alone.losses, rel=1e-5)
