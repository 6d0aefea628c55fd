"""Placeholders of pictures in a model's texts, and texts that must not contain them."""

from dataclasses import dataclass
from typing import Any

_PICTURES = ("image", "img", "vision", "video")  # in the names of a tokenizer's special tokens


@dataclass(frozen=True)
class Placeholders:
    """The special tokens of a model that stand for pictures.

    A tokenizer makes them of their letters wherever they stand, and the model then misses a picture for each.

    Attributes:
        image: the placeholder of a picture in a prompt.
        others: marks around it, placeholders of videos and the like.

    Example:
        >>> places = Placeholders("<image>", ("<video>",))
        >>> places.fault_of_text("a sign that says <image>"), places.fault_of_prompt("<image> What is it?")
        ("has the model's placeholder <image> in it", '')
    """

    image: str = "<image>"
    others: tuple[str, ...] = ()

    @classmethod
    def of(cls, processor: Any) -> "Placeholders":
        """Read them off a processor and its tokenizer; without a processor: LLaVA's.

        Args:
            processor: as ``AutoProcessor`` gives it, or None.
        """
        image = getattr(processor, "image_token", None) or "<image>"
        tokenizer = getattr(processor, "tokenizer", None)
        named = [getattr(owner, "video_token", None) for owner in (processor, tokenizer)]
        added = getattr(tokenizer, "added_tokens_decoder", {}).values()
        special = [
            *getattr(tokenizer, "all_special_tokens", ()),
            *(str(x) for x in added if getattr(x, "special", True)),
        ]
        pictures = [token for token in special if any(name in token.lower() for name in _PICTURES)]
        return cls(image, tuple(sorted({token for token in (*named, *pictures) if token} - {image})))

    def fault_of_text(self, text: str) -> str:
        """Say which of them stands in a caption or an answer; empty: none."""
        found = next((token for token in (self.image, *self.others) if token in text), None)
        return "" if found is None else f"has the model's placeholder {found} in it"

    def fault_of_prompt(self, text: str, images: int = 1) -> str:
        """Say what is wrong with the placeholders of a prompt for some images; empty: nothing.

        A prompt without any goes through the chat template; one with the placeholder of each image, and perhaps marks
        around them, is taken as it stands.
        """
        if self.image not in text:
            return self.fault_of_text(text)
        if (count := text.count(self.image)) != images:
            return f"has {count} times {self.image} for {images} image{'s' * (images != 1)}"
        video = next((token for token in self.others if "video" in token.lower() and token in text), None)
        return "" if video is None else f"has the model's placeholder {video} in it"
