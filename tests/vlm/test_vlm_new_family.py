"""A family that gradprobe does not know is a class and a line: opened, pruned, ranked, timed and counted."""

import pytest
import torch
from tiny_vlms import made

from gradprobe.errors import UsageError
from gradprobe.operators.registry import part
from gradprobe.probes.cost.measure import counted
from gradprobe.vlm.budgets import Budget
from gradprobe.vlm.costs.flops import cost
from gradprobe.vlm.deploy import load, save
from gradprobe.vlm.embedded import digits_processor
from gradprobe.vlm.families import FAMILIES
from gradprobe.vlm.families.base import TINY_TEXT, TINY_TOKEN, Family, Layout, View
from gradprobe.vlm.model import open_vlm
from gradprobe.vlm.pruner import Pruner
from gradprobe.vlm.ranking import ranking

ROWS = [[0], [1, 2], []]


class Idefics3(Family):
    """``Idefics3ForConditionalGeneration`` with one tile an image: 2 x 2 patches are shuffled into a token."""

    name = "idefics3"
    inputs = ("pixel_values",)

    def projector(self, model):
        return model.model.connector.modality_projection

    def tower(self, model):
        return model.model.vision_model

    def language(self, model):
        return model.model.text_model

    def dim(self, model):
        return model.config.vision_config.hidden_size * model.config.scale_factor**2

    def layout(self, config, size=None):
        side = config.vision_config.image_size
        across = side // config.vision_config.patch_size
        grid = (across // config.scale_factor,) * 2
        return Layout(size or (side, side), (side, side), 1, across**2, 0, (grid,), 0)

    def random_inputs(self, config, layouts):
        return {"pixel_values": torch.randn(len(layouts), 1, 3, *layouts[0].seen)}

    def views(self, config, inputs):
        return (View("", inputs["pixel_values"][0, 0], self.layout(config).grids[0]),)

    def tiny(self):
        from transformers import Idefics3Config, LlamaConfig

        vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
        vision |= {"image_size": 32, "patch_size": 4}
        return Idefics3Config(
            vision_config=vision, text_config=LlamaConfig(**TINY_TEXT), image_token_id=TINY_TOKEN, scale_factor=2
        ), None


@pytest.fixture
def folder(tmp_path):
    """A model of that family, as ``save_pretrained`` leaves it."""
    from transformers import AutoModelForImageTextToText

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoModelForImageTextToText.from_config(Idefics3().tiny()[0]).save_pretrained(tmp_path)
    digits_processor().save_pretrained(tmp_path)
    return str(tmp_path)


def test_a_class_and_a_line_make_a_family(folder, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="model of type 'idefics3', for which there is no adapter"):
        open_vlm(folder)
    monkeypatch.setitem(FAMILIES, "idefics3", f"{__name__}:Idefics3")
    vlm = open_vlm(folder)
    inputs = made(vlm, ROWS)
    scorer = part("scorer", "mlp:width=8").make(vlm.dim, 0)
    real = inputs["attention_mask"] > 0
    with torch.no_grad():
        own = vlm.model(**inputs).logits[real]
    everything = Pruner(vlm, scorer, Budget(k=99))
    torch.testing.assert_close(everything.logits(inputs)[real], own, atol=1e-5, rtol=0)
    few = {**vlm.metadata, "scorer": "mlp:width=8", "k": 5}
    pruned = load(save(tmp_path / "pruner", scorer, few), vlm)
    assert [[len(image) for image in row] for row in pruned.kept(inputs)] == [[5], [5, 5], []]
    out = pruned.generate(inputs, max_new_tokens=3, options={"do_sample": False})
    assert torch.equal(out[:, :-3], inputs["input_ids"])
    (view,) = ranking(vlm, made(vlm, [[0]]), 3, scorer).views
    assert view.grid == (4, 4) and view.image.shape == (32, 32, 3)


def test_its_cost_is_what_torch_counts(folder, monkeypatch):
    monkeypatch.setitem(FAMILIES, "idefics3", f"{__name__}:Idefics3")
    report = cost(folder, k=[4], text_tokens=7, scorer="mlp:width=8").measured(passes=6)
    model = open_vlm(folder).model.model
    sizes = report.parameters
    assert (
        sizes["vision tower"] + sizes["projector"]
        < sum(p.numel() for p in model.parameters())
        == sum(sizes[part] for part in ("vision tower", "projector", "language model")) - 64 * 48
    )  # the head
    unpruned, pruned = report.flops
    pixels, embeds = torch.randn(1, 1, 3, 32, 32), torch.randn(1, unpruned.sequence, 48)
    for call, flops in (
        (lambda: model.get_image_features(pixels), unpruned.vision + unpruned.projector),
        (lambda: model.text_model(inputs_embeds=embeds), unpruned.linear + unpruned.attention_full),
    ):
        with torch.no_grad(), counted() as counter:
            call()
        assert counter.get_total_flops() == flops
    assert pruned.projector == unpruned.projector // 4 and min(report.timing.milliseconds) == 0
