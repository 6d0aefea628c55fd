"""Memory need of a training: against a measured peak, and refusals before the work."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from captioned import FEW, captioned, with_processor

from gradprobe.errors import GradprobeError, Notice
from gradprobe.vlm.captions import open_captions
from gradprobe.vlm.training import need, train
from gradprobe.vlm.training.need import FACTOR, Need, check_frozen, free_on
from gradprobe.vlm.training.train import Launch, fit

ROOT = Path(__file__).parents[2]
PEAK = """
import gc, json, sys, tempfile
from pathlib import Path
from gradprobe.vlm.model import open_vlm
from gradprobe.vlm.picture_source import PictureSource
from gradprobe.vlm.training import train
from gradprobe.vlm.training.presets import preset

needs, count = [], train.need_of
train.need_of = lambda *given: needs.append(count(*given)) or needs[-1]

def status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024

def go(rows):
    changes = {"k": 11, "steps": 2, "batch_size": rows, "validation": 0, "save_every": 1, "tau_steps": 1}
    train.fit(open_vlm("scenes-vlm"), PictureSource(), tempfile.mkdtemp(), preset("small", changes), rows=rows)

go(1)  # what is imported and set up once is no need of the second
gc.collect()
before = status("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
go(int(sys.argv[1]))
print(json.dumps([needs[-1].total, needs[-1].image * needs[-1].images, status("VmHWM") - before]))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="no peak of memory; run on Linux")
@pytest.mark.parametrize("rows", [1, 24])
def test_the_need_is_near_a_measured_peak(rows, tmp_path):
    """Memory that is freed is given back at once, so that the peak is of what is in use."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    env |= {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run([sys.executable, "-c", PEAK, str(rows)], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    total, activations, peak = json.loads(done.stdout)
    assert total / FACTOR < peak < total * FACTOR, (total, peak)
    assert rows == 1 or activations > total / 2


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Eight images to train on and four held out, of three sizes."""
    return open_captions(captioned(tmp_path_factory.mktemp("data")), held_out=4)


def test_the_need_is_told_once_and_before_the_first_step(data, tmp_path):
    lines: list = []

    def progress(what, done, total):
        assert len(lines) == 1

    fit(with_processor("llava"), data, tmp_path, FEW, rows=2, progress=progress, launch=Launch(tell=lines.append))
    assert "activations" in lines[0] or "while a checkpoint is written" in lines[0]


def test_measuring_it_changes_no_bit_of_the_training(data, tmp_path, monkeypatch):
    fit(with_processor("llava"), data, tmp_path / "one", FEW, rows=2)
    monkeypatch.setattr(train, "need_of", lambda *given: Need({}, 0, 0, 0, 1, 0))
    fit(with_processor("llava"), data, tmp_path / "two", FEW, rows=2)
    one, two = ((tmp_path / name / "scorer.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two


def test_activations_grow_with_the_images_and_the_trained_part_does_not(data, tmp_path, monkeypatch):
    needs = []
    count = train.need_of
    monkeypatch.setattr(train, "need_of", lambda *given: needs.append(count(*given)) or needs[-1])
    for rows in (1, 3):
        fit(with_processor("llava"), data, tmp_path / str(rows), FEW, rows=rows)
    one, three = needs
    assert one.image == three.image > 0 and one.trained == three.trained and three.images >= 3 * one.images / 2
    assert sum(one.frozen.values()) == sum(p.nbytes for p in with_processor("llava").model.parameters())


def test_too_little_memory_is_refused_before_the_first_step(data, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "free_on", lambda device: 1000)
    with pytest.raises(GradprobeError, match=r"needs about .* and 0\.001 MB are free: give --dtype bfloat16, or lower"):
        fit(with_processor("llava"), data, tmp_path, FEW, rows=2)
    assert not (tmp_path / "log.jsonl").exists()


GB = 10**9


@pytest.mark.parametrize(
    ("free", "least", "words"),
    [
        (100, 8, None),
        (30, 8, None),
        (25, 8, "if it is stopped, lower --rows"),
        (15, 8, r"needs about 26 GB beside .* 15 GB are free: lower --rows \(below 8\), or .*accelerate launch"),
        (15, 1, None),  # fewer images are tried where memory is full
        (3, 1, r"5 GB beside the frozen model, and 3 GB are free: give --dtype bfloat16, or lower --batch-size"),
    ],
)
def test_what_memory_certainly_does_not_hold_is_refused(free, least, words):
    wanted = Need({"float32": 28 * GB}, trained=GB, writing=0, image=3 * GB, images=8, data=GB)
    if free == 3:
        wanted = Need({"float32": 28 * GB}, trained=GB, writing=0, image=3 * GB, images=1, data=GB)
    if words is None:
        wanted.check(free * GB, least)
    elif free == 25:
        with pytest.warns(Notice, match=words):
            wanted.check(free * GB, least)
    else:
        with pytest.raises(GradprobeError, match=words):
            wanted.check(free * GB, least)


def test_a_model_that_does_not_fit_is_refused_before_its_weights_are_read(tmp_path, monkeypatch):
    transformers = pytest.importorskip("transformers")
    text = transformers.LlamaConfig(intermediate_size=11008)
    transformers.LlavaConfig(text_config=text, vision_config=transformers.CLIPVisionConfig()).save_pretrained(tmp_path)
    monkeypatch.setattr(need, "free_on", lambda device: 20 * GB)
    with pytest.raises(
        GradprobeError, match=r"6\.8 billion parameters, 27\.\d GB in float32, and 20 GB are free on"
    ) as no:
        check_frozen(str(tmp_path), "float32", "cpu")
    assert "give --dtype bfloat16 (13." in str(no.value) and "--device auto" in str(no.value)
    check_frozen(str(tmp_path), "bfloat16", "cpu")
    with pytest.raises(GradprobeError, match=r"27\.\d GB in bfloat16 in 2 processes"):
        check_frozen(str(tmp_path), "bfloat16", "cpu", copies=2)
    check_frozen("scenes-vlm", "float32", "cpu")
    check_frozen(str(tmp_path / "nowhere"), "float32", "cpu")  # is told where it is opened


def test_the_free_memory_of_this_machine_is_known():
    free = free_on("cpu")
    assert free is None or free > 10**7
    assert free_on(torch.device("meta")) is None
