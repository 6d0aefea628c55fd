"""Training of a pruner: trained and frozen parts, losses, log and card, and bad input."""

import json
import sys
from pathlib import Path

import pytest
import torch
from captioned import FEW, SCORER, SIZES, captioned, log, trained, with_processor
from safetensors.torch import load_file
from tiny_vlms import READING, over, shared, types_of

from gradprobe.errors import GradprobeError, Notice, UsageError
from gradprobe.operators.registry import names, part, registered
from gradprobe.vlm.captions import Captions, open_captions
from gradprobe.vlm.deploy import load
from gradprobe.vlm.model import VLM
from gradprobe.vlm.training.train import Launch, fingerprint, fit

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Captions:
    """Eight images to train on and four held out, of three sizes."""
    return open_captions(captioned(tmp_path_factory.mktemp("data")), held_out=4)


# What is trained


# With its lambda of 10, imle gives no gradient where a step swaps no token; with lam=norm each step is as long as the
# scores are wide.
@pytest.mark.parametrize("op", [op.replace("imle+", "imle:lam=norm+") for op in registered()])
def test_every_operator_trains_the_scorer_and_not_the_model(op, data, tmp_path):
    for family in READING:
        vlm = with_processor(family)
        vlm.model.train()
        before = {n: p.detach().clone() for n, p in vlm.model.named_parameters()}
        trained(family, data, tmp_path / family, vlm=vlm, op=op, steps=1, tau_steps=1, validation=0, save_every=1)
        moments = load_file(tmp_path / family / "checkpoint.safetensors")
        first = {n: t for n, t in moments.items() if n.startswith("exp_avg.") and "denoiser" not in n}
        assert all(bool(t.any()) for n, t in first.items() if n.endswith("weight")), (family, op)
        assert any("denoiser" in n for n in moments)
        assert all(torch.equal(p, before[n]) for n, p in vlm.model.named_parameters())
        assert all(p.grad is None and p.requires_grad for p in vlm.model.parameters()) and vlm.model.training


def test_operators_without_a_gradient_are_refused(data, tmp_path):
    for op in ("hard", "random+gather"):
        with pytest.raises(UsageError, match=r"gives the scorer no gradient.*vpnoise"):
            trained("llava", data, tmp_path, op=op)
    assert set(names("relaxation")) - {op.split("+")[0].split(":")[0] for op in registered()} == {"hard", "random"}


SPY = """
from dataclasses import dataclass
import gradprobe as gp

calls = []

@dataclass(frozen=True)
class Spy:
    def __call__(self, patches, scores, k, noise):
        selection = gp.build("vpnoise")(patches, scores, k, noise)
        calls.append((patches.shape[1], k, selection.weights.detach()))
        return selection
"""


def calls_of_a_spy(tmp_path: Path) -> list:
    (name,) = [n for n in sys.modules if n.startswith("_gradprobe_user") and str(tmp_path) in sys.modules[n].__file__]
    return sys.modules[name].calls


@over()
@pytest.mark.parametrize("budget", [{"k": 6}, {"k": None, "ratio": 0.3}, {"k": 12}], ids=str)
def test_weights_of_each_image_sum_to_its_budget(family, budget, data, tmp_path):
    (tmp_path / "spy.py").write_text(SPY)
    trained(family, data, tmp_path / "out", op=f"{tmp_path}/spy.py:Spy", steps=2, tau_steps=2, rows=3, **budget)
    calls = calls_of_a_spy(tmp_path)
    sizes = {n for n, _, _ in calls}
    layouts = [shared(family).family.layout(shared(family).model.config, size[::-1]) for size in SIZES]
    assert (len(sizes) > 1) == (len({layout.tokens for layout in layouts}) > 1)  # several sizes in a batch
    for n, k, weights in calls:
        assert k == (min(budget["k"], n) if budget["k"] else max(1, round(0.3 * n)))
        assert torch.allclose(weights.sum(1), torch.full((len(weights),), float(k)), atol=1e-4)
    if family == "qwen2_5_vl" and budget["k"] == 12:
        few = [weights for n, _, weights in calls if n < 12]
        assert few and all(bool((weights == 1).all()) for weights in few)  # fewer tokens than K: all are kept


@over()
def test_images_at_a_time_change_rounding_alone(family, data, tmp_path):
    one, three = (trained(family, data, tmp_path / f"{family}{r}", rows=r) for r in (1, 3))
    for a, b in zip(log(one.out), log(three.out), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
    assert one.losses == pytest.approx(three.losses, rel=1e-5)


def inputs_of(vlm: VLM, example) -> tuple[dict, torch.Tensor]:
    """An example with its caption as the model's own processor would make it, and the labels of a forward pass."""
    image = example.image() if callable(example.image) else example.image
    pixels = vlm.family.processed(vlm.processor, [image])
    tokenizer, features = vlm.processor.tokenizer, vlm.vision_features(pixels)
    written = vlm.family.written(vlm.processor, features.inputs[0], len(features.slots[0]))
    ids = tokenizer(example.prompt.replace("<image>", written))["input_ids"]
    answer = [*tokenizer(example.caption, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    whole = torch.tensor([ids + answer])
    types = types_of(vlm, whole)
    pixels = {name: pixels[name] for name in vlm.family.inputs if name in pixels}
    inputs = {"input_ids": whole, "attention_mask": torch.ones_like(whole), **pixels, **types}
    return inputs, torch.tensor([[-100] * len(ids) + answer])


@over()
def test_losses_are_those_of_the_model_and_of_the_deployed_pruner(family, data, tmp_path):
    vlm = with_processor(family)
    result = trained(family, data, tmp_path, vlm=vlm)
    pruner = load(tmp_path, vlm)
    own, deployed = [], []
    for example in data.probe(0, 4, 0):
        inputs, labels = inputs_of(vlm, example)
        with torch.no_grad():
            own.append(float(vlm.model.eval()(**inputs, labels=labels).loss))
        sequence = pruner.sequence(inputs)
        assert len(pruner.kept(inputs)[0][0]) == min(6, len(vlm.vision_features(inputs).tokens[0]))
        few = labels.gather(1, sequence.origin)
        deployed.append(float(torch.nn.functional.cross_entropy(pruner.logits(inputs)[0, :-1], few[0, 1:])))
    assert result.losses["unpruned"] == pytest.approx(sum(own) / 4, rel=1e-5)
    assert result.losses["deployed"] == pytest.approx(sum(deployed) / 4, rel=1e-5)


@over()
def test_the_pruner_holds_the_scorer_alone_and_opens(family, data, tmp_path):
    vlm = with_processor(family)
    result = trained(family, data, tmp_path / family, vlm=vlm)
    network = part("scorer", SCORER).make(vlm.dim, 0)
    state = load_file(result.out / "scorer.safetensors")
    assert state.keys() == network.state_dict().keys()
    best = load_file(result.out / "checkpoint.safetensors")
    assert all(torch.equal(t, best[f"best.{n}"]) for n, t in state.items())
    pruner = load(result.out, vlm)
    assert pruner.budget.k == 6 and pruner.metadata["training"]["steps"] == 6


def test_a_model_that_changes_is_found_out(data, tmp_path, monkeypatch):
    vlm = with_processor("llava")
    weight = next(vlm.model.model.language_model.parameters())
    original = VLM.logits

    def nudging(self, *args):
        weight.data[0, 0] = weight.data[0, 0].nextafter(torch.tensor(9.0))
        return original(self, *args)

    monkeypatch.setattr(VLM, "logits", nudging)
    with pytest.raises(GradprobeError, match="changed during its training"):
        trained("llava", data, tmp_path, vlm=vlm)
    assert not (tmp_path / "scorer.json").exists()


def test_a_fingerprint_sees_every_bit():
    network = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3)).to(torch.bfloat16)
    first = fingerprint(network)
    assert fingerprint(network) == first
    network[1].running_mean[0] += 1
    assert fingerprint(network) != first


# Log and card


def test_the_log_has_a_line_for_each_step(data, tmp_path):
    calls = []
    result = trained("llava", data, tmp_path, progress=lambda *what: calls.append(what))
    lines = log(tmp_path)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert all(line.keys() >= {"loss", "tau", "rate", "seconds"} for line in lines)
    assert [line["tau"] for line in lines[:3]] == pytest.approx([2.0, 1.525, 0.575]) and lines[5]["tau"] == 0.1
    assert lines[0]["rate"] == 1e-2 and lines[3]["rate"] == pytest.approx(5e-3)
    assert [line["step"] for line in lines if "deployed" in line] == [v.step for v in result.validations] == [2, 4, 6]
    assert [(done, of) for _, done, of in calls] == [(i, 6) for i in range(1, 7)]


def test_the_card_and_the_facts_agree(data, tmp_path):
    result = fit(
        with_processor("llava"), data, tmp_path, FEW, rows=2, launch=Launch(command="gradprobe vlm train --model tiny")
    )
    about = json.loads((tmp_path / "scorer.json").read_text())
    text = (tmp_path / "README.md").read_text()
    assert about["training"]["losses"] == result.losses and about["op"] == "lapsum+vpnoise" and about["k"] == 6
    for what in ("library_name: gradprobe", "6 tokens an image", "gradprobe vlm train --model tiny", data.fingerprint):
        assert what in text
    assert all(f"{loss:.4f}" in text for loss in result.losses.values()) and len(result.losses) == 4
    assert about["training"]["examples"] == {"held_out": 4, "seen": 24}


def test_without_validation_the_last_scorer_is_kept(data, tmp_path):
    result = trained("llava", data, tmp_path, validation=0)
    assert result.validations == () and result.losses == {} and result.step == 6
    state, last = load_file(tmp_path / "scorer.safetensors"), load_file(tmp_path / "checkpoint.safetensors")
    assert all(torch.equal(t, last[f"scorer.{n}"]) for n, t in state.items())
    assert "There was no validation" in (tmp_path / "README.md").read_text()


# Bad input


def test_a_budget_that_keeps_everything_is_refused(data, tmp_path):
    for changes in ({"k": 16}, {"k": 640}, {"k": None, "ratio": 1.0}):
        with pytest.raises(UsageError, match=r"keeps every token: the images have 16; possible: --k 1 to --k 15"):
            trained("llava", data, tmp_path, **changes)
    assert trained("qwen2_5_vl", data, tmp_path, k=12).steps == 6  # some images have more


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("x"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_a_full_memory_says_what_to_lower(error, data, tmp_path, monkeypatch):
    def full(self, *args):
        raise error

    monkeypatch.setattr(VLM, "logits", full)
    with pytest.raises(GradprobeError, match=r"one image at a time: lower --batch-size \(below 4\).*--dtype bfloat16"):
        trained("llava", data, tmp_path)
    monkeypatch.setattr(VLM, "vision_features", full)
    with pytest.raises(GradprobeError, match=r"one image at a time.*--dtype bfloat16"):
        trained("llava", data, tmp_path)


def test_outside_of_micro_batches_a_full_memory_says_what_to_lower(data, tmp_path, monkeypatch):
    def full(*args, **options):
        raise torch.OutOfMemoryError("x")

    monkeypatch.setattr(torch.optim.AdamW, "step", full)
    with pytest.raises(GradprobeError, match=r"--rows \(below 2\), then --batch-size \(below 4\).*--dtype bfloat16"):
        trained("llava", data, tmp_path, rows=2)


@over(READING)
def test_where_memory_runs_out_fewer_images_are_read_at_a_time(family, data, tmp_path, monkeypatch):
    wanted = trained(family, data, tmp_path / "one", rows=1)
    logits, sizes = VLM.logits, []

    def tight(self, sequence, *biases):
        sizes.append(len(sequence.embeds))
        if sizes[-1] > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return logits(self, sequence, *biases)

    monkeypatch.setattr(VLM, "logits", tight)
    with pytest.warns(Notice, match="goes on with one image at a time") as caught:
        result = trained(family, data, tmp_path / "tight", rows=4)
    assert len({str(each.message) for each in caught if each.category is Notice}) == 1 and max(sizes) > 1
    assert result.losses == wanted.losses and result.validations == wanted.validations
    assert [line["loss"] for line in log(result.out)] == [line["loss"] for line in log(wanted.out)]
    one, other = (load_file(each.out / "scorer.safetensors") for each in (wanted, result))
    assert one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def test_other_errors_stay_what_they_are(data, tmp_path, monkeypatch):
    def broken(self, *args):
        raise RuntimeError("something else")

    monkeypatch.setattr(VLM, "logits", broken)
    with pytest.raises(RuntimeError, match="something else"):
        trained("llava", data, tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ratio": 0.5}, "either --k"), ({"k": None}, "either --k"), ({"k": 0}, "--k 0"), ({"steps": 0}, "--steps 0"),
        ({"k": None, "ratio": 1.5}, "--ratio 1.5"), ({"batch_size": 0}, "--batch-size 0"), ({"seed": -1}, "--seed -1"),
        ({"learning_rate": 0.0}, "--learning-rate 0"), ({"tau_end": -1.0}, "--tau -1"),
        ({"patience": -1}, "--patience -1"), ({"learning_rate": float("nan")}, "--learning-rate nan"),
        ({"save_every": 0}, "--save-every 0"),
        ({"scorer": "mpl"}, "did you mean 'mlp'"), ({"denoiser": "tokens"}, "did you mean 'token'"),
    ],
)  # fmt: skip
def test_settings_that_mean_nothing_are_refused(changes, words, data, tmp_path):
    with pytest.raises(UsageError, match=words):
        trained("llava", data, tmp_path, **changes)


def test_rows_are_positive(data, tmp_path):
    with pytest.raises(UsageError, match="--rows 0"):
        trained("llava", data, tmp_path, rows=0)
