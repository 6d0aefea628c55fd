"""LLaVA-NeXT: the whole picture and its tiles; what is padding in the tiles is cut away, and lines end in a newline."""

from typing import Any

from torch import Tensor

from gradprobe.vlm.families.llava import Llava


class LlavaNext(Llava):
    """``LlavaNextForConditionalGeneration``: N differs with the picture's size and counts the tokens of all its tiles.

    A newline embedding ends each line of the tiles; it is no visual token and is never pruned.

    Source: Liu et al., LLaVA-NeXT, 2024 (any resolution).
    """

    name = "llava_next"

    def newline(self, model: Any) -> Tensor:
        """The learned newline, already of the width of the language model."""
        return model.model.image_newline
