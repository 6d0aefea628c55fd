"""Ranking: similarity of the tokens that are kept, and of those that are ranked last."""

from dataclasses import dataclass

from gradprobe.probes.contract import Probe
from gradprobe.probes.recipe import RecipeSettings
from gradprobe.settings import setting

IMAGES = 200  # test images, unless another number is given


@dataclass(frozen=True, kw_only=True)
class RankingSettings(RecipeSettings):
    """Settings of the ranking probe: the recipe of the training and the number of test images."""

    images: int = setting(IMAGES, "Test images.", least=3)
    seed: int = setting(0, "Seeds, each with its own scorer, images and noise.", option="seeds")


PROBE = Probe(
    name="ranking",
    about="Compare how alike the K tokens kept are with how alike the K ranked last are (the paper's Fig. 5).",
    settings=RankingSettings,
    measure="gradprobe.probes.ranking.measure:measure",
    result="gradprobe.probes.ranking.result:RankingResult",
    view="gradprobe.probes.ranking.view",
    check="gradprobe.probes.ranking.measure:check",
    figure="gradprobe.probes.ranking.figure:figure",
    baseline="",
    workers=True,
    cites=("diffprune",),
)
