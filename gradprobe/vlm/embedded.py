"""Shapes and processor of the embedded models: small LLaVAs that read pictures of handwritten digits."""

from dataclasses import dataclass
from typing import Any

from gradprobe.data.pictures import GRID, MEAN, PATCH, SIZE, STD
from gradprobe.data.pictures_text import IMAGE, WORDS
from gradprobe.embedded.vlms import PHOTOS, SCENES

PAD, START, END, NOTHING = "<pad>", "<s>", "</s>", "<nothing>"
CHAT = (  # template of a question
    "{% for message in messages %}{% for part in message['content'] %}"
    "{{ '<image> ' if part['type'] == 'image' else part['text'] + ' ' }}"
    "{% endfor %}{% endfor %}{{ 'answer :' if add_generation_prompt else '' }}"
)
VOCABULARY = (PAD, START, END, NOTHING, IMAGE, *WORDS)
ID = {word: i for i, word in enumerate(VOCABULARY)}


@dataclass(frozen=True)
class Shape:
    """Shape of an embedded model: CLIP's tower and Llama.

    Attributes:
        width: Width of both.
        vision_layers: Layers of the tower.
        text_layers: Layers of the language model.
        heads: Attention heads of both.
        expansion: Width of the hidden layers of feed-forward networks, in widths.
    """

    width: int = 128
    vision_layers: int = 4
    text_layers: int = 4
    heads: int = 4
    expansion: int = 3


SHAPES = {  # 1.6 M parameters, then 1.6, 0.5 and 5 M
    SCENES: Shape(),
    PHOTOS: Shape(),
    f"{PHOTOS}-small": Shape(width=96, vision_layers=3, text_layers=3, expansion=2),
    f"{PHOTOS}-large": Shape(width=192, vision_layers=6, text_layers=6, heads=6),
}


def blank_vlm(name: str = SCENES) -> Any:
    """Make an embedded model with random weights.

    Args:
        name: Key of `SHAPES`.

    Example:
        >>> model = blank_vlm()
        >>> model.config.image_seq_length
        100
    """
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    shape = SHAPES[name]
    vision = CLIPVisionConfig(
        hidden_size=shape.width,
        intermediate_size=shape.expansion * shape.width,
        projection_dim=shape.width,
        num_hidden_layers=shape.vision_layers,
        num_attention_heads=shape.heads,
        image_size=SIZE,
        patch_size=PATCH,
        hidden_act="gelu",
    )
    text = LlamaConfig(
        vocab_size=len(VOCABULARY), hidden_size=shape.width, intermediate_size=shape.expansion * shape.width,
        num_hidden_layers=shape.text_layers, num_attention_heads=shape.heads, num_key_value_heads=shape.heads,
        max_position_embeddings=512, tie_word_embeddings=True,
        pad_token_id=ID[PAD], bos_token_id=ID[START], eos_token_id=ID[END],
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=ID[IMAGE],
        image_seq_length=GRID * GRID,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        projector_hidden_act="gelu",
        tie_word_embeddings=True,
    )
    return LlavaForConditionalGeneration(config)


def digits_processor() -> Any:
    """Make the processor: one token a word, and pictures to pixels.

    Example:
        >>> digits_processor().tokenizer.tokenize("is there a red seven ?")
        ['is', 'there', 'a', 'red', 'seven', '?']
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import CLIPImageProcessor, LlavaProcessor, PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel(ID, unk_token=NOTHING))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(single=f"{START} $A", special_tokens=[(START, ID[START])])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token=PAD,
        bos_token=START,
        eos_token=END,
        unk_token=NOTHING,
        padding_side="left",
        additional_special_tokens=[IMAGE],
        clean_up_tokenization_spaces=False,
    )
    edge = {"height": SIZE, "width": SIZE}
    image = CLIPImageProcessor(size=edge, crop_size=edge, image_mean=[MEAN] * 3, image_std=[STD] * 3)
    return LlavaProcessor(  # "default" drops the tower's class token after it was counted: 100 visual tokens
        image,
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT,
    )
