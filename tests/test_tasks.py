"""Classification on a tiny vision transformer: two-stage gradients, losses, and a model that comes back as it was."""

import gc
import weakref
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from toy import Toy

from gradprobe.core import Batch, Noise, Selection
from gradprobe.data.images import Images
from gradprobe.errors import GradprobeError
from gradprobe.models.backbones import Backbone
from gradprobe.models.scorers import MLP, Transformer
from gradprobe.operators import registry
from gradprobe.probes.coherence.measure import coherence
from gradprobe.tasks import Classification, classification

SIZES = {"batches": 3, "batch_size": 2, "draws": 2}


@dataclass(frozen=True)
class Noisy:
    """Images of noise."""

    labelled: bool = True
    skipped: tuple[str, ...] = ()

    def need(self, images):
        pass

    def probe(self, start, size, seed):
        ids = range(start, start + size)
        images = [torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(i)).double() for i in ids]
        return Images(torch.stack(images), torch.tensor([i % 5 for i in ids]), tuple(ids))

    train = probe


def tiny(**options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return VisionTransformer(
            img_size=32, patch_size=8, embed_dim=16, depth=3, num_heads=2, num_classes=5, **options
        ).double()  # fmt: skip


def task_of(model, layer=1, loss="ce", scorer=None):
    backbone = Backbone.of(model, layer=layer)
    made = (scorer or MLP(width=12)).make(16, 0).double()
    return Classification(backbone, Noisy(), made, loss, {"scorer": "mlp", "dtype": "float64"})


@pytest.mark.parametrize("spec", ["gumbel", "gumbel-ste+zero", "scale", "vpnoise", "softtopk:tau=0.3"])
@pytest.mark.parametrize("scorer", [MLP(width=12), Transformer(heads=2)], ids=["mlp", "transformer"])
@pytest.mark.parametrize("layer", [0, 2])
def test_two_stage_gradients_equal_plain_autograd_through_the_whole_graph(spec, scorer, layer):
    model = tiny()
    task, operator = task_of(model, layer, scorer=scorer), registry.build(spec)
    result = coherence(task, operator, 5, **SIZES)
    rows = []
    for i in range(3):
        images = task.source.probe(2 * i, 2, 0)
        for r in range(2):
            tokens = model.blocks[:layer](model.norm_pre(model._pos_embed(model.patch_embed(images.images))))
            scores = task.scorer(tokens[:, 1:].detach())
            sent = operator(tokens[:, 1:], scores, 5, Noise(0, range(2)).draw(r))
            x = torch.cat([tokens[:, :1], sent.tokens], 1)
            mask = None
            if sent.key_bias is not None:
                mask = torch.cat([torch.zeros(2, 1, dtype=x.dtype), sent.key_bias], 1)[:, None, None]
            for block in model.blocks[layer:]:
                x = block(x, attn_mask=mask)
            loss = F.cross_entropy(model.forward_head(model.norm(x)), images.labels)
            grads = torch.autograd.grad(loss, list(task.scorer.parameters()))
            rows.append(torch.cat([g.reshape(-1) for g in grads]))
    gram = torch.stack(rows) @ torch.stack(rows).T
    found = torch.from_numpy(result.gram[0]).sum(0).reshape(6, 6)
    assert torch.allclose(found.double(), gram, rtol=1e-6, atol=1e-6 * float(gram.diagonal().mean()))


def test_keeping_everything_is_the_models_own_loss():
    model = tiny().eval()
    task = task_of(model)
    batch = next(iter(task.batches(1, 2, 0)))
    everything = Selection(batch.tokens.patches, torch.ones(2, 16))
    images = task.source.probe(0, 2, 0)
    own = F.cross_entropy(model(images.images), images.labels, reduction="none")
    assert torch.equal(task.losses(everything, batch), own)


def test_the_kl_loss_is_zero_unpruned_and_positive_pruned():
    task = task_of(tiny(), loss="kl")
    batch = next(iter(task.batches(1, 2, 0)))
    patches = batch.tokens.patches
    assert task.losses(Selection(patches, torch.ones(2, 16)), batch).abs().max() < 1e-12
    assert task.losses(Selection(patches[:, :3], torch.ones(2, 16)), batch).min() > 1e-6


def state_of(model):
    bytes_ = [(n, t.clone()) for n, t in model.state_dict().items()]
    return bytes_, [m.training for m in model.modules()], [p.requires_grad for p in model.parameters()]


@pytest.mark.parametrize("fails", [False, True])
def test_the_frozen_model_comes_back_as_it_was(fails):
    model = tiny(drop_path_rate=0.5).train()
    model.blocks[0].eval()
    model.cls_token.requires_grad_(False)
    before, rng = state_of(model), torch.get_rng_state()
    if fails:

        def explode(patches, scores, k, noise):
            raise RuntimeError("no")

        with pytest.raises(GradprobeError, match=r"explode .* raised RuntimeError: no"):
            coherence(task_of(model), explode, 5, **SIZES)
    else:
        coherence(task_of(model), registry.build("vpnoise"), 5, **SIZES)
    after = state_of(model)
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(before[0], after[0], strict=True))
    assert before[1:] == after[1:]
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(rng, torch.get_rng_state())


def test_memory_holds_one_batch_however_many_there_are():
    alive: weakref.WeakSet = weakref.WeakSet()
    most = []

    class Tracked(Batch):
        __hash__ = object.__hash__

    @dataclass(frozen=True)
    class Watched(Toy):
        def batches(self, count, size, seed):
            for i in range(count):
                batch = self._batch(range(i * size, (i + 1) * size))
                tracked = Tracked(batch.ids, batch.tokens, batch.target)
                alive.add(tracked)
                gc.collect()
                most.append(len(alive))
                yield tracked
                del tracked

    coherence(Watched(), registry.build("scale"), 4, batches=12, batch_size=3, draws=2)
    assert max(most) <= 2


def test_a_task_from_names_is_the_same_from_the_same_seed():
    first, again, other = (classification("scenes", weights="none", seed=s) for s in (0, 0, 1))
    one, two, three = (next(iter(t.scorer.parameters())) for t in (first, again, other))
    assert torch.equal(one, two)
    assert not torch.equal(one, three)
    assert first.question == again.question
    assert first.question["weights"] == "random:0"


@pytest.mark.parametrize("dim", [128, 192, 768])
def test_both_scorers_have_24_d_squared_parameters(dim):
    for config in (MLP(), Transformer()):
        with torch.device("meta"):
            count = sum(p.numel() for p in config.make(dim, 0).parameters())
        assert abs(count / (24 * dim**2) - 1) < 0.03
