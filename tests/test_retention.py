"""Retention: rows by hand, resuming after kill -9, rankings on scenes, and one clear line where it cannot be asked."""

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from retentions import GUMBEL, retained
from sklearn.metrics import roc_auc_score
from stored import array_bytes
from toy import Toy

from gradprobe.comparison import experiments
from gradprobe.core import Selection, top_k
from gradprobe.errors import GradprobeError, UsageError
from gradprobe.models.deploy import prune
from gradprobe.models.scorer_file import load_scorer
from gradprobe.operators.registry import build
from gradprobe.probes.retention import measure as probe
from gradprobe.probes.retention.measure import answer, question_of, ranked, ranked_question, retention
from gradprobe.probes.retention.result import over_seeds, seed_groups
from gradprobe.statistics.estimates import auc
from gradprobe.statistics.ratios import Paired, paired_ratio
from gradprobe.store.archive import file_names
from gradprobe.store.results import Store
from gradprobe.tasks import classification
from gradprobe.training.train import Recipe

RECIPE = Recipe(steps=3, batch_size=4, learning_rate=0.02)
TOY = {"scorer": "mlp", "weights": "none"}


def asked(op="vpnoise", k=4, recipe=RECIPE, images=20, task=None, **more):
    return retention(task or Toy(), build(op) if isinstance(op, str) else op, k, recipe=recipe, images=images, **more)


# --- what is measured ---


@pytest.mark.parametrize("op", ["vpnoise", "gumbel"])
def test_right_images_are_those_whose_top_k_tokens_are(op):
    task = Toy()
    result = asked(op, task=task, recipe=Recipe(steps=11, batch_size=4, learning_rate=0.02))
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
    assert result.spread[1] == pytest.approx(np.mean([float(s.detach().std(-1).mean()) for s in scores.split(8)]))


def ranked_by(scorer, batch):
    index = top_k(scorer(batch.tokens.patches), 4)
    kept = batch.tokens.patches.gather(1, index[..., None].expand(-1, -1, 5))
    return (Toy().ranks(Selection(kept, torch.ones(20, 10), index), batch) == 0).to(torch.uint8)


def test_the_curve_looks_at_the_first_images_alone(monkeypatch):
    monkeypatch.setattr(probe, "LOOK_IMAGES", 10)
    result = asked(images=30)
    assert result.curve.shape == (4, 16)  # whole groups of 8
    assert result.curve[-1].tolist() == result.correct[:16].tolist()


def test_workers_change_no_bit():
    one, other = asked(workers=1), asked(workers=3)
    for name in ("losses", "curve", "correct", "unpruned", "spread"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name


def test_progress_goes_through_training_and_test():
    told = []
    asked(progress=lambda *words: told.append(words))
    about = "lapsum+vpnoise, K = 4, seed 0"
    assert told == [(f"{about}: training", i, 3) for i in (1, 2, 3)] + [(f"{about}: test", i, 3) for i in (1, 2, 3)]


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
    one = Toy()
    other = replace(one, scorer=torch.nn.Sequential())
    assert ranked_question(one, "norm", 3, images=4, seed=0) == ranked_question(other, "norm", 3, images=4, seed=0)
    task = classification("scenes", scorer="mlp:width=1")
    asked = ranked_question(replace(task, names={**task.names, "train_data": "x"}), "norm", 3, images=4, seed=0)
    assert not {"scorer", "train_data"} & asked.keys() and asked["op"] == "ranked:norm"


def test_what_cannot_be_ranked_is_one_line():
    for name in ("truth", "class-attention"):
        with pytest.raises(GradprobeError, match=f"^{name} does not rank the tokens of this model and these images$"):
            ranked(Toy(), name, 3, images=4)
    with pytest.raises(UsageError, match="no ranking is called 'nrom'; did you mean 'norm'"):
        ranked(Toy(), "nrom", 3, images=4)


# --- rows by hand ---


def test_a_row_of_one_seed_is_a_ratio_with_bonett_and_prices_interval_over_images():
    row = retained(30, 36).row()
    expected = paired_ratio(Paired(30, 0, 6))
    assert (row["retention"], row["low"], row["high"]) == (30 / 36, expected.low, expected.high)
    assert row["accuracy"] == 0.75 and row["unpruned"] == 0.9 and row["auc"] == pytest.approx(0.9)
    assert row["untrained"] == pytest.approx(10 / 20) and row["loss"] == pytest.approx(1.5)
    assert row["by_seed"] == [pytest.approx(30 / 36)] and row["seeds"] == [0] and row["difference"] is None


def test_no_interval_over_images_is_zero_wide_or_leaves_its_range():
    for right, unpruned in ((40, 40), (36, 36), (0, 36), (1, 36), (40, 36)):
        row = retained(right, unpruned).row(baseline=retained(right, unpruned, op=GUMBEL))
        assert row["low"] < row["retention"] < row["high"] or row["low"] == row["retention"] == 0 < row["high"]
        assert row["low"] >= 0
        assert row["difference_low"] < row["difference"] < row["difference_high"]
    assert retained(40, 36).row()["high"] > 1  # rightly


@pytest.mark.parametrize("count", [2, 3, 4])
def test_fewer_than_five_seeds_are_values_and_no_interval(count):
    results = [retained(18 + 4 * seed, 36, seed=seed) for seed in range(count)]
    base = [retained(10, 36, op=GUMBEL, seed=seed) for seed in range(count)]
    row = over_seeds(results, base)
    values = (18 + 4 * np.arange(count)) / 36
    assert row["by_seed"] == pytest.approx(values) and row["retention"] == pytest.approx(values.mean())
    assert row["low"] is row["high"] is row["difference_low"] is row["difference_high"] is None
    assert row["difference"] == pytest.approx(values.mean() - 10 / 36) and row["difference_seeds"] == count


FIVE = [(16, 4, 39, 4, 16), (36, 36, 35, 36, 36), (0, 0, 0, 0, 0), (36, 36, 36, 36, 36), (1, 0, 0, 2, 0)]


@pytest.mark.parametrize("shares", FIVE)
def test_five_seeds_have_an_interval_that_stays_in_what_is_possible(shares):
    row = over_seeds([retained(n, 36, seed=i) for i, n in enumerate(shares)])
    assert row["retention"] == pytest.approx(np.mean(shares) / 36)
    assert 0 <= row["low"] <= row["retention"] <= row["high"] <= 40 / 36 + 1e-9
    assert row["low"] < row["high"]


def test_seeds_that_differ_widen_the_interval_and_images_are_its_floor():
    same, apart = (
        [retained(n, 36, seed=i, data="scenes") for i, n in enumerate(each)]
        for each in ((20,) * 5, (10, 30, 12, 28, 20))
    )
    one, all_seeds, wide = retained(20, 36).row(), over_seeds(same), over_seeds(apart)
    assert wide["high"] - wide["low"] > 2 * (all_seeds["high"] - all_seeds["low"])
    assert all_seeds["high"] - all_seeds["low"] < one["high"] - one["low"]


def test_images_that_seeds_share_are_no_more_images():
    own, shared = (
        over_seeds([retained(20, 36, seed=i, data=data) for i in range(5)]) for data in ("scenes", "sha256:0123")
    )
    assert shared["high"] - shared["low"] > 2 * (own["high"] - own["low"])


def test_seeds_of_a_ranking_are_more_images():
    one = over_seeds([retained(20, 36, op="ranked:random", data="scenes")])
    two = over_seeds([retained(20, 36, op="ranked:random", seed=s, data="scenes") for s in (1, 2)])
    assert one["high"] - one["low"] > two["high"] - two["low"] > 0


def test_kinds_of_questions_are_a_mean_of_ratios_that_has_a_width_at_one():
    kind = np.repeat([0, 1], 20)
    result = replace(retained(36, 36), kind=kind.astype(np.uint8))
    row = result.row(baseline=replace(result, question=result.question | {"op": GUMBEL}))
    assert row["by_kind"] == [[1, 1]] and row["retention"] == 1
    assert row["low"] < 1 < row["high"] and row["difference_low"] < 0 < row["difference_high"]


def test_differences_are_paired_by_seed():
    ours = [retained(30 - i, 36, seed=i) for i in range(6)]
    base = [retained(25 - i % 3, 36, op=GUMBEL, seed=i) for i in (5, 4, 3, 2, 1, 9)]
    row = over_seeds(ours, base)
    pairs = np.array([(30 - i - 25 + i % 3) / 36 for i in range(1, 6)])
    assert row["difference"] == pytest.approx(pairs.mean()) and row["difference_seeds"] == 5
    assert row["difference_low"] < row["difference"] < row["difference_high"]
    assert over_seeds(ours, [retained(seed=7)])["difference"] is None


def test_one_seed_is_paired_image_by_image():
    ours, base = retained(30, 36), retained(29, 36, op=GUMBEL)
    row = ours.row(baseline=base)
    assert row["difference"] == pytest.approx(1 / 36)
    alone = ours.row()
    assert row["difference_high"] - row["difference_low"] < 0.9 * (alone["high"] - alone["low"])  # shared images cancel


def test_nothing_right_unpruned_is_undefined_not_zero():
    row = retained(0, 0).row()
    assert row["retention"] is None and row["low"] is None and row["by_seed"] == [None] and row["untrained"] is None
    assert over_seeds([retained(0, 0), retained(seed=1)], [retained(0, 0, op=GUMBEL)])["retention"] is None


def test_groups_differ_in_seed_alone_and_random_weights_are_the_seeds():
    results = [
        retained(seed=0), retained(seed=1), retained(seed=0, op=GUMBEL), retained(seed=0, k=5), retained(seed=2),
        retained(seed=0, weights="random:0"), retained(seed=1, weights="random:1"), retained(weights="sha256:4567"),
    ]  # fmt: skip
    groups = seed_groups(results)
    assert [[results.index(r) for r in group] for group in groups] == [[0, 1, 4], [2], [3], [5, 6], [7]]


# --- resuming ---

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
        [sys.executable, "-c", SCRIPT, str(tmp_path / "partial")], stdout=subprocess.PIPE, cwd=Path(__file__).parent
    )
    assert process.stdout.readline() == b"there\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (tmp_path / "partial" / "checkpoint.safetensors").is_file()
    done = []
    resumed = asked(recipe=LONG, folder=tmp_path / "partial", progress=lambda *words: done.append(words[1]))
    assert done[0] == 26  # 25 steps were kept
    whole = asked(recipe=LONG, folder=tmp_path / "other")
    assert bytes_of(resumed, tmp_path / "a") == bytes_of(whole, tmp_path / "b")
    scorers = [(tmp_path / folder / "keep" / "scorer.safetensors").read_bytes() for folder in ("partial", "other")]
    assert scorers[0] == scorers[1]


def test_a_checkpoint_of_another_question_is_not_taken(tmp_path):
    asked(folder=tmp_path)
    other = replace(RECIPE, seed=1)
    steps = []
    fresh = asked(recipe=other, folder=tmp_path, progress=lambda *words: steps.append(words[1]))
    assert steps[0] == 1 and np.array_equal(fresh.losses, asked(recipe=other).losses)


def test_a_broken_checkpoint_says_what_to_delete(tmp_path):
    (tmp_path / "checkpoint.safetensors").write_bytes(b"half a file")
    with pytest.raises(GradprobeError, match=r"checkpoint\.safetensors is no checkpoint that can be read .*delete it"):
        asked(folder=tmp_path)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(GradprobeError, match=r"name another folder \(--results"):
        asked(folder=tmp_path / "file")


def test_a_finished_checkpoint_trains_no_further(tmp_path):
    words = []
    first = asked(folder=tmp_path)
    again = asked(folder=tmp_path, progress=lambda *told: words.append(told[0]))
    assert all("test" in word for word in words) and np.array_equal(first.correct, again.correct)
    assert np.array_equal(first.curve, again.curve) and np.array_equal(first.spread, again.spread)


# --- what cannot be asked, or not be answered ---


def test_without_gradient_it_is_said():
    with pytest.raises(GradprobeError, match=r"hard\+gather gives the scorer no gradient"):
        asked("hard")


def test_a_loss_that_is_not_finite_is_refused_and_nothing_is_kept(tmp_path):
    with pytest.raises(GradprobeError, match=r"loss is not finite at training step 1 \(image ids 10002\)"):
        asked(task=Toy(poison=10_002), folder=tmp_path)
    assert not list(tmp_path.iterdir())


def test_scores_that_are_not_finite_are_refused_with_their_images():
    class Nan(torch.nn.Linear):
        def forward(self, patches):
            return super().forward(patches).squeeze(-1) / (patches[:, :1, 0] > 0.5)

    with pytest.raises(GradprobeError, match=r"score that is not finite for \d of 8 images .*image ids \d"):
        asked(task=Toy(scorer=Nan(5, 1).double()))


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
        asked(**change)
    assert "\n" not in str(caught.value)


def test_ones_own_tau_is_kept_with_tau_own():
    own = replace(RECIPE, tau_start=None, tau_end=None)
    question = question_of(Toy(), build("vpnoise:tau=0.3"), 4, recipe=own, images=8)
    assert "tau_start" not in question and question["op"] == "lapsum:tau=0.3+vpnoise"
    asked("vpnoise:tau=0.3", recipe=own, images=8)


def test_too_few_images_are_refused_before_any_training(tmp_path):
    from PIL import Image

    for i in range(3):
        (tmp_path / "x").mkdir(exist_ok=True)
        Image.new("RGB", (120, 120), (i, i, i)).save(tmp_path / "x" / f"{i}.png")
    task = classification("scenes", weights="none", data=str(tmp_path), loss="kl", scorer="mlp:width=4")
    with pytest.raises(UsageError, match="has 3 images and 4 are needed"):
        asked(task=task, images=4, progress=lambda *words: pytest.fail("trained"))
    assert task.available(1000) == 3


# --- as it is stored and asked again ---


def test_a_stored_question_is_answered_with_the_same_numbers(tmp_path):
    task = classification("scenes", scorer="mlp:width=8", seed=1)
    recipe = Recipe(steps=2, batch_size=2, seed=1)
    question = question_of(task, build("vpnoise"), 20, recipe=recipe, images=8)
    found = experiments.ask(experiments.Run("scenes", question, {}), [Store(tmp_path)])
    direct = asked(task=task, k=20, recipe=recipe, images=8)
    assert np.array_equal(found.result.losses, direct.losses) and np.array_equal(found.result.auc, direct.auc)
    assert sorted(file_names(found.path)) == ["scorer.json", "scorer.safetensors"]
    assert not list(tmp_path.glob("*/*.partial"))
    loaded = Store(tmp_path).load(found.path)
    assert loaded.row() == found.result.row() and loaded.row()["auc"] > 0
    with pytest.raises(GradprobeError, match="the question is about"):
        answer({**question, "weights": "sha256:0000"}, {})


def test_a_row_needs_shapes_that_fit():
    with pytest.raises(GradprobeError, match="unpruned of a retention result has shape"):
        replace(retained(), unpruned=np.zeros(3))
    with pytest.raises(GradprobeError, match="curve of a retention result has shape"):
        replace(retained(), at=np.array([1]))


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
    with pytest.raises(GradprobeError, match="truth does not rank"):
        ranked(task, "truth", 20, images=8, seed=1)
    result = asked(task=task, k=120, recipe=Recipe(steps=1, batch_size=4, seed=1), images=16, folder=tmp_path)
    pruned = prune(task.backbone.model, load_scorer(tmp_path / "keep"), k=120)
    images = task.source.probe(0, 16, 1)
    right = torch.cat([pruned(part) for part in images.images.split(8)]).argmax(-1) == images.labels
    assert 0 < right.sum() < 16
    assert right.tolist() == result.correct.astype(bool).tolist()
