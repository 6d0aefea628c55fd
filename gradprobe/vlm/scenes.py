"""The embedded vision-language model ``scenes-vlm``: a small LLaVA that reads pictures of handwritten digits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradprobe.data.pictures import GRID, MEAN, PATCH, SIZE, STD
from gradprobe.data.pictures_text import IMAGE, WORDS
from gradprobe.errors import GradprobeError

if TYPE_CHECKING:
    from gradprobe.vlm.model import VLM

FOLDER = Path(__file__).parents[1] / "embedded" / "scenes_vlm"
WIDTH, LAYERS, HEADS = 128, 4, 4
PAD, START, END, NOTHING = "<pad>", "<s>", "</s>", "<nothing>"
CHAT = (  # how a question is asked
    "{% for message in messages %}{% for part in message['content'] %}"
    "{{ '<image> ' if part['type'] == 'image' else part['text'] + ' ' }}"
    "{% endfor %}{% endfor %}{{ 'answer :' if add_generation_prompt else '' }}"
)
VOCABULARY = (PAD, START, END, NOTHING, IMAGE, *WORDS)
ID = {word: i for i, word in enumerate(VOCABULARY)}


def load_scenes_vlm(folder: str | Path | None = None) -> VLM:
    """The embedded model with its processor, in float32 and evaluation mode, on the CPU.

    Args:
        folder: where its files are; None: those that come with gradprobe.

    Raises:
        GradprobeError: the files are not there.

    Example:
        >>> vlm = load_scenes_vlm()
        >>> vlm.dim
        128
    """
    from gradprobe.vlm.model import VLM

    where = FOLDER if folder is None else Path(folder)
    if not (where / "model.safetensors").is_file():
        raise GradprobeError(f"no model.safetensors in {where}; make it with gradprobe vlm train-scenes --out {where}")
    import torch

    from gradprobe.vlm.installed import transformers_module

    hf = transformers_module()
    with _without_bar(hf.utils.logging):  # it is there in a moment
        model = hf.LlavaForConditionalGeneration.from_pretrained(where, dtype=torch.float32, local_files_only=True)
    return VLM.of(
        model.eval(),
        hf.AutoProcessor.from_pretrained(where, local_files_only=True, trust_remote_code=False),
        "scenes-vlm",
    )


def scenes_vlm() -> Any:
    """The model with random weights: CLIP's tower and Llama, 128 wide and 4 layers deep each; 1.6 M parameters.

    Example:
        >>> model = scenes_vlm()
        >>> model.config.image_seq_length
        100
    """
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    vision = CLIPVisionConfig(
        hidden_size=WIDTH, intermediate_size=3 * WIDTH, projection_dim=WIDTH, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, image_size=SIZE, patch_size=PATCH, hidden_act="gelu",
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=len(VOCABULARY), hidden_size=WIDTH, intermediate_size=3 * WIDTH, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=HEADS, max_position_embeddings=512, tie_word_embeddings=True,
        pad_token_id=ID[PAD], bos_token_id=ID[START], eos_token_id=ID[END],
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=ID[IMAGE], image_seq_length=GRID * GRID,
        vision_feature_layer=-1, vision_feature_select_strategy="default", projector_hidden_act="gelu",
        tie_word_embeddings=True,
    )  # fmt: skip
    return LlavaForConditionalGeneration(config)


def scenes_processor() -> Any:
    """Words to numbers, one a word, and pictures to pixels: what turns an image and a prompt into the model's inputs.

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
        tokenizer_object=words, pad_token=PAD, bos_token=START, eos_token=END, unk_token=NOTHING,
        padding_side="left", additional_special_tokens=[IMAGE], clean_up_tokenization_spaces=False,
    )  # fmt: skip
    edge = {"height": SIZE, "width": SIZE}
    image = CLIPImageProcessor(size=edge, crop_size=edge, image_mean=[MEAN] * 3, image_std=[STD] * 3)
    # The tower's class token is counted, then left out again by "default": 100 visual tokens.
    return LlavaProcessor(
        image,
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT,
    )


@contextmanager
def _without_bar(logging: Any) -> Iterator[None]:
    """Transformers draws no progress bar inside; afterwards as found."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
