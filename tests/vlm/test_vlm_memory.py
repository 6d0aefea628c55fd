"""Images that a language model reads at a time: 8 on a CPU, on a GPU by what its layers keep."""

from types import SimpleNamespace

import pytest
import torch
from kept import kept_for_backward

from gradprobe.vlm.training.memory import LAYER_BYTES, memory_advice, rows_of

transformers = pytest.importorskip("transformers", reason="no transformers; type: pip install gradprobe[vlm]")
GPU = torch.device("cuda", 0)


def batch(length):
    prompt = SimpleNamespace(input_ids=torch.zeros(2, length))
    tokens = SimpleNamespace(patches=torch.empty(2, 576, 1024))
    return SimpleNamespace(tokens=tokens, target=SimpleNamespace(caption=SimpleNamespace(prompt=prompt)))


def llava(dtype, device):
    """LLaVA-1.5-7B without its numbers."""
    with torch.device("meta"):
        text = transformers.LlamaConfig(intermediate_size=11008)
        config = transformers.LlavaConfig(text_config=text, vision_config=transformers.CLIPVisionConfig())
        model = transformers.LlavaForConditionalGeneration(config).to(dtype)
    return SimpleNamespace(model=model, device=device)


def test_a_7b_model_reads_as_many_as_fit(free):
    half, whole = (llava(dtype, GPU) for dtype in (torch.bfloat16, torch.float32))
    free(64e9)
    assert rows_of(half, [batch(640)]) == 8 and rows_of(whole, [batch(640)]) == 4
    assert rows_of(half, [batch(640), batch(3000)]) == 2  # the longest decides
    free(10e9)
    assert rows_of(half, [batch(640)]) == 1
    assert rows_of(llava(torch.bfloat16, torch.device("cpu")), [batch(640)]) == 8


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_estimate_is_what_frozen_layers_keep(dtype):
    sizes = []
    for layers in (1, 2):
        config = transformers.LlamaConfig(
            hidden_size=64, intermediate_size=172, num_hidden_layers=layers, num_attention_heads=4, vocab_size=9
        )
        model = transformers.LlamaModel(config).to(dtype).eval().requires_grad_(False)
        embeds = torch.randn(1, 128, 64, dtype=dtype, requires_grad=True)
        sizes.append(
            kept_for_backward(lambda model=model, x=embeds: model(inputs_embeds=x, use_cache=False), model.parameters())
        )
    assert (sizes[1] - sizes[0]) / (128 * 64) == pytest.approx(LAYER_BYTES[dtype.itemsize], rel=0.1)


def test_advice_names_what_can_still_be_lowered(tmp_path):
    (tmp_path / "checkpoint.safetensors").touch()
    for rows, size, words in (
        (4, 8, r"with 4 images at a time: lower --rows \(below 4\), then --batch-size \(below 8\), or give --dtype"),
        (1, 8, r"with one image at a time: lower --batch-size \(below 8\), or give --dtype bfloat16"),
        (None, 1, "with one image at a time: give --dtype bfloat16; the last checkpoint stays"),
    ):
        with pytest.raises(Exception, match=words), memory_advice(rows, size, tmp_path):
            raise MemoryError
