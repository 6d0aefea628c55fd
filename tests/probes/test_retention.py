"""Retention of a scorer trained through an operator, rankings on scenes, and one line where it cannot be asked."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from retentions import RECIPE, measured
from sklearn.metrics import roc_auc_score
from toy import Toy

from gradprobe.core import Selection, top_k
from gradprobe.errors import GradprobeError, UsageError
from gradprobe.models.deploy import prune
from gradprobe.models.scorer_file import load_scorer
from gradprobe.operators.registry import build
from gradprobe.probes.contract import Ranking, Subject, question_of
from gradprobe.probes.opened import OpenTasks, answered
from gradprobe.probes.retention import PROBE, RetentionSettings, training_run
from gradprobe.probes.retention.measure import ranked
from gradprobe.settings import asked, settings_from
from gradprobe.statistics.estimates import auc
from gradprobe.store.archive import file_names
from gradprobe.store.results import Store
from gradprobe.tasks import classification
from gradprobe.training.train import Recipe

# --- what is measured ---


@pytest.mark.parametrize("op", ["vpnoise", "gumbel"])
def test_right_images_are_those_whose_top_k_tokens_are(op):
    task = Toy()
    result = measured(op, task=task, recipe=Recipe(steps=11, batch_size=4, learning_rate=0.02))
    (batch,) = Toy().batches(1, 20, 0)
    index = top_k(task.scorer(batch.tokens.patches), 4)  # trained in place
    for i in range(20):
        one = batch.subset(slice(i, i + 1))
        kept = Selection(one.tokens.patches[:, index[i]], torch.ones(1, 10), index[i : i + 1])
        assert result.correct[i] == (task.ranks(kept, one) == 0)
        assert result.unpruned[i] == (task.ranks(Selection(one.tokens.patches, torch.ones(1, 10)), one) == 0)
    assert 0 < result.correct.sum() < 20 and (result.correct != result.unpruned).any()
    assert result.at.tolist() == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11]
    assert result.curve.shape == (11, 20) and (result.curve[-1] == result.correct).all()
    fresh = ranked_by(Toy().scorer, batch)
    assert result.curve[0].tolist() == fresh.tolist()
    assert len(result.losses) == 11 and result.auc.shape == (0,)
    scores = task.scorer(batch.tokens.patches)
    assert result.spread[1] == pytest.approx(float(scores.detach().std(-1).mean()))  # 20 images, 8 at a time


def ranked_by(scorer, batch):
    index = top_k(scorer(batch.tokens.patches), 4)
    kept = batch.tokens.patches.gather(1, index[..., None].expand(-1, -1, 5))
    return (Toy().ranks(Selection(kept, torch.ones(20, 10), index), batch) == 0).to(torch.uint8)


def test_the_curve_looks_at_the_first_images_alone(monkeypatch):
    monkeypatch.setattr(training_run, "LOOK_IMAGES", 10)
    result = measured(images=30)
    assert result.curve.shape == (4, 10)
    assert result.curve[-1].tolist() == result.correct[:10].tolist()


def test_workers_change_no_bit():
    one, other = measured(workers=1), measured(workers=3)
    for name in ("losses", "curve", "correct", "unpruned", "spread"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name


def test_progress_goes_through_training_and_test():
    told = []
    measured(progress=lambda *words: told.append(words))
    about = "lapsum+vpnoise, K = 4, seed 0"
    images = (8, 16, 20)
    assert told == [(f"{about}: training", i, 3) for i in (1, 2, 3)] + [(f"{about}: test", i, 20) for i in images]


def test_auc_is_sklearns_with_ties_and_nan_where_there_is_none():
    rng = np.random.default_rng(0)
    scores, relevant = rng.normal(size=(9, 30)).round(1), rng.random((9, 30)) < 0.3
    relevant[0], relevant[1] = False, True
    found = auc(scores, relevant)
    assert np.isnan(found[:2]).all()
    assert found[2:] == pytest.approx([roc_auc_score(r, s) for r, s in zip(relevant[2:], scores[2:], strict=True)])
    assert len(np.unique(scores)) < scores.size  # there are ties


# --- rankings ---


def test_on_scenes_the_truth_beats_chance_and_the_auc_knows_it():
    task = classification("scenes", scorer="mlp:width=1", seed=1)
    truth, chance = (ranked(task, name, 5, images=32, seed=1) for name in ("truth", "random"))
    assert (truth.auc == 1).all() and 0.35 < chance.auc.mean() < 0.65
    assert truth.correct.mean() > chance.correct.mean() + 0.3
    assert (truth.unpruned == chance.unpruned).all() and truth.unpruned.mean() > 0.9
    assert truth.losses.shape == (0,) and truth.curve.shape == (0, 0)
    assert truth.row()["steps"] == 0 and truth.row()["untrained"] is None and truth.row()["loss"] is None


def test_a_ranking_does_not_depend_on_scorer_or_training_data():
    floor = RetentionSettings(steps=0, images=4)
    task = classification("scenes", scorer="mlp:width=1", denoiser="token")
    other = replace(task.with_new_scorer(3, "mlp:width=2", "none"), names={**task.names, "train_data": "x"})
    question = question_of(PROBE, Subject(task, Ranking("norm"), 3), floor)
    assert question == question_of(PROBE, Subject(other, Ranking("norm"), 3), floor)
    assert not {"scorer", "denoiser", "train_data", "batch_size", "tau_start"} & question.keys()
    assert (question["op"], question["k"], question["steps"], question["seed"]) == ("ranked:norm", 3, 0, 0)
    with pytest.raises(UsageError, match="--steps 5 is not possible: the selector norm is not trained"):
        question_of(PROBE, Subject(task, Ranking("norm"), 3), RetentionSettings(steps=5))


def test_what_cannot_be_ranked_is_one_line():
    for name in ("truth", "class-attention"):
        with pytest.raises(UsageError, match=f"^{name} cannot choose here: "):
            ranked(Toy(), name, 3, images=4)
    with pytest.raises(UsageError, match="unknown selector 'nrom'; did you mean 'norm'"):
        ranked(Toy(), "nrom", 3, images=4)
    with pytest.raises(UsageError, match="no language model"):
        ranked(Toy(), "random@2", 3, images=4)
    with pytest.raises(UsageError, match="--positions compact is for selectors"):
        question_of(PROBE, Subject(Toy(), build("vpnoise"), 3), RetentionSettings(positions="compact"))


# --- what cannot be asked, or not be answered ---


def test_without_gradient_it_is_said():
    with pytest.raises(GradprobeError, match=r"hard\+gather gives the scorer no gradient"):
        measured("hard")


def test_a_loss_that_is_not_finite_is_refused_and_nothing_is_kept(tmp_path):
    with pytest.raises(GradprobeError, match=r"loss is not finite at training step 1 \(image ids 10002\)"):
        measured(task=Toy(poison=10_002), folder=tmp_path)
    assert not list(tmp_path.iterdir())


def test_scores_that_are_not_finite_are_refused_with_their_images():
    class Nan(torch.nn.Linear):
        def forward(self, patches):
            return super().forward(patches).squeeze(-1) / (patches[:, :1, 0] > 0.5)

    with pytest.raises(GradprobeError, match=r"score that is not finite for \d of 8 images .*image ids \d"):
        measured(task=Toy(scorer=Nan(5, 1).double()))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"k": 0}, "k=0 asks for 0 of 10 tokens"),
        ({"k": 11}, "--k 1 to --k 10"),
        ({"images": 0}, "--images 0"),
        ({"recipe": replace(RECIPE, steps=0)}, "--steps 0"),
        ({"recipe": replace(RECIPE, batch_size=0)}, "--batch-size 0"),
        ({"recipe": replace(RECIPE, learning_rate=0.0)}, "--learning-rate 0"),
        ({"recipe": replace(RECIPE, learning_rate=float("nan"))}, "--learning-rate nan"),
        ({"recipe": replace(RECIPE, weight_decay=-1.0)}, "--weight-decay -1"),
        ({"recipe": replace(RECIPE, tau_end=0.0)}, "--tau 2.0:0.0"),
        ({"recipe": replace(RECIPE, tau_end=None)}, "--tau 2.0:None"),
        ({"op": "vpnoise:tau=0.3"}, "--tau own"),
        ({"workers": 0}, "--workers 0"),
    ],
)
def test_wrong_input_is_one_line(change, words):
    with pytest.raises(UsageError, match=words) as caught:
        measured(**change)
    assert "\n" not in str(caught.value)


def test_ones_own_tau_is_kept_with_tau_own():
    own = replace(RECIPE, tau_start=None, tau_end=None)
    question = measured("vpnoise:tau=0.3", recipe=own, images=8).question
    assert not {"tau_start", "tau_end", "tau_steps"} & question.keys() and question["op"] == "lapsum:tau=0.3+vpnoise"
    settings = settings_from(RetentionSettings, question)
    assert settings == RetentionSettings(**asdict(own), images=8) and asked(settings).items() <= question.items()


def test_too_few_images_are_refused_before_any_training(tmp_path):
    from PIL import Image

    for i in range(3):
        (tmp_path / "x").mkdir(exist_ok=True)
        Image.new("RGB", (120, 120), (i, i, i)).save(tmp_path / "x" / f"{i}.png")
    task = classification("scenes", weights="none", data=str(tmp_path), loss="kl", scorer="mlp:width=4")
    with pytest.raises(UsageError, match="has 3 images and 4 are needed"):
        measured(task=task, images=4, progress=lambda *words: pytest.fail("trained"))
    assert task.available(1000) == 3


# --- as it is stored and asked again ---


def test_a_stored_question_is_answered_with_the_same_numbers(tmp_path):
    task = classification("scenes", scorer="mlp:width=8", seed=1)
    recipe = Recipe(steps=2, batch_size=2, seed=1)
    settings = RetentionSettings(**asdict(recipe), images=8)
    question = question_of(PROBE, Subject(task, build("vpnoise"), 20), settings)
    found = answered(question, {}, [Store(tmp_path)], OpenTasks())
    direct = measured(task=task, k=20, recipe=recipe, images=8)
    assert np.array_equal(found.result.losses, direct.losses) and np.array_equal(found.result.auc, direct.auc)
    assert sorted(file_names(found.path)) == ["scorer.json", "scorer.safetensors"]
    assert not list(tmp_path.glob("*/*.partial"))
    loaded = Store(tmp_path).load(found.path)
    assert loaded.row() == found.result.row() and loaded.row()["auc"] > 0
    with pytest.raises(GradprobeError, match="the question is about"):
        answered({**question, "weights": "sha256:0000"}, {}, [Store(tmp_path)], OpenTasks())


# --- on a real model ---


@pytest.mark.real
def test_on_a_real_model_class_attention_keeps_more_than_chance_and_pruning_agrees(assets, tmp_path):
    files = {
        "weights": str(assets / "deit_tiny_patch16_224" / "model.safetensors"),
        "data": str(assets / "imagenette" / "val"),
    }
    task = classification("deit_tiny_patch16_224", **files, scorer="mlp:width=8", seed=1)
    looks, chance = (ranked(task, name, 70, images=24, seed=1) for name in ("class-attention", "random"))
    assert looks.correct.mean() > chance.correct.mean() and looks.unpruned.mean() > 0.5
    with pytest.raises(GradprobeError, match="truth cannot choose here"):
        ranked(task, "truth", 20, images=8, seed=1)
    result = measured(task=task, k=120, recipe=Recipe(steps=1, batch_size=4, seed=1), images=16, folder=tmp_path)
    pruned = prune(task.backbone.model, load_scorer(tmp_path / "keep"), k=120)
    images = task.source.probe(0, 16, 1)
    right = torch.cat([pruned(part) for part in images.images.split(8)]).argmax(-1) == images.labels
    assert 0 < right.sum() < 16
    assert right.tolist() == result.correct.astype(bool).tolist()
