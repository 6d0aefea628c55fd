"""Equivalence: the same scores and images for all, the model's own accuracies, and pictures of what is done."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from toy import Toy

from gradprobe.core import Noise, Selection, Stream, top_k_mask
from gradprobe.data.image_source import SceneSource
from gradprobe.data.pixels import displayed, to_images, to_patches
from gradprobe.data.scenes import MEAN, STD
from gradprobe.errors import GradprobeError, UsageError
from gradprobe.operators import registry
from gradprobe.operators.temperature import at_temperature, temperature
from gradprobe.probes.contract import Resources, Subject, question_of
from gradprobe.probes.equivalence import PROBE, EquivalenceSettings
from gradprobe.probes.equivalence.measure import equivalence, random_scores
from gradprobe.probes.equivalence.pictures import pictures_of, scene_pictures
from gradprobe.probes.equivalence.result import EquivalenceResult, pooled
from gradprobe.probes.opened import UNUSED, OpenTasks, answered
from gradprobe.store.results import Store
from gradprobe.tasks import classification

build = registry.build


@pytest.fixture(scope="module")
def scenes():
    return classification("scenes", scorer=UNUSED)


# --- what is measured ---


@pytest.mark.parametrize("spec", ["hard", "hard+zero", "scale:tau=0.01", "vpnoise", "softtopk"])
def test_keeping_every_token_is_the_unpruned_model_exactly(scenes, spec):
    found = equivalence(scenes, build(spec), 196, images=16)
    images = [SceneSource().probe(start, 8, 0) for start in (0, 8)]
    logits = torch.cat([scenes.backbone.full(each.images) for each in images])
    labels = torch.cat([each.labels for each in images])
    ranks = (logits > logits.gather(1, labels[:, None])).sum(-1)
    losses = F.cross_entropy(logits, labels, reduction="none")
    np.testing.assert_array_equal(found.ranks, ranks)
    np.testing.assert_array_equal(found.losses, losses)
    assert found.row()["top1"] == float((ranks == 0).float().mean())


def test_it_is_what_one_image_after_the_other_gives():
    task, operator = Toy(), build("vpnoise:tau=0.3")
    found = equivalence(task, operator, 4, images=12, seed=3)
    for i in range(12):
        batch = task._batch([i])
        noise = Noise(3, [i])
        sent = operator(batch.tokens.patches, random_scores(noise, batch.tokens.patches), 4, noise=noise)
        assert found.ids[i] == i
        assert found.ranks[i] == task.ranks(sent, batch)
        assert found.losses[i] == pytest.approx(float(task.losses(sent, batch)), abs=1e-6)


@dataclass
class Spy:
    """Keeps everything and remembers the scores of each image."""

    def __post_init__(self):
        self.seen = {}

    def __call__(self, patches, scores, k, noise):
        self.seen |= {i: (row, noise) for i, row in zip(noise.ids, scores, strict=True)}
        return Selection(patches, torch.ones_like(scores))


def test_scores_are_the_same_for_every_operator_and_budget_and_gaussian():
    first, second, other = Spy(), Spy(), Spy()
    equivalence(Toy(), first, 3, images=48, seed=5)
    equivalence(Toy(), second, 7, images=24, seed=5)
    equivalence(Toy(), other, 3, images=24, seed=6)
    assert set(first.seen) == set(range(48))
    assert all(torch.equal(first.seen[i][0], row) for i, (row, _) in second.seen.items())
    assert not any(torch.equal(first.seen[i][0], row) for i, (row, _) in other.seen.items())
    every = torch.stack([row for row, _ in first.seen.values()])
    assert len(every.unique()) == every.numel()
    assert every.mean().abs() < 0.15
    assert every.std() == pytest.approx(1, abs=0.1)
    row, noise = first.seen[0]
    own = [noise.stream(i).normal((10,), like=every) for i in (Stream.RELAXATION, Stream.THROTTLE, Stream.SMOOTHING)]
    assert not any(torch.equal(row, numbers[list(noise.ids).index(0)]) for numbers in own)


def test_the_scorer_plays_no_part():
    one, other = Toy(), Toy(scorer=torch.nn.Sequential(torch.nn.Linear(5, 1), torch.nn.Flatten(-2)).double())
    a, b = (equivalence(task, build("vpnoise"), 4, images=8) for task in (one, other))
    np.testing.assert_array_equal(a.losses, b.losses)


@dataclass(frozen=True)
class WithScorer(Toy):
    @property
    def question(self):
        return {"backbone": "toy", "scorer": "mlp:width=7"}


def test_a_question_does_not_name_the_scorer():
    asked = question_of(
        PROBE, Subject(WithScorer(), build("vpnoise:tau=0.3"), 4), EquivalenceSettings(images=8, seed=2)
    )
    assert asked == {
        "probe": "equivalence", "op": "lapsum:tau=0.3+vpnoise", "k": 4, "images": 8, "seed": 2, "backbone": "toy"
    }  # fmt: skip


@pytest.mark.parametrize("images", [1, 7, 12, 40, 61])
def test_every_image_is_judged_once_with_any_number_of_workers(images):
    results = [equivalence(Toy(), build("vpnoise"), 4, images=images, workers=n) for n in (1, 3)]
    for found in results:
        assert found.ids.tolist() == list(range(images))
    np.testing.assert_array_equal(results[0].losses, results[1].losses)
    np.testing.assert_array_equal(results[0].ranks, results[1].ranks)


def test_soft_top_k_on_attention_becomes_hard_top_k(scenes):
    hard, soft = (equivalence(scenes, build(op), 60, images=16) for op in ("hard", "softtopk:tau=1e-5"))
    np.testing.assert_allclose(soft.losses, hard.losses, atol=1e-4)
    np.testing.assert_array_equal(soft.ranks, hard.ranks)


def test_a_loss_that_is_not_finite_names_its_image():
    with pytest.raises(GradprobeError, match=r"loss that is not finite for 1 of 8 .*image ids 5"):
        equivalence(Toy(poison=5), build("hard"), 4, images=8)


def test_torch_is_left_as_found():
    before, threads, gradients = torch.get_rng_state(), torch.get_num_threads(), torch.is_grad_enabled()
    equivalence(Toy(), build("vpnoise"), 4, images=16, workers=2)
    assert torch.equal(before, torch.get_rng_state())
    assert (threads, gradients) == (torch.get_num_threads(), torch.is_grad_enabled())


def test_progress_counts_images():
    told = []
    equivalence(Toy(), build("hard"), 4, images=20, progress=lambda *step: told.append(step))
    assert told[-1] == ("hard+gather, K = 4", 20, 20)
    assert [done for _, done, _ in told] == [5, 10, 15, 20]


@pytest.mark.parametrize(
    ("k", "options"), [(0, {}), (11, {}), (4, {"images": 0}), (4, {"seed": -1}), (4, {"workers": 0})]
)
def test_what_is_not_possible_is_refused(k, options):
    with pytest.raises(UsageError, match="possible"):
        equivalence(Toy(), build("hard"), k, **({"images": 8} | options))


def test_a_stored_question_is_answered_again_to_the_same_bytes(scenes, tmp_path):
    first = equivalence(scenes, build("vpnoise:tau=0.3"), 60, images=8)
    again = answered(first.question, {}, [Store(tmp_path / "again")], OpenTasks(), Resources(workers=1)).result
    assert again.question == first.question
    np.testing.assert_array_equal(again.losses, first.losses)
    loaded = Store(tmp_path).load(Store(tmp_path).save(first))
    assert (loaded.tokens, loaded.tau) == (196, 0.3)
    assert loaded.row() == first.row()
    with pytest.raises(GradprobeError, match="the question is about weights sha256:other"):
        answered(first.question | {"weights": "sha256:other"}, {}, [Store(tmp_path / "again")], OpenTasks())


# --- temperature ---


@pytest.mark.parametrize(
    ("spec", "tau", "sharp"),
    [
        ("vpnoise", 1.0, "lapsum:tau=0.01+vpnoise"),
        ("logistic:tau=0.2+mean", 0.2, "logistic:tau=0.01+mean"),
        ("hard+zero", None, "hard+zero"),
        ("gumbel-ste:backward=soft+gather", None, "gumbel-ste:backward=soft+gather"),
    ],
)
def test_temperature_is_that_of_the_weights(spec, tau, sharp):
    assert temperature(build(spec)) == tau
    assert registry.label(at_temperature(build(spec), 0.01)) == sharp


def test_a_whole_operator_has_a_temperature_if_it_has_a_field_of_that_name():
    @dataclass(frozen=True)
    class Mine:
        tau: float = 2.0

        def __call__(self, patches, scores, k, noise):
            return Selection(patches, scores)

    assert temperature(Mine()) == 2
    assert at_temperature(Mine(), 0.5) == Mine(0.5)
    assert temperature(lambda patches, scores, k, noise: None) is None


# --- rows and pools ---


def made(ranks, ids=None, op="hard+gather", data="a", k=5):
    ranks = np.array(ranks, np.int32)
    question = {"probe": "equivalence", "op": op, "k": k, "images": len(ranks), "seed": 0, "data": data}
    ids = np.arange(len(ranks)) if ids is None else np.array(ids)
    return EquivalenceResult(question, ranks, ranks / 2, ids.astype(np.int64), 10, None, {})


def test_top_1_and_top_5_are_counted_from_the_ranks():
    ours, base = made([0, 0, 4, 5, 9, 0], op="hard+zero"), made([0, 1, 5, 5, 0, 4])
    row = ours.row(baseline=base, margin=0.02)
    assert (row["top1"], row["top5"]) == (3 / 6, 4 / 6)
    assert (row["top1_gained"], row["top1_lost"], row["top5_gained"], row["top5_lost"]) == (2, 1, 1, 1)
    assert (row["keep"], row["images"], row["margin"]) == (0.5, 6, 0.02)
    assert ours.row()["top1_verdict"] is None
    assert ours.row().keys() == row.keys()


def test_a_baseline_on_other_images_or_budgets_is_refused():
    with pytest.raises(GradprobeError, match="same images"):
        made([0, 1]).row(baseline=made([0, 1], ids=[1, 0]))
    with pytest.raises(GradprobeError, match="same K: 5 and 6"):
        made([0, 1]).row(baseline=made([0, 1], k=6))


def test_pooling_is_measuring_all_images_at_once():
    a, b = made([0, 3, 7]), made([0, 0], ids=[8, 9], data="b")
    both = pooled([a, b])
    assert both.row() == made([0, 3, 7, 0, 0]).row()
    assert both.ids.tolist() == [0, 1, 2, 8, 9]
    assert (both.question["images"], both.question["data"]) == (5, "a + b")
    assert pooled([a]) is a


def test_only_other_images_of_the_same_question_are_pooled():
    with pytest.raises(GradprobeError, match=r"1 shared \(2\)"):
        pooled([made([0, 3, 7]), made([0, 0], ids=[2, 9], data="b")])
    for other in (made([0], ids=[9], op="hard+zero"), made([0], ids=[9], k=4)):
        with pytest.raises(GradprobeError, match="different questions"):
            pooled([made([0, 3, 7]), other])


def test_arrays_of_different_lengths_are_refused():
    with pytest.raises(GradprobeError, match="ranks"):
        replace(made([0, 1]), ranks=np.zeros(3, np.int32))


# --- pictures ---


def test_patches_are_cut_as_a_transformer_cuts_them():
    images = torch.randn(2, 3, 16, 24)
    cut = to_patches(images, (8, 4))
    expected = F.unfold(images, (8, 4), stride=(8, 4)).mT
    assert torch.equal(cut, expected)
    assert torch.equal(to_images(cut, (8, 4), (16, 24)), images)


def test_colours_are_those_of_the_file():
    plain = torch.rand(1, 3, 4, 4)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.1)
    normalised = (plain - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    np.testing.assert_allclose(displayed(normalised, mean, std), plain.permute(0, 2, 3, 1), atol=1e-6)
    assert displayed(normalised + 100, mean, std).max() == 1


def test_a_picture_shows_what_the_operator_does_to_each_patch():
    images = SceneSource().probe(0, 2, 0)
    operators = [build(op) for op in ("hard", "hard+zero", "vpnoise:tau=1e-6", "softtopk")]
    strips = scene_pictures(images, operators, [60, 196], 0)
    assert [label for label, _ in strips] == ["K = 60", "K = 196"] * 2
    patches = to_patches(images.images, (8, 8))
    scores = random_scores(Noise(0, images.ids), patches)
    kept = to_images(top_k_mask(scores, 60)[..., None].expand_as(patches), (8, 8), (112, 112))
    for i in range(2):
        mask = kept[i].permute(1, 2, 0).bool().numpy()
        drawn = dict(strips[2 * i][1])
        full = drawn["unpruned"]
        np.testing.assert_allclose(full, displayed(images.images, (MEAN,) * 3, (STD,) * 3)[i])
        np.testing.assert_array_equal(drawn["hard+gather"], np.where(mask, full, 1))
        np.testing.assert_allclose(drawn["hard+zero"], np.where(mask, full, MEAN), atol=1e-6)
        noised = drawn["lapsum:tau=1e-06+vpnoise"]
        np.testing.assert_array_equal(noised[mask], full[mask])
        assert (noised[~mask] != full[~mask]).mean() > 0.5
        faded = drawn["lapsum+attention"]
        assert ((faded >= full - 1e-9) & (faded <= 1)).all()  # between its colour and white
        assert (faded[mask] - full[mask]).mean() < (faded[~mask] - full[~mask]).mean()
        for title, picture in strips[2 * i + 1][1]:  # all kept
            np.testing.assert_allclose(picture, full, atol=1e-6, err_msg=title)


def test_a_picture_shows_the_tokens_that_the_probe_kept():
    task = classification("scenes", scorer=UNUSED, generator="philox")
    (batch,) = task.batches(1, 1, 0)
    kept = top_k_mask(random_scores(Noise(0, batch.ids, generator="philox"), batch.tokens.patches), 60)
    ((_, pictures),) = pictures_of(task, [build("hard")], [60], images=1)
    blank = (dict(pictures)["hard+gather"].reshape(14, 8, 14, 8, 3) == 1).all((1, 3, 4)).flatten()
    np.testing.assert_array_equal(blank, ~kept[0].bool().numpy())


def test_pictures_of_photographs_use_the_models_own_patches_and_colours(tmp_path):
    from PIL import Image

    for i in range(2):
        Image.new("RGB", (260, 300), (200, 40, 90)).save(tmp_path / f"{i}.png")
    task = classification(
        "deit_tiny_patch16_224", weights="none", data=str(tmp_path), loss="kl", scorer=UNUSED
    )  # fmt: skip
    strips = pictures_of(task, [build("hard")], [49], images=1)
    full, kept = (picture for _, picture in strips[0][1])
    assert full.shape == (224, 224, 3)
    np.testing.assert_allclose(full, np.broadcast_to(np.array([200, 40, 90]) / 255, full.shape), atol=0.01)
    assert (kept.reshape(14, 16, 14, 16, 3) == 1).all((1, 3, 4)).sum() == 196 - 49


# --- the real thing ---


@pytest.mark.real
def test_noise_at_temperature_one_is_far_from_hard_pruning_on_a_real_transformer(assets):
    task = classification(
        "deit_tiny_patch16_224", weights=str(assets / "deit_tiny_patch16_224" / "model.safetensors"),
        data=str(assets / "imagenet-sample"), scorer=UNUSED,
    )  # fmt: skip
    hard, soft = (equivalence(task, build(op), 98, images=32) for op in ("hard", "vpnoise"))
    row = soft.row(baseline=hard)
    assert 0.5 < hard.row()["top1"] < 0.9
    assert row["top1_verdict"] == "different"
    assert row["top1_difference_high"] < -0.2
