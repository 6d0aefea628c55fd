"""Where memory runs out, micro-batches are halved: the numbers are those of small ones from the start, told once."""

import threading
import warnings
import weakref
from dataclasses import dataclass, field

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kept import kept_for_backward
from toy import Toy, _scorer

import gradprobe as gp
from gradprobe.core import hard_topk
from gradprobe.errors import GradprobeError, Notice, out_of_memory
from gradprobe.probes.equivalence import measure
from gradprobe.probes.landscape import plane_losses
from gradprobe.training import memory, scorer_trainer, workers
from gradprobe.training.memory import MOST, Limit, OutOfMemory, halving, rows_for
from gradprobe.training.scorer_trainer import ScorerTrainer
from gradprobe.training.train import Recipe
from gradprobe.training.workers import groups_of, numbered_groups, over_groups

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
ERRORS = {
    "GPU": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "CPU": RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"),
    "numpy": MemoryError("Unable to allocate 3.00 GiB for an array"),
    "cuBLAS": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
}


@dataclass(frozen=True)
class Tight(Toy):
    """A toy whose model takes at most so many images at a time."""

    most: int = 2
    error: Exception = ERRORS["GPU"]
    calls: list = field(default_factory=list, compare=False)

    def _logits(self, selection, batch):
        self.calls.append(len(batch.ids))
        if len(batch.ids) > self.most:
            raise self.error
        return super()._logits(selection, batch)


@pytest.fixture
def start_with(monkeypatch):
    """Set the size of micro-batches to begin with."""

    def set_rows(rows):
        for module in (workers, measure, plane_losses):
            monkeypatch.setattr(module, "rows_for", lambda device, tokens: rows)
        monkeypatch.setattr(scorer_trainer, "training_rows", lambda patches: rows)

    return set_rows


def told(action):
    """Return what an action gives, and the notices of it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = action()
    return result, [str(warning.message) for warning in caught if warning.category is Notice]


def losses_of(task):
    def work(group):
        selection = hard_topk(group.tokens.patches, group.tokens.patches[..., 0], 3)
        return task.losses(selection, group)

    return work


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
@pytest.mark.parametrize("threads", [1, 3])
def test_groups_are_halved_and_give_the_numbers_of_small_ones(error, threads):
    (batch,) = Toy().batches(1, 21, 0)
    run, notices = told(lambda: list(over_groups(losses_of(Tight(error=error)), groups_of(batch), threads)))
    small = groups_of(batch, 2)
    assert [group.ids for group, _ in run] == [group.ids for group in small]
    assert torch.equal(torch.cat([x for _, x in run]), torch.cat([losses_of(Toy())(group) for group in small]))
    assert notices == ["cpu ran out of memory; the work goes on with 2 images at a time"]


@settings(max_examples=25)
@given(
    sizes=st.lists(st.integers(1, 20), max_size=5), most=st.integers(1, 20), rows=st.integers(1, 20),
    threads=st.integers(1, 3),
)  # fmt: skip
def test_whatever_the_sizes_all_images_come_once_and_in_order(sizes, most, rows, threads):
    toy = Toy()
    items = [(r, g) for r, size in enumerate(sizes) for g in groups_of(toy._batch(range(size)), rows)]

    def work(item):
        if len(item[1].ids) > most:
            raise torch.OutOfMemoryError
        return item[0], item[1].ids

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Notice)
        run = list(over_groups(work, iter(items), threads))
    assert all(result == (r, group.ids) for (r, group), result in run)
    images = [(r, i) for (r, group), _ in run for i in group.ids]
    assert images == [(r, i) for r, size in enumerate(sizes) for i in range(size)]
    assert all(len(group.ids) <= most for (_, group), _ in run)


def test_tensors_beside_a_batch_are_split_with_it_and_all_else_is_repeated():
    (batch,) = Toy().batches(1, 8, 0)
    scores, words = torch.arange(8.0)[:, None], ("name", 3)

    def work(item):
        if len(item[0].ids) > 4:
            raise MemoryError

    with pytest.warns(Notice, match="4 images"):
        parts = [item for item, _ in over_groups(work, [(batch, scores, words)], 1)]
    assert [part[2] for part in parts] == [words, words]
    assert torch.equal(torch.cat([part[1] for part in parts]), scores) and len(parts[0][1]) == 4


def test_a_limit_is_kept_from_call_to_call():
    (batch,) = Toy().batches(1, 16, 0)
    task, limit = Tight(), Limit()
    _, first = told(lambda: list(over_groups(losses_of(task), groups_of(batch), 1, limit)))
    before = len(task.calls)
    run, second = told(lambda: list(over_groups(losses_of(task), groups_of(batch), 1, limit)))
    assert limit.rows == 2 and len(first) == 1 and second == []
    assert task.calls[before:] == [2] * 8 == [len(group.ids) for group, _ in run]


def test_one_image_that_does_not_fit_is_an_error_with_advice():
    (batch,) = Toy().batches(1, 8, 0)
    for device, words in ((CPU, "--workers 1"), (GPU, "a --device with more memory")):
        with pytest.raises(OutOfMemory, match=f"{device} ran out of memory with one image at a time; give {words}"):
            Limit().halve(1, device)
    with pytest.raises(GradprobeError, match=r"one image at a time.*--dtype bfloat16"):
        list(over_groups(losses_of(Tight(most=0)), groups_of(batch), 2))


def test_other_errors_and_those_of_the_items_are_not_touched():
    (batch,) = Toy().batches(1, 16, 0)

    def broken(group):
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        list(over_groups(broken, groups_of(batch), 2))

    def items():
        yield from groups_of(batch)[:1]
        raise torch.OutOfMemoryError("while reading")

    with pytest.raises(torch.OutOfMemoryError, match="while reading"):
        list(over_groups(lambda group: None, items(), 1))


def test_an_early_end_leaves_no_thread_behind():
    (batch,) = Toy().batches(1, 32, 0)
    before = threading.active_count()
    walk = over_groups(lambda group: group.ids, groups_of(batch, 2), 2)
    next(walk)
    walk.close()
    assert threading.active_count() == before


def test_memory_of_a_failed_attempt_is_free_before_the_next():
    held: list[weakref.ref] = []

    def work(rows):
        assert all(tensor() is None for tensor in held)
        own = torch.zeros(rows)
        held.append(weakref.ref(own))
        if rows > 1:
            raise torch.OutOfMemoryError
        return rows

    (batch,) = Toy().batches(1, 8, 0)
    with pytest.warns(Notice):
        assert halving(work, 8, CPU) == 1
        assert [rows for _, rows in over_groups(lambda group: work(len(group.ids)), [batch], 1)] == [1] * 8


# One number of images for a whole piece of work


def test_work_begins_anew_with_half_as_many():
    tried = []

    def work(rows):
        tried.append(rows)
        if rows > 3:
            raise MemoryError
        return rows

    limit = Limit()
    result, notices = told(lambda: halving(work, 20, CPU, limit))
    assert result == 2 and tried == [20, 16, 8, 4, 2] and len(notices) == 1
    assert told(lambda: halving(work, 20, CPU, limit)) == (2, [])
    with pytest.raises(OutOfMemory):
        halving(lambda rows: (_ for _ in ()).throw(MemoryError), 4, CPU)


def test_attempts_of_many_threads_do_not_add_up():
    limit, both = Limit(), threading.Barrier(3)

    def work(rows):
        if rows > 4:
            both.wait(10)
            raise MemoryError
        return rows

    threads = [threading.Thread(target=halving, args=(work, 8, CPU, limit)) for _ in range(3)]
    _, notices = told(lambda: [each.start() for each in threads] and [each.join() for each in threads])
    assert limit.rows == 4 and len(notices) == 1


# What a micro-batch begins with


def test_a_cpu_takes_eight_whatever_is_free(free):
    free(1)
    assert rows_for(CPU, 10) == rows_for(CPU, 10_000) == 8


@given(size=st.integers(0, 10**13), tokens=st.integers(1, 40_000))
def test_a_gpu_takes_a_power_of_two_that_fits(size, tokens):
    before = memory.free_memory
    try:
        memory.free_memory = lambda device: size
        rows = rows_for.__wrapped__(GPU, tokens)
    finally:
        memory.free_memory = before
    need = tokens * memory.TOKEN_BYTES
    assert rows & (rows - 1) == 0 and 1 <= rows <= MOST
    assert rows == 1 or rows * need <= memory.SHARE * size
    assert rows == MOST or 2 * rows * need > memory.SHARE * size


def test_pieces_of_a_resumable_run_do_not_depend_on_memory(start_with):
    (batch,) = Toy().batches(1, 20, 0)
    start_with(2)
    assert [len(group.ids) for group in numbered_groups(batch)] == [8, 8, 4]
    assert [len(group.ids) for group in groups_of(batch)] == [2] * 10


def test_a_training_on_a_cpu_takes_more_small_images_at_a_time():
    shapes = {(10, 5): 16, (100, 128): 16, (196, 192): 8, (576, 1024): 8}
    assert {shape: memory.training_rows(torch.empty(1, *shape)) for shape in shapes} == shapes


def test_a_process_keeps_to_what_it_began_with(free):
    free(40e9)
    first = rows_for(GPU, 197)
    assert first == 256 and rows_for(GPU, 197, 10 * memory.TOKEN_BYTES) < first
    memory.free_memory = lambda device: 0  # taken meanwhile
    assert rows_for(GPU, 197) == first


def test_the_estimate_is_what_frozen_blocks_keep():
    model = timm.create_model("vit_base_patch16_224", depth=2, embed_dim=96, num_heads=4).eval().requires_grad_(False)
    tokens = torch.randn(1, 197, 96, requires_grad=True)
    two, one = (
        kept_for_backward(lambda depth=depth: model.blocks[:depth](tokens), model.parameters()) for depth in (2, 1)
    )
    assert 12 * 768 * (two - one) / (197 * 96) == pytest.approx(memory.TOKEN_BYTES, rel=0.1)


# Probes and trainings


RECIPE = Recipe(steps=3, batch_size=20, learning_rate=0.05)


def trained(task):
    trainer = ScorerTrainer(task, gp.build("vpnoise"), 4, "vpnoise", RECIPE, 2)
    list(trainer.run())
    return trainer.losses, [p.detach().clone() for p in task.scorer.parameters()]


def test_a_training_goes_on_with_the_numbers_of_small_micro_batches(start_with):
    (losses, parameters), notices = told(lambda: trained(Tight(scorer=_scorer(5, 0))))
    start_with(2)
    wanted_losses, wanted = trained(Toy(scorer=_scorer(5, 0)))
    assert losses == wanted_losses and all(map(torch.equal, parameters, wanted))
    assert notices == ["cpu ran out of memory; the work goes on with 2 images at a time"]


PROBES = {
    "retention": (
        lambda task: gp.retention(task, "vpnoise", k=4, recipe=RECIPE, images=30),
        ("losses", "curve", "correct", "unpruned", "spread"), 2,
    ),
    "equivalence": (lambda task: gp.equivalence(task, "vpnoise", k=4, images=24), ("ranks", "losses", "ids"), 1),
    "landscape": (lambda task: gp.landscape(task, "vpnoise", k=4, grid="5x7", images=12), ("losses", "centre"), 1),
}  # fmt: skip


@pytest.mark.parametrize("name", PROBES)
def test_a_probe_goes_on_with_the_numbers_of_small_micro_batches(name, start_with):
    ask, arrays, loops = PROBES[name]
    result, notices = told(lambda: ask(Tight(scorer=_scorer(5, 0))))
    start_with(2)
    wanted = ask(Toy(scorer=_scorer(5, 0)))
    for array in arrays:
        assert np.array_equal(getattr(result, array), getattr(wanted, array)), array
    assert 1 <= len(notices) <= loops and len(set(notices)) == 1


@pytest.mark.parametrize("name", PROBES)
def test_a_probe_of_an_image_that_does_not_fit_says_so(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Notice)
        with pytest.raises(GradprobeError, match="out of memory with one image at a time"):
            PROBES[name][0](Tight(most=0))


def test_cells_of_a_piece_that_began_anew_are_counted_once():
    counts = []
    with pytest.warns(Notice):
        gp.landscape(
            Tight(), "vpnoise", k=4, grid="5x7", images=12, progress=lambda text, done, of: counts.append((done, of))
        )
    assert counts[-1] == (35, 35) and counts == sorted(counts)


def test_the_users_model_is_left_as_found(monkeypatch):
    task = gp.classification("scenes", loss="kl")
    model = task.backbone.model.train()
    model.blocks[2].requires_grad_(True)
    flags = [p.requires_grad for p in model.parameters()]
    forward, sizes = type(model.blocks[2]).forward, []

    def tight(block, x, *args, **options):
        sizes.append(len(x))
        if len(x) > 2:
            raise ERRORS["GPU"]
        return forward(block, x, *args, **options)

    monkeypatch.setattr(type(model.blocks[2]), "forward", tight)
    result, notices = told(lambda: gp.equivalence(task, "vpnoise", k=58, images=8, workers=1))
    assert model.training and flags == [p.requires_grad for p in model.parameters()]
    assert max(sizes) == 8 and len(set(notices)) == 1
    monkeypatch.undo()
    assert np.allclose(result.losses, gp.equivalence(task, "vpnoise", k=58, images=8).losses, atol=1e-5)
    assert model.training


def test_an_operator_that_fills_memory_counts_too():
    def hungry(patches, scores, k, noise):
        if len(patches) > 4:
            raise ERRORS["CPU"]
        return hard_topk(patches, scores, k)

    with pytest.warns(Notice, match="with 4 images"):
        result = gp.equivalence(Toy(), hungry, k=4, images=16)
    assert np.array_equal(result.ranks, gp.equivalence(Toy(), "hard", k=4, images=16).ranks)


def test_errors_of_memory_are_told_from_others():
    assert all(map(out_of_memory, ERRORS.values()))
    for other in (RuntimeError("shapes"), ValueError("out of memory"), OutOfMemory("cpu ran out of memory")):
        assert not out_of_memory(other)
