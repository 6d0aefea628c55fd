"""Shape and processor of the embedded model ``scenes-vlm``: a small LLaVA that reads pictures of handwritten digits."""

from pathlib import Path
from typing import Any

from gradprobe.data.pictures import GRID, MEAN, PATCH, SIZE, STD
from gradprobe.data.pictures_text import IMAGE, WORDS

SCENES = "scenes-vlm"
FOLDER = Path(__file__).parents[1] / "embedded" / "scenes_vlm"
WIDTH, LAYERS, HEADS = 128, 4, 4
PAD, START, END, NOTHING = "<pad>", "<s>", "</s>", "<nothing>"
CHAT = (  # template of a question
    "{% for message in messages %}{% for part in message['content'] %}"
    "{{ '<image> ' if part['type'] == 'image' else part['text'] + ' ' }}"
    "{% endfor %}{% endfor %}{{ 'answer :' if add_generation_prompt else '' }}"
)
VOCABULARY = (PAD, START, END, NOTHING, IMAGE, *WORDS)
ID = {word: i for i, word in enumerate(VOCABULARY)}


def scenes_vlm() -> Any:
    """Make the model with random weights: CLIP's tower and Llama, 128 wide and 4 layers deep each; 1.6 M parameters.

    Example:
        >>> model = scenes_vlm()
        >>> model.config.image_seq_length
        100
    """
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    vision = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=3 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        image_size=SIZE,
        patch_size=PATCH,
        hidden_act="gelu",
    )
    text = LlamaConfig(
        vocab_size=len(VOCABULARY), hidden_size=WIDTH, intermediate_size=3 * WIDTH, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=HEADS, max_position_embeddings=512, tie_word_embeddings=True,
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


def scenes_processor() -> Any:
    """Make the processor: one token a word, and pictures to pixels.

    Example:
        >>> scenes_processor().tokenizer.tokenize("is there a red seven ?")
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
