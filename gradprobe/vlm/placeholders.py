"""Placeholders of images in a model's texts, and texts that must not contain them."""

from dataclasses import dataclass
from typing import Any

_PICTURES = ("image", "img", "vision", "video")  # parts of names of special tokens


@dataclass(frozen=True)
class Placeholders:
    """Special tokens of a model that stand for images.

    A tokenizer makes them of their letters wherever they stand, and the model then misses an image for each.

    Attributes:
        image: Placeholder of an image in a prompt.
        others: Marks around it, placeholders of videos and the like.

    Example:
        >>> places = Placeholders("<image>", ("<video>",))
        >>> places.fault_of_text("a sign that says <image>"), places.fault_of_prompt("<image> What is it?")
        ("has the model's placeholder <image> in it", '')
    """

    image: str = "<image>"
    others: tuple[str, ...] = ()

    @classmethod
    def of(cls, processor: Any) -> "Placeholders":
        """Read them from a processor and its tokenizer.

        Args:
            processor: As ``AutoProcessor`` gives it; None: LLaVA's.
        """
        image = getattr(processor, "image_token", None) or "<image>"
        tokenizer = getattr(processor, "tokenizer", None)
        named = [getattr(owner, "video_token", None) for owner in (processor, tokenizer)]
        added = getattr(tokenizer, "added_tokens_decoder", {}).values()
        special = [str(token) for token in added if getattr(token, "special", True)]
        special += getattr(tokenizer, "all_special_tokens", ())
        pictures = [token for token in special if any(name in token.lower() for name in _PICTURES)]
        return cls(image, tuple(sorted({token for token in (*named, *pictures) if token} - {image})))

    def fault_of_text(self, text: str) -> str:
        """Name a placeholder in a caption or an answer, which must have none; empty: there is none."""
        return self._fault(text, (self.image, *self.others))

    def fault_of_prompt(self, text: str, images: int = 1) -> str:
        """Describe the fault of a prompt for some images; empty: none.

        A prompt without placeholders goes through the chat template; one with the placeholder of each image, and
        perhaps marks around them, is taken as it stands.
        """
        if self.image not in text:
            return self.fault_of_text(text)
        if (count := text.count(self.image)) != images:
            return f"has {count} times {self.image} for {images} image{'s' * (images != 1)}"
        return self._fault(text, [token for token in self.others if "video" in token.lower()])

    def _fault(self, text: str, tokens: Any) -> str:
        token = next((token for token in tokens if token in text), None)
        return "" if token is None else f"has the model's placeholder {token} in it"
