"""Refusals of selectors: what a model lacks, fields that mean nothing, numbers that are not finite."""

import re

import pytest
import torch
from views import images, tiled

from gradprobe.errors import GradprobeError, UsageError
from gradprobe.operators import registry
from gradprobe.selectors.hired import HiRED
from gradprobe.selectors.holov import HoloV
from gradprobe.selectors.visionzip import VisionZip
from gradprobe.selectors.zoo import Zoo
from gradprobe.view import Tower, TowerLayer, Unavailable

MADE = images()


def without_class_token():
    one = torch.randn(3, 24, 8)
    layer = TowerLayer(one, one, heads=2, prefix=0, class_token=False)
    return Tower(layer, layer)


@pytest.mark.parametrize("spec", ["class-attention", "visionzip", "holov", "prunesid", "hired"])
def test_the_class_token_is_needed(spec):
    with pytest.raises(Unavailable, match="no class token"):
        registry.part("selector", spec)(MADE.view(make_tower=without_class_token), 3)


@pytest.mark.parametrize("spec", ["mean-attention", "visionzip:query=mean", "holov:query=mean", "prunesid:query=mean"])
def test_the_mean_attention_needs_no_class_token(spec):
    kept = registry.part("selector", spec)(MADE.view(make_tower=without_class_token), 3)
    assert kept.index.shape == (3, 3)
    with pytest.raises(Unavailable, match="attention of this vision tower"):
        registry.part("selector", spec)(MADE.view(make_tower=None), 3)


@pytest.mark.parametrize(
    ("spec", "changes", "message"),
    [
        ("zoo", {"projector": None}, "needs a projector"),
        ("zoo:exact", {"projector": None}, "needs a projector"),
        ("zoo:exact", {"projector": torch.tanh}, "an activation and a linear layer, as LLaVA and LLaVA-NeXT"),
        ("cdpruner", {"make_words": None}, "no text"),
        ("zoo", {"given": None}, "before the projector are not seen"),
        ("visionzip", {"given": None}, "before the projector are not seen"),
        ("prunesid", {"given": None}, "before the projector are not seen"),
    ],
)
def test_what_is_needed_is_named(spec, changes, message):
    with pytest.raises(Unavailable, match=message):
        registry.part("selector", spec)(MADE.view(**changes), 3)


@pytest.mark.parametrize("grids", [(), ((8, 8),), ((4, 4), (6, 4), (6, 4)), ((4, 4), (5, 8))])
def test_tiles_of_an_unknown_grid_are_refused(grids):
    with pytest.raises(Unavailable, match=f"an overview and a mosaic.*{'no known size' if not grids else '8|4'}"):
        HiRED()(tiled().view(grids=grids), 5)


@pytest.mark.parametrize(
    "spec",
    [
        "visionzip:query=cls", "holov:query=all", "prunesid:query=x", "visionzip:context=1", "visionzip:context=-0.1",
        "holov:crops=0", "holov:variety=-1", "holov:variety=nan", "hired:alpha=1.1", "hired:alpha=nan", "zoo:draws=0",
        "zoo:step=0", "zoo:exact=maybe", "divprune:k=3",
    ],
)  # fmt: skip
def test_fields_that_mean_nothing_are_refused(spec):
    with pytest.raises(UsageError, match=re.escape(spec.partition(":")[0])):
        registry.part("selector", spec)


@pytest.mark.parametrize("make", [VisionZip, HoloV])
def test_a_query_is_checked_in_python_too(make):
    with pytest.raises(UsageError, match="did you mean 'class'"):
        make(query="clas")


@pytest.mark.parametrize("spec", ["divprune", "zoo", "zoo:exact", "prunesid", "cdpruner", "holov:variety=1"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_features_that_are_not_finite_are_refused(spec, value):
    broken = MADE.tokens.clone()
    broken[1, 4, 2] = value
    with pytest.raises(GradprobeError, match="image 2 of 3"):
        registry.part("selector", spec)(MADE.view(given=broken), 3)


@pytest.mark.parametrize("spec", ["class-attention", "visionzip", "holov", "prunesid", "hired"])
def test_attention_that_is_not_finite_is_refused(spec):
    def broken():
        layer = TowerLayer(torch.full((3, 25, 8), torch.nan), torch.randn(3, 25, 8), heads=2, prefix=1)
        return Tower(layer, layer)

    with pytest.raises(GradprobeError, match="NaN"):
        registry.part("selector", spec)(MADE.view(make_tower=broken), 3)


def test_the_noise_of_zoo_belongs_to_the_image_and_the_seed():
    one, other = (MADE.view(noise=MADE.view().noise.stream(i)) for i in (0, 1))
    with torch.no_grad():
        assert torch.equal(Zoo(draws=3).sensitivities(one), Zoo(draws=3).sensitivities(MADE.view()))
        assert not torch.equal(Zoo(draws=3).sensitivities(one), Zoo(draws=3).sensitivities(other))
