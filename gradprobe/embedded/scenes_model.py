"""Embedded models: a small vision transformer that classifies scenes by their red digit, with weights for two kinds.

Importing this module imports no torch, so that the path and the hash of the weights are available quickly.
"""

from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from gradprobe.errors import GradprobeError
from gradprobe.files import open_regular

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

SCENES, PHOTOS = "scenes", "photos"  # on black, and on crops of photographs, where operators differ
MODELS = {name: Path(__file__).with_name(f"{name}.safetensors") for name in (SCENES, PHOTOS)}
WEIGHTS = MODELS[SCENES]
CARD = WEIGHTS.with_suffix(".json")


def scenes_model() -> "VisionTransformer":
    """Return the untrained model: 112 px, patch 8, N = 196, width 128, 4 blocks, 4 heads, 10 classes, 1 M parameters.

    It is a plain timm ``VisionTransformer`` with a convolutional patch embedding; its initial weights are drawn from
    torch's global generator.

    Example:
        >>> scenes_model().pos_embed.shape
        torch.Size([1, 197, 128])
    """
    from timm.models.vision_transformer import VisionTransformer

    from gradprobe.embedded.conv_stem import ConvStem

    return VisionTransformer(
        img_size=112, patch_size=8, embed_dim=128, depth=4, num_heads=4, num_classes=10, embed_layer=ConvStem
    )


def load_scenes_model(weights: Path = WEIGHTS) -> "VisionTransformer":
    """Return the trained model in evaluation mode, float32, on the CPU; torch's random state is restored.

    Args:
        weights: A safetensors file written by ``gradprobe train-scenes``, by default the one for plain scenes.

    Raises:
        GradprobeError: The file is missing, unreadable, or of another model.

    Example:
        >>> load_scenes_model().training
        False
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    data = _read(weights)
    try:
        state = {name: tensor.float() for name, tensor in load(data).items()}
    except (SafetensorError, ValueError, KeyError) as error:
        raise GradprobeError(f"{weights} is not a readable safetensors file ({error}); {_remedy(weights)}") from None
    with torch.random.fork_rng(devices=[]):
        model = scenes_model()
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:160]
        raise GradprobeError(f"{weights} holds the weights of another model ({reason}); {_remedy(weights)}") from None
    return model.eval()


def scenes_sha256(weights: Path = WEIGHTS) -> str:
    """Return the SHA-256 of the weights file in hex, which identifies the model in stored results.

    Raises:
        GradprobeError: The file is missing.

    Example:
        >>> len(scenes_sha256())
        64
    """
    return sha256(_read(weights)).hexdigest()


def _remedy(weights: Path) -> str:
    if Path(weights).name == MODELS[PHOTOS].name:
        command = f"gradprobe train-scenes --pictures {PHOTOS} --out {WEIGHTS.parent}"
        return f"these weights do not come with gradprobe yet; make them with: {command}"
    return f"install gradprobe again, or make the weights with: gradprobe train-scenes --out {WEIGHTS.parent}"


def _read(weights: Path) -> bytes:
    try:
        with open_regular(Path(weights)) as file:
            return file.read()
    except OSError as error:
        raise GradprobeError(
            f"cannot read the scenes weights {weights} ({error.strerror}); {_remedy(weights)}"
        ) from None
