"""Test images and answers with all N tokens: made once for all questions of a run, as if made for each."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from toy import Toy

from gradprobe.comparison.experiments import load_experiment, run_experiment
from gradprobe.operators.registry import build
from gradprobe.probes.contract import Ranking, Resources, Subject
from gradprobe.probes.retention import RetentionSettings, shared
from gradprobe.probes.retention.deployed import Deployment
from gradprobe.probes.retention.measure import measure
from gradprobe.probes.retention.shared import LAST
from gradprobe.store.results import Store

PRESET = """
title = "Two rankings"
figure = "retention"
baseline = "ranked:norm"
claim = "None."
[question]
probe = "retention"
backbone = "scenes"
weights = "sha256:ec291f87e24113c1"
data = "scenes"
layer = 0
loss = "ce"
dtype = "float32"
images = 4
steps = 0
seed = [1, 2]
k = [5, 9]
[[run]]
op = ["ranked:norm", "ranked:truth"]
"""


@dataclass(frozen=True)
class Counted(Toy):
    """Toy that counts the images it makes, and those it reads with all their tokens."""

    read: list[int] = field(default_factory=list)
    made: list[int] = field(default_factory=list)
    loss: str = "ce"

    @property
    def question(self):
        return {"backbone": "toy", "loss": self.loss, "scorer": "some"}

    @property
    def skipped(self):
        return ("torn.jpg",) if self.made else ()

    def batches(self, count, size, seed):
        for batch in super().batches(count, size, seed):
            self.made.extend(batch.ids)
            yield batch

    def ranks(self, selection, batch):
        if selection.tokens.shape[1] == self.n_tokens:
            self.read.extend(batch.ids)
        return super().ranks(selection, batch)


def asked(task, op="ranked:norm", k=4, seed=0, images=20):
    ranking = op.startswith("ranked:")
    operator = Ranking(op.removeprefix("ranked:")) if ranking else build(op)
    settings = RetentionSettings(steps=0 if ranking else 2, images=images, seed=seed, batch_size=4)
    return Subject(task.with_new_scorer(seed), operator, k), settings


def test_a_run_reads_all_tokens_of_an_image_once_and_its_numbers_are_those_of_questions_apart():
    task = Counted()
    questions = [("ranked:norm", 4), ("ranked:random", 2), ("vpnoise", 4), ("gumbel", 3)]
    known = {}
    together = [measure(*asked(task, *each), Resources(known=known)) for each in questions]
    assert sorted(task.read) == sorted(task.made) == list(range(20))
    assert all(result.environment["skipped"] == ["torn.jpg"] for result in together)
    apart = [measure(*asked(task, *each), Resources()) for each in questions]
    for one, other in zip(together, apart, strict=True):
        for name in ("correct", "unpruned", "auc", "losses", "curve", "spread"):
            assert np.array_equal(getattr(one, name), getattr(other, name)), name


@pytest.mark.parametrize("change", [{"seed": 1}, {"images": 12}, {"loss": "kl"}])
def test_other_images_and_other_models_are_read_anew(change):
    task, known = Counted(), {}
    measure(*asked(task), Resources(known=known))
    other = replace(task, loss=change.pop("loss", "ce"))
    subject, settings = asked(other, **change)
    measure(subject, settings, Resources(known=known))
    assert len(task.read) == len(task.made) == 20 + settings.images


def test_one_batch_of_images_is_kept_and_none_that_is_large(monkeypatch):
    task, known = Counted(), {}
    for seed in (0, 1, 0):
        measure(*asked(task, seed=seed), Resources(known=known))
    assert len(task.made) == 60 and len(task.read) == 40
    assert [name for name in known if not name.startswith("unpruned")] == [LAST]
    monkeypatch.setattr(shared, "MOST", 20 * 10 * 5 * 8 - 1)
    measure(*asked(task, seed=1), Resources(known=known))
    assert LAST not in known


@pytest.fixture
def measured(monkeypatch):
    """For each test of a question, whether its images were read with all tokens."""
    complete, whole = Deployment.complete, []

    def spied(self, groups, progress, unpruned=None):
        whole.append(unpruned is None)
        return complete(self, groups, progress, unpruned)

    monkeypatch.setattr(Deployment, "complete", spied)
    return whole


def test_a_preset_reads_all_tokens_once_a_seed(tmp_path, measured):
    """Eight questions about two seeds' images."""
    (tmp_path / "preset.toml").write_text(PRESET)
    answers, missing = run_experiment(load_experiment(tmp_path / "preset.toml"), [Store(tmp_path / "runs")])
    assert not missing and len(answers) == len(measured) == 8 and sum(measured) == 2


def test_a_command_reads_all_tokens_once_a_seed(run, measured):
    small = ["--images", "4", "--batch-size", "2", "--steps", "1", "--scorer", "mlp:width=8"]
    code, _, error = run("retention", "--op", "vpnoise", "--k", "5", *small, "--seeds", "1,2", "--rankings", "norm")
    assert code == 0, error
    assert len(measured) == 6 and sum(measured) == 2
