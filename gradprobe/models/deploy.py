"""Deployment of a trained scorer: a vision transformer that runs on the K tokens it keeps."""

import torch
from torch import Tensor, nn

from gradprobe.budget import check_k
from gradprobe.core import Selection, hard_topk
from gradprobe.errors import UsageError
from gradprobe.models.backbones import Backbone
from gradprobe.models.scorer_file import Scorer
from gradprobe.models.wrappers import unwrapped
from gradprobe.ranges import plain


class Pruned(nn.Module):
    """Vision transformer that keeps K tokens an image after a layer; made by `prune`.

    Args:
        backbone: Transformer, split at the layer.
        scorer: Patches ``(B, N, D)`` -> scores ``(B, N)``.
        k: Tokens kept.
    """

    def __init__(self, backbone: Backbone, scorer: nn.Module, k: int):
        super().__init__()
        self.backbone, self.model, self.scorer, self.k = backbone, backbone.model, scorer, k

    def kept(self, images: Tensor) -> Tensor:
        """Return the indices of the kept patches, ``(B, K)`` ascending."""
        index = self._selection(self.backbone.embed(images).patches).index
        assert index is not None
        return index

    def forward(self, images: Tensor) -> Tensor:
        """Images ``(B, 3, H, W)`` -> logits ``(B, classes)``, without gradient."""
        tokens = self.backbone.embed(images)
        with torch.no_grad():
            return self.backbone.encode(tokens.prefix, self._selection(tokens.patches))

    def _selection(self, patches: Tensor) -> Selection:
        with torch.no_grad():
            return hard_topk(patches, self.scorer(patches), self.k)


def prune(model: nn.Module, scorer: nn.Module, k: int, layer: int | None = None) -> Pruned:
    """Return the model on the K tokens that a scorer ranks first, which is what `retention` measures.

    Args:
        model: Timm ``VisionTransformer``; shared, not copied, not changed.
        scorer: Scorer that `load_scorer` returned, or any module from patches ``(B, N, D)`` to scores ``(B, N)``.
        k: Tokens kept, 1..N.
        layer: Number of blocks before the selection; None: as the scorer was trained, else 0.

    Raises:
        UsageError: The model cannot be split, the scorer has another width, K is not possible, or hooks on the model
            change its output.

    Example:
        >>> import timm, torch
        >>> from gradprobe.models.scorers import MLP
        >>> vit = timm.create_model("deit_tiny_patch16_224", img_size=32, depth=2)
        >>> pruned = prune(vit, MLP().make(dim=192, seed=0), k=2)
        >>> pruned(torch.randn(1, 3, 32, 32)).shape, pruned.kept(torch.randn(1, 3, 32, 32)).shape
        (torch.Size([1, 1000]), torch.Size([1, 2]))
    """
    trained = unwrapped(scorer, "the scorer")
    metadata = trained.metadata if isinstance(trained, Scorer) else {}
    backbone = Backbone.of(model, metadata.get("layer", 0) if layer is None else layer)
    k = plain(k)
    check_k(k, backbone.n_tokens)
    backbone.check_whole()
    if metadata and metadata["dim"] != backbone.dim:
        home = metadata.get("backbone", metadata.get("model"))
        raise UsageError(
            f"the scorer reads tokens of width {metadata['dim']} (it was trained on {home}), the "
            f"{type(model).__name__} has width {backbone.dim}; give the model that it was trained on"
        )
    return Pruned(backbone, scorer, k)
