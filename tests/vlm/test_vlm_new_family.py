"""The family of docs/add-a-family.md: a class and a line are opened, pruned, ranked, timed and counted."""

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import test_pruner_selectors as selectors
import test_vlm_deploy as deployed
import test_vlm_families as families
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
from gradprobe.vlm.families.base import Family
from gradprobe.vlm.model import open_vlm
from gradprobe.vlm.pruner import Pruner
from gradprobe.vlm.ranking import ranking

PAGE = Path(__file__).parents[2] / "docs" / "add-a-family.md"
NAME = "deepseek_vl"
ROWS = [[0], [1, 2], []]


@pytest.fixture
def adapter(monkeypatch):
    """The adapter and the line of the page, at home in gradprobe while a test runs."""
    code, line = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    module = ModuleType(f"gradprobe.vlm.families.{NAME}")
    exec(compile(code, str(PAGE), "exec"), vars(module))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    ((name, place),) = eval(line).items()
    assert name == NAME and name not in FAMILIES
    monkeypatch.setitem(FAMILIES, name, place)
    return module.DeepseekVL()


@pytest.fixture
def folder(tmp_path, adapter):
    """A model of that family, as ``save_pretrained`` leaves it."""
    from transformers import AutoModelForImageTextToText

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoModelForImageTextToText.from_config(adapter.tiny()[0]).save_pretrained(tmp_path)
    digits_processor().save_pretrained(tmp_path)
    return str(tmp_path)


def test_the_page_names_members_of_a_family_and_files_that_are_there(adapter):
    page = PAGE.read_text()
    rows = [row for row in page.partition("## When something differs")[2].splitlines() if row.startswith("| `")]
    names = [name for row in rows for name in re.findall(r"`(\w+)", row.split("|")[1])]
    assert len(rows) >= 12 and all(hasattr(Family, name) for name in names)
    examples = [name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[3])]
    assert set(examples) <= set(FAMILIES) and len(examples) >= len(rows)
    for pattern in re.findall(r"`(test_[\w*]+\.py)`", page):
        assert list(Path(__file__).parent.glob(pattern)), pattern


@pytest.mark.parametrize(
    ("test", "arguments"),
    [
        (families.test_everything_kept_is_the_models_own_answer, (families.ROWS["mixed"], "left")),
        (families.test_everything_kept_is_the_models_own_answer, (families.ROWS["several"], "right")),
        (families.test_one_row_alone_is_the_models_own_answer_bit_for_bit, ()),
        (families.test_positions_are_those_that_generate_uses, ()),
        (families.test_gradients_reach_visual_tokens_and_no_parameter, (True,)),
        (families.test_minus_infinity_is_exactly_absent_and_zero_exactly_present, ()),
        (selectors.test_logits_are_those_of_the_whole_model_with_dropped_keys_masked, ("divprune",)),
        (selectors.test_logits_are_those_of_the_whole_model_with_dropped_keys_masked, ("visionzip",)),
        (selectors.test_a_plan_inside_leaves_k_tokens_and_decodes, ("norm:k=9;fastv@1",)),
        (deployed.test_generate_in_a_batch_is_generate_alone_after_the_prompt, ("left",)),
    ],
)
def test_it_passes_the_tests_of_every_family(adapter, test, arguments):
    test(NAME, *arguments)


def test_a_class_and_a_line_make_a_family(folder, tmp_path, monkeypatch):
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
    assert view.grid == (4, 4) and view.image.shape == (28, 28, 3)
    monkeypatch.delitem(FAMILIES, NAME)
    with pytest.raises(UsageError, match="model of type 'deepseek_vl', for which there is no adapter"):
        open_vlm(folder)


def test_its_cost_is_what_torch_counts(folder):
    report = cost(folder, k=[4], text_tokens=7, scorer="mlp:width=8").measured(passes=6)
    model = open_vlm(folder).model.model
    sizes = report.parameters
    assert (
        sizes["vision tower"] + sizes["projector"]
        < sum(p.numel() for p in model.parameters())
        == sum(sizes[part] for part in ("vision tower", "projector", "language model")) - 64 * 48
    )  # the head
    unpruned, pruned = report.flops
    pixels, embeds = torch.randn(1, 3, 28, 28), torch.randn(1, unpruned.sequence, 48)
    for call, flops in (
        (lambda: model.get_image_features(pixels), unpruned.vision + unpruned.projector),
        (lambda: model.language_model(inputs_embeds=embeds), unpruned.linear + unpruned.attention_full),
    ):
        with torch.no_grad(), counted() as counter:
            call()
        assert counter.get_total_flops() == flops
    assert pruned.projector == unpruned.projector // 4 and min(report.timing.milliseconds) == 0
