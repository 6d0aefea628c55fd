"""Experiment trackers of a training, through accelerate; no network."""

import importlib.util
import json
import sys
import types
from pathlib import Path

import pytest
from captioned import FEW, captioned, log, trained, with_processor

from gradprobe.errors import GradprobeError, UsageError
from gradprobe.vlm.captions import Captions, open_captions
from gradprobe.vlm.training.tracking import tracker
from gradprobe.vlm.training.train import Launch, fit


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Captions:
    """Eight images to train on and four held out, of three sizes."""
    return open_captions(captioned(tmp_path_factory.mktemp("data")), held_out=4)


@pytest.fixture
def service(monkeypatch):
    """A stand-in for a tracker's package; returns what it was told, in order."""

    def stand_in(name: str) -> list:
        told: list = []
        fake = types.ModuleType(name)
        fake.__spec__ = types.SimpleNamespace(name=name)
        run = types.SimpleNamespace(
            log=lambda values, step: told.append({"step": step, **values}), finish=lambda: told.append("done")
        )
        fake.init = lambda **what: told.append(what) or run
        fake.config = types.SimpleNamespace(update=lambda values, **how: told.append(values))
        monkeypatch.setitem(sys.modules, name, fake)
        return told

    return stand_in


def stopped_at_four(what, done, total):
    if done == 4:
        raise KeyboardInterrupt


@pytest.mark.parametrize("name", ["trackio", "wandb"])
def test_a_tracker_gets_what_the_log_gets_in_one_run(name, service, data, tmp_path):
    told, launch, out = service(name), Launch(tracker=name), tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        fit(with_processor("llava"), data, out, FEW, rows=2, launch=launch, progress=stopped_at_four)
    begun, config, *lines, end = told
    assert (begun["project"], begun["name"], begun["resume"], end) == ("gradprobe", "run", "never", "done")
    assert config["k"] == 6 and config["op"] == "lapsum+vpnoise" and lines == log(out)
    told.clear()
    fit(with_processor("llava"), data, out, FEW, rows=2, launch=launch)
    again, _, *lines, _ = told
    assert again == begun | {"resume": "allow"}  # for wandb with the same id
    assert ("id" in begun) == (name == "wandb") and lines == log(out)[4:]
    told.clear()
    fit(with_processor("llava"), data, out, FEW, rows=2, launch=launch, restart=True)
    assert told[0]["resume"] == "never" and told[0].get("id", 0) != begun.get("id", 1)


def test_tensorboard_shows_each_step_once(data, tmp_path):
    launch = Launch(tracker="tensorboard")
    if importlib.util.find_spec("tensorboard") is None:
        with pytest.raises(GradprobeError, match="pip install tensorboard"):
            fit(with_processor("llava"), data, tmp_path, FEW, rows=2, launch=launch)
        return
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def stop(what, done, total):
        if done == 3:  # after the checkpoint of step 2: step 3 is done, and shown, twice
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(with_processor("llava"), data, tmp_path, FEW, rows=2, launch=launch, progress=stop)
    fit(with_processor("llava"), data, tmp_path, FEW, rows=2, launch=launch)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    for key in ("loss", "tau"):
        shown = [(each.step, each.value) for each in events.Scalars(key)]
        assert shown == [(line["step"], pytest.approx(line[key])) for line in log(tmp_path)]
    assert [each.step for each in events.Scalars("deployed")] == [2, 4, 6]


def test_a_tracker_changes_nothing_in_the_training(service, data, tmp_path):
    service("wandb")
    plain = trained("llava", data, tmp_path / "plain")
    fit(with_processor("llava"), data, tmp_path / "shown", FEW, rows=2, launch=Launch(tracker="wandb"))
    one, other = (Path(tmp_path / name / "scorer.safetensors").read_bytes() for name in ("plain", "shown"))
    assert one == other and json.loads((plain.out / "scorer.json").read_text())


@pytest.mark.parametrize("name", ["trackio", "wandb", "tensorboard"])
def test_a_tracker_that_is_missing_says_what_to_install(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(GradprobeError, match=f"pip install {name}"), tracker(name, tmp_path, {}):
        pass
    with pytest.raises(UsageError, match="did you mean 'wandb'"), tracker("wandbb", tmp_path, {}):
        pass


def test_a_tracker_without_accelerate_says_what_to_install(service, tmp_path, monkeypatch):
    service("wandb")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(GradprobeError, match=r'pip install "gradprobe\[vlm\]"'), tracker("wandb", tmp_path, {}):
        pass


def test_a_tracker_that_cannot_begin_is_one_line(service, tmp_path, monkeypatch):
    service("wandb")

    def refuse(**what):
        raise RuntimeError("api_key not configured. Call wandb.login().")

    monkeypatch.setattr(sys.modules["wandb"], "init", refuse)
    words = "--track wandb cannot begin: api_key not configured; leave it out"
    with pytest.raises(GradprobeError, match=words), tracker("wandb", tmp_path, {}):
        pass
