"""A pruner with any selector is the whole model with dropped keys masked, and merged values where tokens are merged."""

import copy

import pytest
import torch
from tiny_vlms import ATTENDING, IMAGE, made, not_told, over, shared

import gradprobe as gp
from gradprobe.data.pictures import pictures
from gradprobe.errors import UsageError
from gradprobe.models.rankings import Selecting
from gradprobe.models.scored import Scored
from gradprobe.view import Kept, SelectorAbout, Unavailable
from gradprobe.vlm.budgets import Budget
from gradprobe.vlm.choosing import Images
from gradprobe.vlm.deploy import inputs_of
from gradprobe.vlm.pruner import Pruner

OUTSIDE = (
    "random", "norm", "projected-norm", "downsample", "class-attention", "mean-attention", "divprune", "zoo:draws=4",
    "zoo:exact", "visionzip", "visionzip:query=mean,context=0.5", "holov:crops=3", "prunesid", "hired", "cdpruner",
)  # fmt: skip
GREEDY = {"do_sample": False}
each_family = over()
each_attending = over(ATTENDING)


def reference(pruned, inputs):
    """Logits of the model's own full-length forward: values that stand for kept tokens put in, dropped keys masked."""
    vlm = pruned.vlm
    images = pruned._images(inputs)
    kept, model = pruned._chosen(images), copy.deepcopy(vlm.model)
    projectors = [vlm.family.projector(model), *vlm.family.streams(model)]
    values = [tokens.clone() for tokens in images.features.tokens]
    for each, new in zip(values, kept, strict=True):
        if new.tokens is not None:
            each[new.index] = new.tokens
    mask = inputs["attention_mask"].clone()
    slot = images.prompt.slot
    for row, counts in enumerate(images.prompt.counts):
        first = 0
        for count in counts:
            numbers = torch.arange(count)
            dropped = numbers[~torch.isin(numbers, kept[0].index)] + first
            kept, first = kept[1:], first + count
            mask[row] *= ~torch.isin(slot[row], dropped)
    placed = torch.cat(values) if values else torch.zeros(0, vlm.dim)
    rows = torch.cat(images.features.rows)

    def replaced(module, args):
        part = placed.chunk(len(projectors), -1)[projectors.index(module)]
        flat = args[0].reshape(-1, part.shape[-1]).clone()
        flat[rows] = part.to(flat)
        return (flat.reshape(args[0].shape),)

    for projector in projectors:
        projector.register_forward_pre_hook(replaced)
    positions = images.prompt.positions if images.prompt.positions.ndim == 3 else None
    with torch.no_grad():
        return model(**{**inputs, "attention_mask": mask}, position_ids=positions).logits, mask


@each_attending
@pytest.mark.parametrize("name", OUTSIDE)
def test_logits_are_those_of_the_whole_model_with_dropped_keys_masked(family, name):
    pruned = Pruner(shared(family), name, Budget(k=5))
    inputs = made(pruned.vlm, [[1], [2]])
    if not_told(family, name):
        with pytest.raises(Unavailable):
            pruned.logits(inputs)
        return
    own, mask = reference(pruned, inputs)
    together = pruned.logits(inputs)
    for row in range(2):
        length = int(mask[row].sum())
        torch.testing.assert_close(together[row, -length:], own[row][mask[row] > 0], atol=1e-5, rtol=0)
    assert int((inputs["attention_mask"] - mask).sum()) == int((inputs["input_ids"] == IMAGE).sum()) - 10 - int(
        (pruned._images(inputs).prompt.slot == -2).sum()
    )


@each_family
@pytest.mark.parametrize("name", [name for name in OUTSIDE if name not in ("random", "cdpruner")])
def test_an_image_is_chosen_alone_as_in_a_batch(family, name):
    """``random`` is keyed by the image's number, and ``cdpruner`` reads the text, which differs here."""
    pruned = Pruner(shared(family), name, Budget(k=4))
    if not_told(family, name):
        with pytest.raises(Unavailable):
            pruned.kept(made(pruned.vlm, [[1, 1]]))
        return
    both = pruned.kept(made(pruned.vlm, [[1, 1]]))[0]
    alone = pruned.kept(made(pruned.vlm, [[1]]))[0]
    assert torch.equal(both[0], alone[0]) and all(len(each) == 4 for each in both)


@each_family
@pytest.mark.parametrize("name", ["norm", "zoo:draws=4", "fastv@1", "norm:k=7;fastv@1", "random@0"])
def test_keeping_all_is_the_models_own_logits_and_text(family, name):
    vlm = shared(family)
    inputs = made(vlm, [[1]])
    n = len(vlm.vision_features(inputs).tokens[0])
    pruned = Pruner(vlm, name.replace("k=7", f"k={n}"), Budget(k=n))
    model = copy.deepcopy(vlm.model)
    with torch.no_grad():
        assert torch.equal(pruned.logits(inputs), model(**inputs).logits)
    own = model.generate(**inputs, max_new_tokens=4, **GREEDY)
    assert torch.equal(pruned.generate(inputs, max_new_tokens=4, options=GREEDY), own)


@each_attending
@pytest.mark.parametrize("plan", ["fastv@1", "norm:k=9;fastv@1", "dart@1", "sparsevlm@1"])
def test_a_plan_inside_leaves_k_tokens_and_decodes(family, plan):
    pruned = Pruner(shared(family), plan, Budget(k=3))
    inputs = made(pruned.vlm, [[1], [1]])
    before = {name: value.clone() for name, value in pruned.vlm.model.state_dict().items()}
    left = pruned.left(inputs)
    assert [len(each) for each in left] == [3, 3]
    assert all(
        set(each.tolist()) <= set(kept[0].tolist()) for each, kept in zip(left, pruned.kept(inputs), strict=True)
    )
    out = pruned.generate(inputs, max_new_tokens=3, options=GREEDY)
    first = pruned.logits(inputs)[:, -1].argmax(-1)
    assert torch.equal(out[:, -3], first)  # no end of text in a tiny model
    assert all(torch.equal(value, before[name]) for name, value in pruned.vlm.model.state_dict().items())


def test_rows_with_other_numbers_of_tokens_are_refused_inside_and_pass_outside():
    vlm = shared("llava_next")
    inputs = made(vlm, [[1], [2]])
    assert len(Pruner(vlm, "norm", Budget(k=3)).left(inputs)) == 2
    with pytest.raises(UsageError, match="give one row at a time"):
        Pruner(vlm, "fastv@1:keep=0.25").generate(inputs)


def test_compact_positions_close_the_gap_and_are_refused_on_three_axes():
    vlm = shared("llava")
    inputs = made(vlm, [[1]])
    kept, compact = (Pruner(vlm, gp.plan_of("norm", each), Budget(k=3)) for each in ("keep", "compact"))
    assert compact.sequence(inputs).positions[0].tolist() == list(range(compact.sequence(inputs).embeds.shape[1]))
    assert not torch.allclose(kept.logits(inputs)[0, -1], compact.logits(inputs)[0, -1], atol=1e-4)
    qwen = shared("qwen2_5_vl")
    with pytest.raises(UsageError, match="cannot be renumbered"):
        Pruner(qwen, gp.plan_of("norm", "compact"), Budget(k=3)).logits(made(qwen, [[1]]))


@pytest.mark.parametrize("spec", ["norm", "projected-norm", "zoo", "zoo:exact"])
def test_half_precision_ranks_as_float32_does(spec):
    """Steps of zoo, and lengths, differ by less than half precision tells apart."""
    selector, scores = gp.plan_of(spec).stages[0].selector, []
    for dtype in ("float32", "bfloat16"):
        vlm = gp.vlm.open_vlm("scenes-vlm", dtype=dtype)
        (picture,) = pictures("heldout", [3]).images
        ids = torch.full((1, 100), vlm.model.config.image_token_id)
        images = Images.of(vlm, {"pixel_values": torch.from_numpy(picture[None]), "input_ids": ids})
        view = images._view([0], ((10, 10),))
        of = selector.sensitivities if hasattr(selector, "sensitivities") else selector.scores
        with torch.no_grad():
            scores.append(of(view)[0].double())
    assert len(scores[1].unique()) >= 0.9 * len(scores[0].unique())
    torch.testing.assert_close(*scores, rtol=0.05, atol=0)


def test_a_scorer_a_selector_a_text_and_a_plan_make_the_same_pruner():
    vlm = shared("llava")
    inputs = made(vlm, [[1]])
    scorer = torch.nn.Sequential(torch.nn.Linear(vlm.dim, 1), torch.nn.Flatten())
    network, selector = Pruner(vlm, scorer, Budget(k=3)), Pruner(vlm, Scored(scorer), Budget(k=3))
    assert network.scorer is scorer and torch.equal(network.left(inputs)[0], selector.left(inputs)[0])
    text, plan = Pruner(vlm, "norm", Budget(k=3)), Pruner(vlm, gp.plan_of("norm:k=3"))
    assert text.scorer is None and torch.equal(text.left(inputs)[0], plan.left(inputs)[0])
    with pytest.raises(UsageError, match="--k"):
        Pruner(vlm, "norm").kept(inputs)
    with pytest.raises(UsageError, match="give one of --k"):
        Budget(k=3, average=4)


def test_an_average_is_kept_over_the_layers():
    vlm = gp.vlm.open_vlm("scenes-vlm")
    pruned = Pruner(vlm, "fastv@1", Budget(average=40))
    counts = pruned.counts(100)
    assert counts.layers == (100, 20, 20, 20) and counts.average == 40
    with pytest.raises(UsageError, match="the least is"):
        Pruner(vlm, "fastv@2", Budget(average=40)).counts(100)


class Merging:
    """The first K tokens, twice as long."""

    about = SelectorAbout("2 x_i")

    def __call__(self, view, k):
        index = torch.arange(k).expand(view.shape[0], k)
        return Kept(index, 2 * view.features[:, :k])


@pytest.mark.parametrize("plan", ["divprune", "fastv@1", "zoo:exact,k=40;fastv@2", "visionzip:query=mean", Merging()])
def test_what_a_task_measures_is_what_is_deployed(plan):
    """Teacher-forced logits of the answer's first word are those with which the pruned model begins to answer."""
    task, k = gp.vlm.captioning("scenes-vlm", scorer="mlp:width=1"), 11
    (batch,) = task.batches(1, 3, 0)
    selecting = Selecting.of(task, gp.plan_of(plan), k)
    selection = selecting.choose(batch).selection
    logits, labels = selecting.reader._read(selection, batch.target.question, batch.ids)
    first = (labels >= 0).long().argmax(1)
    for i, example in enumerate(batch.target.examples):
        pruned = Pruner(task.vlm, plan, Budget(k=k))
        prompt = batch.target.question.prompt
        length = int((batch.target.question.labels[i] != -100).long().argmax())
        inputs = {
            "pixel_values": torch.from_numpy(example.image()[None]),
            "input_ids": prompt.input_ids[i : i + 1, :length],
        }
        deployed = pruned.logits(inputs)[0, -1]
        torch.testing.assert_close(logits[i, first[i]], deployed, atol=1e-4, rtol=1e-4)


def test_prompts_of_a_processor_go_through(tmp_path):
    from PIL import Image

    vlm = gp.vlm.open_vlm("photos-vlm")
    inputs = inputs_of(vlm, [Image.new("RGB", (80, 80))], "how many digits ?")
    pruned = Pruner(vlm, "cdpruner;fastv@2".replace(";", ":k=40;"), Budget(k=11))
    assert len(pruned.left(inputs)[0]) == 11 and pruned.generate(inputs, max_new_tokens=2).shape[0] == 1
