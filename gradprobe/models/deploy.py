"""Deployment: a trained scorer from its file, and a vision transformer that runs on the K tokens it keeps."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from gradprobe.core import check_k, hard_topk
from gradprobe.errors import GradprobeError, UsageError
from gradprobe.files import atomic_write, open_regular
from gradprobe.models.backbones import Backbone
from gradprobe.models.wrappers import unwrapped
from gradprobe.operators.registry import check_trusted, part


class Scorer(nn.Module):
    """A trained scorer and what it was trained for.

    Args:
        network: patches ``(B, N, D)`` -> scores ``(B, N)``.
        about: the question of its training: ``scorer``, ``backbone``, ``layer``, ``k``, ``op``, and ``dim``, the width
            of the tokens that it reads.
    """

    def __init__(self, network: nn.Module, about: Mapping[str, Any]):
        super().__init__()
        self.network, self.about = network, dict(about)

    def forward(self, patches: Tensor) -> Tensor:
        """Scores ``(B, N)``; higher is more important."""
        return self.network(patches)


class Pruned(nn.Module):
    """A vision transformer that goes on with K tokens an image after a layer; made by `prune`.

    Args:
        backbone: the transformer, split at the layer.
        scorer: patches ``(B, N, D)`` -> scores ``(B, N)``.
        k: tokens kept.
    """

    def __init__(self, backbone: Backbone, scorer: nn.Module, k: int):
        super().__init__()
        self.backbone, self.model, self.scorer, self.k = backbone, backbone.model, scorer, k

    def kept(self, images: Tensor) -> Tensor:
        """Which patches are kept, ``(B, K)`` ascending."""
        tokens = self.backbone.embed(images)
        index = hard_topk(tokens.patches, self._scores(tokens.patches), self.k).index
        assert index is not None
        return index

    def forward(self, images: Tensor) -> Tensor:
        """Images ``(B, 3, H, W)`` -> logits ``(B, classes)``, without gradient."""
        tokens = self.backbone.embed(images)
        with torch.no_grad():
            return self.backbone.encode(tokens.prefix, hard_topk(tokens.patches, self._scores(tokens.patches), self.k))

    def _scores(self, patches: Tensor) -> Tensor:
        with torch.no_grad():
            return self.scorer(patches)


def prune(model: nn.Module, scorer: nn.Module, k: int, layer: int | None = None) -> Pruned:
    """The model on the K tokens that a scorer ranks first: what is deployed, and what `retention` measures.

    Args:
        model: a timm ``VisionTransformer``; shared, not copied, not changed.
        scorer: as `load_scorer` gives it, or any module from patches ``(B, N, D)`` to scores ``(B, N)``.
        k: tokens kept, 1..N.
        layer: how many blocks come before; None: where the scorer was trained, else 0.

    Raises:
        UsageError: the model cannot be split, the scorer is of another width, or K is not possible.

    Example:
        >>> import timm, torch
        >>> from gradprobe.models.scorers import MLP
        >>> vit = timm.create_model("deit_tiny_patch16_224", img_size=32, depth=2)
        >>> pruned = prune(vit, MLP().make(dim=192, seed=0), k=2)
        >>> pruned(torch.randn(1, 3, 32, 32)).shape, pruned.kept(torch.randn(1, 3, 32, 32)).shape
        (torch.Size([1, 1000]), torch.Size([1, 2]))
    """
    trained = unwrapped(scorer, "the scorer")
    about = trained.about if isinstance(trained, Scorer) else {}
    backbone = Backbone.of(model, about.get("layer", 0) if layer is None else layer)
    check_k(k, backbone.n_tokens)
    if about and about["dim"] != backbone.dim:
        raise UsageError(
            f"the scorer reads tokens of width {about['dim']} (it was trained on {about.get('backbone')}), the "
            f"{type(model).__name__} has width {backbone.dim}; give the model that it was trained on"
        )
    return Pruned(backbone, scorer, k)


def save_scorer(scorer: nn.Module, folder: Path | str, about: Mapping[str, Any], dim: int) -> Path:
    """Write ``scorer.safetensors`` and ``scorer.json`` into a folder, which is made if need be.

    Args:
        scorer: as ``about["scorer"]`` makes it.
        folder: where.
        about: the question of its training.
        dim: D, the width of the tokens that it reads.

    Raises:
        GradprobeError: the folder cannot be written.
    """
    folder = Path(folder)
    state = {name: value.detach().cpu().contiguous() for name, value in scorer.state_dict().items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write(folder / "scorer.safetensors", save(state))
        atomic_write(
            folder / "scorer.json", (json.dumps({**about, "dim": dim}, indent=2, sort_keys=True) + "\n").encode()
        )
    except OSError as error:
        raise GradprobeError(f"cannot write to {folder}: {error.strerror or error}; name another folder") from None
    return folder / "scorer.safetensors"


def load_scorer(path: Path | str, trust: Collection[Path | str] = ()) -> Scorer:
    """A trained scorer, in evaluation mode, on the CPU.

    Args:
        path: the folder of a stored retention result, or its ``scorer.safetensors``.
        trust: Python files that its ``scorer.json`` may name and that may run.

    Raises:
        UsageError: there is no scorer, or it names Python code that is not trusted.
        GradprobeError: its files cannot be read.
    """
    path = Path(path)
    path = path / "scorer.safetensors" if path.is_dir() else path
    if not path.is_file():
        raise UsageError(
            f"there is no scorer at {path}; name the folder of a retention result (gradprobe list), or train one: "
            "gradprobe retention --op vpnoise --k 20"
        )
    try:
        state = load(path.read_bytes())
        with open_regular(path.with_suffix(".json")) as file:
            about = json.loads(file.read())
        check_trusted("scorer", about["scorer"], path.with_suffix(".json"), trust)
        network = part("scorer", about["scorer"]).make(about["dim"], 0).to(next(iter(state.values())).dtype)
        network.load_state_dict(state)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, StopIteration, RuntimeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise GradprobeError(
            f"{path} and its .json are no scorer that can be read ({reason}); train it again"
        ) from None
    return Scorer(network.requires_grad_(False), about).eval()
