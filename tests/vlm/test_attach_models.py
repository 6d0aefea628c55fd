"""Models with a pruner inside as people have them: quantised, compiled, spread, in threads, pipelines and trainers."""

import threading

import pytest
import torch
from attached_calls import BOTH, GREEDY, OPTIONS, OUTSIDE, each_plan
from tiny_vlms import made, shared, tiny

import gradprobe as gp
from gradprobe.errors import UsageError
from gradprobe.vlm.attaching import attach, attached
from gradprobe.vlm.budgets import Budget
from gradprobe.vlm.pruner import Pruner


def test_threads_do_not_meet():
    vlm = shared("llava")
    inputs = [made(vlm, [[1]], seed=seed) for seed in range(3)]
    out = [None] * 3
    with attached(vlm.model, BOTH, k=4) as model:
        expected = [model.generate(**each, **GREEDY) for each in inputs]

        def run(i):
            out[i] = model.generate(**inputs[i], **GREEDY)

        threads = [threading.Thread(target=run, args=(i,)) for i in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert all(torch.equal(one, other) for one, other in zip(out, expected, strict=True))


def test_scorers_follow_the_model_to_another_precision():
    vlm = tiny("llava")
    scorer = torch.nn.Sequential(torch.nn.Linear(vlm.dim, 1), torch.nn.Flatten())
    inputs = made(vlm, [[1]])
    with attached(vlm.model, scorer, k=4) as model:
        model.to(torch.bfloat16)
        out = model.generate(**inputs, **GREEDY)
    assert out.shape[1] == inputs["input_ids"].shape[1] + 4 and next(scorer.parameters()).dtype == torch.float32


class EightBits(torch.nn.Module):
    """A linear layer whose weights are whole numbers, as packages of quantisation put them in place."""

    def __init__(self, layer):
        super().__init__()
        self.in_features, self.out_features, self.bias = layer.in_features, layer.out_features, layer.bias
        scale = layer.weight.detach().abs().amax(1, keepdim=True) / 127
        self.register_buffer("scale", scale)
        self.weight = torch.nn.Parameter((layer.weight.detach() / scale).round().to(torch.int8), requires_grad=False)

    def forward(self, x):
        return torch.nn.functional.linear(x, self.weight.to(x.dtype) * self.scale.to(x.dtype), self.bias)


@each_plan
def test_quantised_models(plan):
    vlm = tiny("llava")
    for module in [*vlm.model.model.language_model.modules(), vlm.model.model.multi_modal_projector]:
        for name, child in list(module.named_children()):
            if isinstance(child, torch.nn.Linear):
                setattr(module, name, EightBits(child))
    inputs = made(vlm, [[1], [1]])
    expected = Pruner(vlm, plan, Budget(k=4)).generate(inputs, max_new_tokens=4, options=OPTIONS)
    with attached(vlm.model, plan, k=4) as model:
        assert torch.equal(model.generate(**inputs, **GREEDY), expected)


def test_compiled_models_are_attached_first():
    vlm = tiny("llava")
    inputs = made(vlm, [[1]])
    with attached(vlm.model, BOTH, k=4) as model, torch.no_grad():
        expected = model(**inputs).logits
        torch.testing.assert_close(torch.compile(model, backend="eager")(**inputs).logits, expected)
    with pytest.raises(UsageError, match=r"attach first, then torch\.compile"):
        attach(torch.compile(vlm.model, backend="eager"), OUTSIDE, k=4)


def test_spread_models():
    accelerate = pytest.importorskip("accelerate")
    vlm = tiny("llava")
    inputs = made(vlm, [[1]])
    with attached(vlm.model, BOTH, k=4) as model:
        expected = model.generate(**inputs, **GREEDY)
    places = {"model.vision_tower": "cpu", "model.multi_modal_projector": "cpu", "model.language_model": "cpu"}
    model = accelerate.dispatch_model(vlm.model, {**places, "lm_head": "cpu"}, force_hooks=True)
    with attached(model, BOTH, k=4):
        assert torch.equal(model.generate(**inputs, **GREEDY), expected)


def test_pipelines_and_trainers_of_transformers(tmp_path):
    """On a model with its processor: the pipeline answers, and the trainer's loss is that of each example alone."""
    from PIL import Image
    from transformers import Trainer, TrainingArguments, pipeline

    vlm = gp.vlm.open_vlm("scenes-vlm")
    model, processor = vlm.model, vlm.processor
    colours = ("white", "grey", "black")
    pictures = [Image.new("RGB", (140, 140), colour) for colour in colours]
    pruner = Pruner(vlm, "divprune", Budget(k=11))
    prompt = f"{processor.image_token} what digit is it ?"
    inputs = processor(images=[pictures[0]], text=[prompt], return_tensors="pt")
    expected = pruner.generate(inputs, max_new_tokens=3, options={"do_sample": False})
    text = processor.decode(expected[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    examples = []
    for picture in pictures:
        example = {
            name: value[0] for name, value in processor(images=[picture], text=[prompt], return_tensors="pt").items()
        }
        labels = example["input_ids"].clone()
        labels[:-3] = -100
        examples.append(example | {"labels": labels})
    with attached(model, "divprune", k=11):
        options = {"max_new_tokens": 3, "do_sample": False, "return_full_text": False}
        answered = pipeline("image-text-to-text", model=model, processor=processor)(pictures[0], text=prompt, **options)
        assert answered[0]["generated_text"].strip() == text.strip()
        arguments = TrainingArguments(
            str(tmp_path), per_device_eval_batch_size=2, report_to=[], use_cpu=True, disable_tqdm=True
        )
        found = Trainer(model, arguments, eval_dataset=examples).evaluate()["eval_loss"]
        with torch.no_grad():
            alone = [float(model(**{name: value[None] for name, value in each.items()}).loss) for each in examples]
    assert found == pytest.approx(sum(alone) / 3, rel=1e-4)
