"""The ranking probe on every family: the pictures that its tokens cover, and the same ends as `gradprobe vlm show`."""

import numpy as np
import pytest
from captioned import SIZES, captioned, with_processor
from PIL import Image
from tiny_vlms import over

from gradprobe.errors import UsageError
from gradprobe.probes.contract import Ranking, Resources, Subject
from gradprobe.probes.ranking import RankingSettings
from gradprobe.probes.ranking.figure import ranking_figure
from gradprobe.probes.ranking.measure import measure
from gradprobe.vlm.captions import open_captions
from gradprobe.vlm.ranking import ranking
from gradprobe.vlm.task import task_of
from gradprobe.vlm.vision_features import inputs_of

K = 3


@over()
def test_tokens_cover_the_pictures_and_their_ends_are_those_that_show_draws(family, tmp_path):
    source = open_captions(captioned(tmp_path, 12, SIZES[1:2]), held_out=5)
    names = {"backbone": "tiny", "weights": family, "data": str(tmp_path), "dtype": "float32"}
    task = task_of(with_processor(family), source, names, scorer="mlp:width=8", denoiser="none", seed=0)
    result = measure(Subject(task, Ranking("norm"), K), RankingSettings(steps=0, images=5), Resources(workers=1))
    shown = ranking(task.vlm, inputs_of(task.vlm, source.probe(0, 1, 0)), K)
    assert result.ends.tolist() == [*shown.top, *shown.bottom]
    np.testing.assert_allclose(result.similarity, shown.similarity, atol=1e-3)
    assert [result.means[0, i] for i in range(3)] == pytest.approx(list(shown.means().values()), abs=1e-5)
    assert result.grids.tolist() == [list(view.grid) for view in shown.views] and not result.relevant.size
    for (image, (rows, columns)), view in zip(result.pictures(), shown.views, strict=True):
        pixels = Image.fromarray((255 * view.image).round().astype(np.uint8))
        small = pixels.resize((8 * columns, 8 * rows), Image.Resampling.BOX)
        np.testing.assert_allclose(image * 255, small, atol=1e-9)
    places = [child for axes in ranking_figure([result]).axes for child in axes.child_axes if child.images]
    assert len(places) == len(shown.views)
    painted = sum(int((np.asarray(place.images[1].get_array())[..., 3] > 0).sum()) for place in places)
    assert painted == K


def test_images_with_different_numbers_of_tokens_are_refused(tmp_path):
    source = open_captions(captioned(tmp_path, 12, SIZES[:2]), held_out=5)
    names = {"backbone": "tiny", "weights": "0", "data": str(tmp_path), "dtype": "float32"}
    task = task_of(with_processor("qwen2_5_vl"), source, names, scorer="mlp:width=8", denoiser="none", seed=0)
    with pytest.raises(UsageError, match="same number for all"):
        measure(Subject(task, Ranking("norm"), K), RankingSettings(steps=0, images=5), Resources(workers=1))
