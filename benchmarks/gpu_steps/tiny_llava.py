"""Configuration of a LLaVA of two layers, for a rehearsal."""

from typing import Any

SCORER = "transformer:depth=1,width=32,heads=2"
_SIZE: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
IMAGE_TOKEN = 63


def config() -> Any:
    """Make the configuration: 16 visual tokens, a vocabulary of 64."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    return LlavaConfig(
        vision_config=CLIPVisionConfig(**_SIZE, patch_size=7, image_size=28),
        text_config=LlamaConfig(**_SIZE, vocab_size=64),
        image_token_index=IMAGE_TOKEN,
    )
