"""Models in the wrappers of training: unwrapped where the model inside computes the same, else told what to pass."""

import pytest
import timm
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import gradprobe as gp
from gradprobe.errors import UsageError
from gradprobe.models.backbones import Backbone
from gradprobe.models.deploy import Scorer
from gradprobe.models.scorers import MLP
from gradprobe.models.wrappers import unwrapped


class Lora(nn.Module):
    """As peft.LoraModel: the model with its layers replaced."""

    prefix = "lora_"

    def __init__(self, model):
        super().__init__()
        self.model, self.peft_config = model, {"default": None}


class Peft(nn.Module):
    """As peft.PeftModel around a tuner."""

    def __init__(self, model, tuner=Lora):
        super().__init__()
        self.base_model, self.peft_config = model if tuner is None else tuner(model), {"default": None}

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.base_model, name)


class Prompted(Peft):
    """As peft.PeftModel with learned prompts in front of the input."""

    def __init__(self, model):
        super().__init__(model, tuner=None)
        self.prompt_encoder = nn.ModuleDict({"default": nn.Linear(1, 1)})


class FullyShardedDataParallel(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.module = model


WRAPPINGS = {
    "compiled": torch.compile,
    "data parallel": nn.DataParallel,
    "averaged": AveragedModel,
    "moving average": lambda model: timm.utils.ModelEmaV3(model, device="cpu"),
    "adapted": Peft,
    "a tuner": lambda model: Peft(model).base_model,
    "compiled, parallel": lambda model: nn.DataParallel(torch.compile(model)),
    "parallel, compiled, adapted": lambda model: nn.DataParallel(torch.compile(Peft(model))),
}


def vit():
    return timm.create_model("test_vit", img_size=32, num_classes=5).eval()


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_a_wrapped_transformer_is_unwrapped(wrapping):
    model = vit()
    wrapped = WRAPPINGS[wrapping](model)
    inside = Backbone.of(wrapped).model
    assert type(inside) is type(model)
    copied = wrapping in ("averaged", "moving average")
    assert (inside is model) != copied
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    scorer = MLP(width=8).make(64, 0)
    with torch.no_grad():
        assert torch.equal(inside(images), model(images))
        assert torch.equal(gp.prune(wrapped, scorer, k=2)(images), gp.prune(model, scorer, k=2)(images))


def test_a_plain_model_stays():
    model = vit()
    assert unwrapped(model, "mine") is model


def test_what_computes_something_else_is_refused_with_the_attribute_to_pass():
    with pytest.raises(UsageError, match=r"mine is a Prompted with learned prompts, .* model\.base_model$"):
        Backbone.of(Prompted(vit()), name="mine")
    with pytest.raises(UsageError, match=r"mine is in shards .* full state_dict"):
        Backbone.of(FullyShardedDataParallel(vit()), name="mine")


def test_a_transformer_inside_ones_own_module_is_named():
    class Mine(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = nn.ModuleList([nn.Identity(), vit()])

    with pytest.raises(UsageError, match=r"Mine and cannot be split; .* pass model\.parts\[1\]$"):
        Backbone.of(Mine())


def test_a_wrapped_scorer_still_knows_its_layer():
    network = MLP(width=8).make(64, 0)
    scorer = Scorer(network, {"scorer": "mlp:width=8", "layer": 2, "dim": 64, "k": 2})
    assert gp.prune(vit(), nn.DataParallel(scorer), k=2).backbone.layer == 2


def test_a_wrapped_vision_language_model_is_unwrapped():
    pytest.importorskip("transformers")
    from tiny_vlms import made, tiny

    vlm = tiny("llava")
    inputs = made(vlm, [[1]])
    seen = vlm.vision_features(inputs)
    prompt = vlm.prompt(inputs, seen)
    for wrapping in ("compiled", "data parallel", "adapted"):
        other = gp.vlm.VLM.of(WRAPPINGS[wrapping](vlm.model))
        assert other.model is vlm.model
        again = other.vision_features(inputs)
        assert all(torch.equal(a, b) for a, b in zip(seen.tokens, again.tokens, strict=True))
        assert torch.equal(other.prompt(inputs, again).slot, prompt.slot)
    with pytest.raises(UsageError, match=r"pass the model without them: model\.base_model$"):
        gp.vlm.VLM.of(Prompted(vlm.model))


def test_an_adapter_that_transformers_put_into_a_model_is_part_of_it():
    pytest.importorskip("transformers")
    from tiny_vlms import tiny

    model = tiny("llava").model
    model.peft_config = {"default": None}
    assert gp.vlm.VLM.of(model).model is model
