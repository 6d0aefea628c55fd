"""Ranking: the top is what is deployed, means are those of all pairs, and the figure shows what was stored."""

import io
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from rich.console import Console
from toy import Toy

from gradprobe.core import Noise, Stream, hard_topk
from gradprobe.errors import GradprobeError, UsageError
from gradprobe.models.similarity import cosines, ends_of, mean_cosine
from gradprobe.operators import registry
from gradprobe.plotting.style import save_figure
from gradprobe.plotting.token_ends import BOTTOM, TOP
from gradprobe.probes.contract import Ranking, Resources, Subject
from gradprobe.probes.ranking import RankingSettings
from gradprobe.probes.ranking.figure import figure, ranking_figure
from gradprobe.probes.ranking.measure import measure
from gradprobe.probes.ranking.result import RankingResult, over_seeds
from gradprobe.probes.ranking.view import AT_RANDOM, lines, meaning, table, verdict
from gradprobe.probes.retention import RetentionSettings
from gradprobe.probes.retention.measure import measure as retained
from gradprobe.store.results import Store

K, IMAGES = 4, 8
RECIPE = {"steps": 2, "batch_size": 4}


class Known(Toy):
    """The toy, of whose tokens some are known to matter, with a picture of 2 x 5 tokens."""

    def _batch(self, ids):
        batch = super()._batch(ids)
        return replace(batch, relevant=torch.stack([torch.arange(self.n_tokens) % (2 + i % 2) == 0 for i in ids]))

    def picture(self, seed):
        pixels = np.random.default_rng(seed).integers(0, 256, (16, 40, 3))
        return ((pixels / 255, (2, 5)),)


def asked(op="vpnoise", task=None, **settings):
    ranked = op.startswith("ranked:")
    operator = Ranking(op.removeprefix("ranked:")) if ranked else registry.build(op)
    given = ({"steps": 0} if ranked else RECIPE) | {"images": IMAGES} | settings
    subject = Subject(Known() if task is None else task, operator, K)
    return measure(subject, RankingSettings(**given), Resources(workers=1))


def pairs(tokens, ours, theirs):
    """Mean cosine over pairs of different tokens, one by one."""
    unit = [x / x.norm() for x in tokens]
    both = [(i, j) for i, j in itertools.product(ours, theirs) if i != j]
    return float(np.mean([float(unit[i] @ unit[j]) for i, j in both]))


# --- the numbers ---


@pytest.mark.parametrize("op", ["vpnoise", "ranked:norm", "ranked:random", "ranked:divprune"])
def test_means_and_shares_are_those_of_a_loop_over_pairs(op):
    task = Known()
    result = asked(op, task)
    (batch,) = task.batches(1, IMAGES, 0)
    scores = {
        "vpnoise": lambda: task.scorer(batch.tokens.patches).detach(),  # trained in place
        "ranked:norm": lambda: batch.tokens.patches.norm(dim=-1),
        "ranked:random": lambda: Noise(0, batch.ids).stream(Stream.RANKING).uniform((10,), like=batch.tokens.patches),
    }.get(op)
    for i, tokens in enumerate(batch.tokens.patches):
        if scores is None:
            order = np.argsort(-result.scores, kind="stable")
            if i:
                break
        else:
            order = np.argsort(-scores()[i].numpy(), kind="stable")
        top, bottom, n = order[:K], order[-K:], range(10)
        expected = [
            pairs(tokens, top, top),
            pairs(tokens, bottom, bottom),
            pairs(tokens, top, bottom),
            pairs(tokens, n, n),
        ]
        np.testing.assert_allclose(result.means[i], expected, atol=1e-6)
        matters = batch.relevant[i].numpy()
        np.testing.assert_allclose(result.relevant[i], [matters[top].mean(), matters[bottom].mean(), matters.mean()])
        if i == 0:
            assert result.ends.tolist() == [*top, *bottom]


def test_the_scorer_is_the_one_that_retention_trains():
    mine, other = Known(), Known()
    asked(task=mine, steps=3)
    settings = RetentionSettings(**RECIPE | {"steps": 3, "images": IMAGES})
    retained(Subject(other, registry.build("vpnoise"), K), settings, Resources(workers=1))
    fresh = Known().scorer.state_dict()
    for name, value in mine.scorer.state_dict().items():
        assert torch.equal(value, other.scorer.state_dict()[name])
    assert any(not torch.equal(value, fresh[name]) for name, value in mine.scorer.state_dict().items())


@pytest.mark.parametrize("k", [1, 3, 5])
def test_the_top_is_deployed_and_the_bottom_is_what_negated_scores_would_deploy(k):
    generator = torch.Generator().manual_seed(k)
    patches = torch.randn(6, 10, 4, generator=generator)
    scores = torch.randn(6, 10, generator=generator)
    ends = ends_of(scores, k)
    assert torch.equal(ends[:, :k].sort(1).values, hard_topk(patches, scores, k).index)
    assert torch.equal(ends[:, k:].sort(1).values, hard_topk(patches, -scores, k).index)
    ties = torch.zeros(1, 10)
    assert torch.equal(ends_of(ties, k)[:, :k], hard_topk(patches[:1], ties, k).index)


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e18])
def test_similarities_are_symmetric_cosines_with_ones_on_the_diagonal_whatever_the_length(scale):
    tokens = torch.randn(3, 9, 5, generator=torch.Generator().manual_seed(1)).double()
    index = torch.tensor([[0, 4, 2, 8]] * 3)
    similarity = cosines(tokens * scale, index)
    torch.testing.assert_close(similarity, similarity.mT, rtol=0, atol=1e-15)
    torch.testing.assert_close(similarity.diagonal(dim1=1, dim2=2), torch.ones(3, 4).double())
    torch.testing.assert_close(similarity, cosines(tokens, index))
    assert (similarity.abs() <= 1).all()
    every = mean_cosine(tokens * scale)
    across = mean_cosine(tokens[:, :4] * scale, tokens[:, 4:])
    for i in range(3):
        assert float(every[i]) == pytest.approx(pairs(tokens[i], range(9), range(9)))
        assert float(across[i]) == pytest.approx(pairs(tokens[i], range(4), range(4, 9)))


def test_a_single_token_has_no_pair():
    assert mean_cosine(torch.ones(1, 1, 3)).isnan().all()


SET = '''
from dataclasses import dataclass
from gradprobe.view import Kept

@dataclass(frozen=True)
class Middle:
    """Keeps a set of tokens and has no scores."""

    def __call__(self, view, k):
        import torch
        b, n = view.shape
        return Kept(torch.arange(n // 2 - k // 2, n // 2 - k // 2 + k).expand(b, k))
'''


def test_of_a_selector_without_scores_the_bottom_is_drawn_from_what_it_drops(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(SET)
    results = [asked(f"ranked:{file}:Middle", seed=seed) for seed in (0, 1, 2)]
    top = [3, 4, 5, 6]
    for result in results:
        assert result.ends[:K].tolist() == top and not result.scored
        assert len(set(result.ends[K:].tolist())) == K and not set(result.ends[K:].tolist()) & set(top)
    assert len({tuple(result.ends[K:]) for result in results}) > 1
    (line,) = lines([results[0].row()], None)
    assert AT_RANDOM in line
    assert results[0].question["op_code"]


# --- rows ---


def result_of(op="ranked:norm", seed=0, shift=0.2, images=40, data="pictures", steps=0, relevant=True):
    rng = np.random.default_rng([seed, images, len(op)])
    means = np.clip(rng.normal([0.3, 0.3 + shift, 0.1, 0.25], 0.05, (images, 4)), -1, 1).astype(np.float32)
    shares = rng.uniform(0, 1, (images, 3 if relevant else 0)).astype(np.float32)
    similarity = np.eye(2 * K, dtype=np.float16)
    return RankingResult(
        {"probe": "ranking", "op": op, "k": K, "images": images, "seed": seed, "steps": steps, "data": data},
        True, means, shares, np.arange(10, 0, -1).astype(np.float32),
        np.array([0, 1, 2, 3, 6, 7, 8, 9], np.int32), similarity,
        np.arange(10 * 4 * 3, dtype=np.uint8).reshape(10, 2, 2, 3), np.array([[2, 5]], np.int32),
        {"seconds": 1.0, "skipped": []},
    )  # fmt: skip


def test_of_one_seed_the_interval_is_over_images_and_paired():
    result = result_of()
    row = result.row()
    gaps = result.means[:, 1].astype(float) - result.means[:, 0]
    assert row["gap"] == pytest.approx(gaps.mean(), abs=1e-6)
    assert row["gap_high"] - row["gap"] == pytest.approx(2.0227 * gaps.std(ddof=1) / np.sqrt(40), rel=1e-3)
    assert row["held"] == np.mean(gaps > 0) and row["held_low"] < row["held"]
    assert verdict(row) == "the bottom is more redundant"
    assert verdict(result_of(shift=-0.2).row()) == "the top is more redundant"
    assert verdict(result_of(shift=0.0).row()) == "undecided"
    assert "of this one scorer" in verdict(result_of("lapsum+vpnoise", steps=2).row())


def test_seeds_of_a_plan_are_more_images_and_those_of_trainings_decide_from_five_on():
    plan = [result_of(seed=seed) for seed in range(3)]
    row = over_seeds(plan)
    assert row["gap"] == pytest.approx(np.mean([r.gaps.mean() for r in plan]), abs=1e-6)
    width, single = row["gap_high"] - row["gap_low"], plan[0].row()
    assert width < single["gap_high"] - single["gap_low"]
    assert over_seeds([replace(r, question={**r.question, "data": "folder:1"}) for r in plan])["gap_low"] is None
    trained = [result_of("lapsum+vpnoise", seed=seed, steps=2) for seed in range(5)]
    few, many = over_seeds(trained[:3]), over_seeds(trained)
    assert few["gap_low"] is None and verdict(few) == "undecided, 3 seeds (5 decide)"
    assert many["gap_low"] < many["gap"] < many["gap_high"] and len(many["gap_by_seed"]) == 5


def test_a_result_comes_back_from_its_file_and_wrong_shapes_are_refused(tmp_path):
    result = asked()
    again = Store(tmp_path).load(Store(tmp_path).save(result))
    for name in ("means", "relevant", "scores", "ends", "similarity", "cells", "grids"):
        ours, theirs = getattr(result, name), getattr(again, name)
        assert ours.dtype == theirs.dtype and np.array_equal(ours, theirs)
    assert again.question == result.question and again.scored is True
    with pytest.raises(GradprobeError, match="means of a ranking result"):
        replace(result, means=result.means[:-1])
    with pytest.raises(GradprobeError, match="cells of a ranking result"):
        replace(result, cells=result.cells[:-1])


def test_the_table_is_legible_and_says_what_its_columns_are():
    rows = [result_of().row(), result_of("lapsum+vpnoise", relevant=False, steps=2).row()]
    console = Console(file=io.StringIO(), width=80)
    console.print(table(rows))
    text = console.file.getvalue()
    assert "by norm" in text and "relevant" in text and "…" not in text
    assert all(word in meaning(rows) for word in ("top, bottom:", "any:", "relevant:"))
    assert ["above 0 in" in line for line in lines(rows, None)] == [True, True]


# --- what is refused ---


@pytest.mark.parametrize("k", [1, 6])
def test_ends_that_overlap_or_have_no_pair_are_refused(k):
    with pytest.raises(UsageError, match=rf"--k {k} is not possible.*--k 2 to --k 5"):
        measure(Subject(Toy(), registry.build("vpnoise"), k), RankingSettings(images=4), Resources())


def test_a_plan_inside_a_language_model_is_refused_with_another():
    with pytest.raises(UsageError, match=r"fastv@2 drops tokens inside.*such as divprune"):
        asked("ranked:fastv@2")
    with pytest.raises(UsageError, match="is not trained; give 0"):
        asked("ranked:norm", steps=5)


# --- the figure ---


def painted(axes):
    """Tokens of each colour on a picture, and the colours."""
    layers = [np.asarray(layer.get_array()) for layer in axes.images[1:]]
    for layer, colour in zip(layers, (TOP, BOTTOM), strict=True):
        assert (layer[layer[..., 3] > 0][:, :3] == to_rgb(colour)).all()
    return [np.flatnonzero(layer[..., 3]).tolist() for layer in layers]


def test_the_picture_is_the_one_that_the_task_shows_and_its_cells_are_the_tokens(tmp_path):
    result = asked()
    ((image, grid),) = result.pictures()
    ((shown, _),) = Known().picture(0)
    np.testing.assert_allclose(image, shown, atol=1e-9)
    drawn = figure([result], [result.row()])
    (picture,) = [child for axes in drawn.axes for child in axes.child_axes if child.images]
    assert painted(picture) == [sorted(result.ends[:K]), sorted(result.ends[K:])]
    assert grid == (2, 5)
    assert save_figure(drawn, tmp_path / "f.png").stat().st_size > 10_000


@pytest.mark.parametrize("count", [1, 7])
def test_every_operator_has_its_matrix_on_one_scale_and_its_row(count):
    results = [result_of(f"op{i}", seed=seed, relevant=i % 2 == 0) for i in range(count) for seed in (0, 1)]
    drawn = ranking_figure(results, "a title")
    matrices = [
        axes.images[0] for axes in drawn.axes if axes.images and axes.images[0].get_array().shape == (2 * K, 2 * K)
    ]
    assert len(matrices) == count and len({image.get_clim() for image in matrices}) == 1
    names = [[t.get_text() for t in axes.get_yticklabels()] for axes in drawn.axes]
    assert [f"op{i}" for i in range(count)] in names


def test_without_a_picture_the_similarities_are_drawn_alone():
    plain = replace(result_of(), cells=np.zeros((0, 8, 8, 3), np.uint8), grids=np.zeros((0, 2), np.int32))
    assert plain.pictures() == []
    assert not [child for axes in ranking_figure([plain]).axes for child in axes.child_axes if child.images]
    with pytest.raises(UsageError, match="no ranking to draw"):
        ranking_figure([])
