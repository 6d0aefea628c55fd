"""A saved pruner opens as it was, one of another model or a broken one is refused."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save as bytes_of
from stored import result
from tiny_vlms import SPEC, made, over, pruner, shared

from gradprobe.errors import GradprobeError, UsageError
from gradprobe.models.scorer_file import load_scorer, save_scorer
from gradprobe.store.results import Store
from gradprobe.vlm.budgets import Budget
from gradprobe.vlm.deploy import load, save
from gradprobe.vlm.pruner import Pruner

ROWS = [[1], [0, 2], []]


def written(folder, family="llava", **changed):
    pruned = pruner(family)
    metadata = {**pruned.vlm.metadata, "scorer": SPEC, "k": 5, "op": "vpnoise", **changed}
    return pruned, save(folder, pruned.scorer, metadata)


@over()
def test_what_was_saved_prunes_as_before(tmp_path, family):
    pruned, folder = written(tmp_path / "a" / "b", family)
    again = load(folder, shared(family))
    inputs = made(pruned.vlm, ROWS)
    assert torch.equal(again.logits(inputs), pruned.logits(inputs))
    assert again.metadata["op"] == "vpnoise" and again.budget == Budget(k=5)
    assert torch.equal(load(folder, shared(family).model).logits(inputs), pruned.logits(inputs))
    assert len(replace(again, budget=Budget(k=2)).kept(inputs)[0][0]) == 2


def test_the_file_holds_the_scorer_alone(tmp_path):
    pruned, folder = written(tmp_path)
    with safe_open(folder / "scorer.safetensors", "pt") as file:
        assert set(file.keys()) == set(pruned.scorer.state_dict())
    assert sorted(path.name for path in folder.iterdir()) == ["scorer.json", "scorer.safetensors"]
    assert json.loads((folder / "scorer.json").read_text())["tower"] == "clip_vision_model"


def test_a_pruner_of_before_opens_and_a_new_one_beside_it_wins(tmp_path):
    """Pruners used to lie in ``pruner.safetensors`` and ``pruner.json``."""
    pruned, inputs = pruner("llava"), made(shared("llava"), ROWS)
    metadata = {**pruned.vlm.metadata, "scorer": SPEC, "k": 5, "op": "vpnoise", "training": {"steps": 4}}
    (tmp_path / "pruner.safetensors").write_bytes(bytes_of(pruned.scorer.state_dict()))
    (tmp_path / "pruner.json").write_text(json.dumps(metadata, indent=2, sort_keys=True) + "\n")
    again = load(tmp_path, shared("llava"))
    assert torch.equal(again.logits(inputs), pruned.logits(inputs))
    assert again.metadata == metadata and again.budget == Budget(k=5)
    for path in (tmp_path, tmp_path / "pruner.safetensors"):
        scorer = load_scorer(path)
        assert scorer.metadata == metadata
        assert torch.equal(Pruner(pruned.vlm, scorer, Budget(k=5)).logits(inputs), pruned.logits(inputs))
    save(tmp_path, pruned.scorer, {**metadata, "k": 6})
    assert load(tmp_path, shared("llava")).budget == Budget(k=6)


def test_a_scorer_that_retention_trained_opens_as_a_pruner(tmp_path):
    pruned, inputs = pruner("llava"), made(shared("llava"), ROWS)
    question = {"probe": "retention", "backbone": "tiny", "task": "captioning", "k": 5, "scorer": SPEC}
    save_scorer(pruned.scorer, tmp_path, {**question, "dim": pruned.vlm.dim})
    for path in (tmp_path, Store(tmp_path / "runs").save(result(), keep=tmp_path)):
        assert torch.equal(load(path, pruned.vlm).logits(inputs), pruned.logits(inputs))
    with pytest.raises(UsageError, match=r"trained on tiny \(token width 32\); this is tiny-qwen2_5_vl"):
        load(tmp_path, shared("qwen2_5_vl"))
    del question["task"]
    save_scorer(pruned.scorer, tmp_path, {**question, "dim": pruned.vlm.dim})
    with pytest.raises(UsageError, match=r"trained on tiny, no vision-language model; deploy it with gp\.prune"):
        load(tmp_path, pruned.vlm)


def test_a_pruner_of_another_model_is_refused_with_towers_and_widths(tmp_path):
    _, folder = written(tmp_path)
    with pytest.raises(UsageError, match=r"tower clip_vision_model, width 32.*tower qwen2_5_vl\w*, width 32") as error:
        load(folder, shared("qwen2_5_vl"))
    assert "token width 32" in str(error.value) and "token width 128" in str(error.value)
    with pytest.raises(UsageError, match=r"family llava,.*family llava_next,.*--model tiny-llava"):
        load(folder, shared("llava_next"))


def test_what_is_no_pruner_is_said(tmp_path):
    with pytest.raises(UsageError, match=r"no pruner in .*gradprobe vlm train"):
        load(tmp_path / "none")
    with pytest.raises(UsageError, match="lacks dim, family"):
        save(tmp_path, torch.nn.Linear(1, 1), {"scorer": SPEC, "k": 1})
    _, folder = written(tmp_path)
    for name, content in (("scorer.json", b"{"), ("scorer.safetensors", b"123456789"), ("scorer.json", b'{"k": 1}')):
        _, folder = written(tmp_path)
        (folder / name).write_bytes(content)
        with pytest.raises(GradprobeError, match=r"no scorer that can be read .*train it again"):
            load(folder, shared("llava"))
    save_scorer(pruner("llava").scorer, tmp_path, {**shared("llava").metadata, "scorer": SPEC})
    with pytest.raises(GradprobeError, match=r"no pruner that can be read .*--ratio.*train it again"):
        load(tmp_path, shared("llava"))
    _, folder = written(tmp_path, scorer="mlp:width=9")
    with pytest.raises(GradprobeError, match="size mismatch"):
        load(folder, shared("llava"))
    (tmp_path / "file").write_text("")
    with pytest.raises(GradprobeError, match="cannot write to"):
        written(tmp_path / "file")
