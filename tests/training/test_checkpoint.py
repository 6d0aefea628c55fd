"""Checkpoints: round trip, resuming older ones, and errors in one line."""

import errno
import json
import os

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save
from toy import Toy

import gradprobe.training.checkpoint as module
from gradprobe.errors import GradprobeError, UsageError
from gradprobe.operators.registry import build
from gradprobe.probes.environment import versions
from gradprobe.probes.retention.measure import retention
from gradprobe.training.checkpoint import Checkpoint, adamw_state, load_adamw_state
from gradprobe.training.train import Recipe

WHOLE = Checkpoint({"op": "lapsum+vpnoise", "k": 3}, {"a": torch.arange(6.0).view(2, 3).T}, {"seconds": 1.5})


def test_what_was_written_is_read(tmp_path):
    path = tmp_path / "new" / "folder" / "checkpoint.safetensors"
    assert Checkpoint.read(path) is None
    WHOLE.write(path)
    read = Checkpoint.read(path)
    assert (read.config, read.progress) == (WHOLE.config, WHOLE.progress)
    assert read.tensors.keys() == {"a"} and torch.equal(read.tensors["a"], WHOLE.tensors["a"])
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("content", [b"", b"half a file", b"\0" * 99, (1 << 40).to_bytes(8, "little") + b"{"])
def test_what_is_no_checkpoint_is_one_line(content, tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(content)
    with pytest.raises(GradprobeError, match=r"is no checkpoint that can be read \(.+\); delete it") as caught:
        Checkpoint.read(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("metadata", [None, {"other": "{}"}, {"gradprobe": "[]"}, {"gradprobe": "{}"}, {"about": "{}"}])
def test_tensors_of_others_are_no_checkpoint(metadata, tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(save({"a": torch.zeros(1)}, metadata))
    with pytest.raises(GradprobeError, match="is no checkpoint that can be read"):
        Checkpoint.read(path)


def test_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(GradprobeError, match="is no regular file"):
        Checkpoint.read(tmp_path / "pipe")


def test_another_config_is_refused_with_what_differs(tmp_path):
    WHOLE.check_config(dict(WHOLE.config), tmp_path)
    with pytest.raises(UsageError, match=r"holds another run \(k 3 there, 4 here; seed None there, 0 here\)"):
        WHOLE.check_config({**WHOLE.config, "k": 4, "seed": 0}, tmp_path)


def test_a_full_disk_leaves_the_one_before(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.safetensors"

    def full(path, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module, "atomic_write", full)
    with pytest.raises(GradprobeError, match=r"of 0 MB: No space left on device; name another folder"):
        WHOLE.write(path)
    path.write_bytes(b"before")
    with pytest.raises(GradprobeError, match="the one before it stays, and the same command goes on from there"):
        WHOLE.write(path)
    assert path.read_bytes() == b"before"


def test_moments_keep_device_and_memory_format():
    def network():
        torch.manual_seed(0)
        return torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)

    def step(net, optimiser):
        net(torch.ones(1, 3, 5, 5)).square().sum().backward()
        optimiser.step()

    first, second = network(), network()
    optimisers = [torch.optim.AdamW(net.parameters()) for net in (first, second)]
    step(first, optimisers[0])
    state = {name: value.clone() for name, value in adamw_state(optimisers[0], first.named_parameters()).items()}
    assert state.keys() == {f"{kind}.{name}" for kind in module.MOMENTS for name in ("weight", "bias")}
    second.load_state_dict(first.state_dict())
    load_adamw_state(optimisers[1], second.named_parameters(), {n: t.contiguous() for n, t in state.items()})
    assert optimisers[1].state[second.weight]["exp_avg"].is_contiguous(memory_format=torch.channels_last)
    for net, optimiser in zip((first, second), optimisers, strict=True):
        net.zero_grad()
        step(net, optimiser)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


# --- checkpoints of before ---


def older(path):
    """Rewrite a checkpoint of retention with the metadata that it had before all trainings shared a format."""
    saved = Checkpoint.read(path)
    about = json.dumps({"question": saved.config, "versions": saved.progress["versions"]}, sort_keys=True)
    metadata = {"about": about, "spread": repr(saved.progress["spread"]), "seconds": repr(saved.progress["seconds"])}
    path.write_bytes(save(load_file(path), metadata))


def test_a_retention_of_before_goes_on_to_the_same_bits(tmp_path):
    recipe = Recipe(steps=30, batch_size=4)

    def stopped(what, done, total):
        if done == 27:
            raise KeyboardInterrupt

    def run(folder, progress=None):
        return retention(Toy(), build("vpnoise"), 4, recipe=recipe, images=20, folder=folder, progress=progress)

    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", stopped)
    older(tmp_path / "parts" / "checkpoint.safetensors")
    steps = []
    resumed = run(tmp_path / "parts", lambda what, done, total: steps.append(done))
    assert steps[0] == 26  # 25 steps were kept
    for name in ("losses", "curve", "spread", "correct"):
        assert np.array_equal(getattr(whole, name), getattr(resumed, name)), name
    read = Checkpoint.read(tmp_path / "parts" / "checkpoint.safetensors")
    assert read.config == resumed.question and read.progress["versions"] == versions()
