"""Images as an operator leaves them: the operator itself, applied to the pixels of their patches."""

from collections.abc import Sequence

import numpy as np
import torch
from timm.data import resolve_model_data_config
from torch import Tensor

from gradprobe.core import Noise, Selection, SelectionOperator, apply
from gradprobe.data.image_source import SceneSource
from gradprobe.data.images import Images
from gradprobe.data.pixels import displayed, to_images, to_patches
from gradprobe.data.scenes import MEAN, PATCH, STD
from gradprobe.errors import UsageError
from gradprobe.noise import HOST
from gradprobe.operators import registry
from gradprobe.probes.equivalence.measure import random_scores
from gradprobe.tasks import Classification

BLANK = 1.0  # white: where there is no token
Strip = tuple[str, list[tuple[str, np.ndarray]]]


def pictures_of(
    task: Classification,
    operators: Sequence[SelectionOperator],
    budgets: Sequence[int],
    *,
    images: int = 2,
    seed: int = 0,
) -> list[Strip]:
    """Draw the first images of a task as each operator leaves them at each K, with the scores of the probe.

    Args:
        task: whose images and patches these are.
        operators: a column each, after the unpruned image.
        budgets: K, a row each for every image.
        images: number of images.
        seed: of the order of images, the scores and the operators' noise.

    Raises:
        UsageError: the task has no patches of pixels, as that of a vision-language model.
    """
    if not isinstance(task, Classification):
        raise UsageError("--pictures shows patches of a --backbone model; leave it out with --task")
    batch = task.source.probe(0, images, seed)
    if isinstance(task.source, SceneSource):
        return scene_pictures(batch, operators, budgets, seed, task.generator)
    model = task.backbone.model
    config = resolve_model_data_config(model)
    height, width = model.patch_embed.patch_size
    mean, std = config["mean"], config["std"]
    return pictures(batch, operators, budgets, (height, width), mean, std, seed, task.generator)


def scene_pictures(
    images: Images, operators: Sequence[SelectionOperator], budgets: Sequence[int], seed: int, generator: str = HOST
) -> list[Strip]:
    """Draw the same of embedded scenes, which need no model."""
    return pictures(images, operators, budgets, (PATCH, PATCH), (MEAN,) * 3, (STD,) * 3, seed, generator)


def pictures(
    images: Images,
    operators: Sequence[SelectionOperator],
    budgets: Sequence[int],
    size: tuple[int, int],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    seed: int,
    generator: str = HOST,
) -> list[Strip]:
    """Each operator on patches of normalised pixels, ``(B, N, 3 h w)``, then turned back to colours.

    A token that is not sent on is white; one with a key bias fades into white as far as its attention weight
    ``exp(bias)`` falls.

    Returns:
        For each image and K a label and pictures ``(H, W, 3)`` in [0, 1] with their titles, the unpruned one first.
    """
    patches, noise = to_patches(images.images.cpu(), size), Noise(seed, images.ids, generator=generator)
    height, width = images.images.shape[-2:]
    scores = random_scores(noise, patches)

    def colours(tokens: Tensor) -> np.ndarray:
        return displayed(to_images(tokens, size, (height, width)), mean, std)

    columns: dict[int, list[tuple[str, np.ndarray]]] = {}
    for k in budgets:
        columns[k] = [("unpruned", colours(patches))]
        for operator in operators:
            name = registry.label(operator)
            with torch.no_grad():
                sent = apply(operator, patches, scores, k, noise, name)
                tokens, seen = placed(sent, patches)
            shade = to_images(seen[..., None].expand_as(patches), size, (height, width))
            opacity = shade.permute(0, 2, 3, 1).double().numpy()
            columns[k].append((name, opacity * colours(tokens) + (1 - opacity) * BLANK))
    return [
        (f"K = {k}", [(title, drawn[i]) for title, drawn in columns[k]])
        for i in range(len(images.ids))
        for k in budgets
    ]


def placed(sent: Selection, patches: Tensor) -> tuple[Tensor, Tensor]:
    """Spread a selection over all N patches: tokens ``(B, N, D)`` and their visibility ``(B, N)``.

    Seen is 1 for a token that is sent on, ``exp(key_bias)`` for one with a bias, 0 for one that is not there.
    """
    seen = torch.ones(sent.tokens.shape[:2]) if sent.key_bias is None else sent.key_bias.exp()
    if sent.index is None:
        return sent.tokens, seen
    tokens = torch.zeros_like(patches).scatter(1, sent.index[..., None].expand_as(sent.tokens), sent.tokens)
    return tokens, torch.zeros(patches.shape[:2]).scatter(1, sent.index, seen)
