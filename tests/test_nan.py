"""A NaN among the scores is refused where tokens are ranked, or stays visible; it never wins a place among the K."""

import itertools

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torch.func import grad, hessian, jvp, vmap
from toy import Toy

import gradprobe as gp
from gradprobe.core import Batch, Noise, Operator, hard_topk, top_k, top_k_mask
from gradprobe.errors import GradprobeError
from gradprobe.models.rankings import Selecting
from gradprobe.operators.registry import RELAXATIONS, THROTTLES, build, names, part, registered
from gradprobe.probes.landscape.measure import landscape

# torch.func imports a torch module that still uses the deprecated torch.jit
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*")
N, D = 9, 4
SIMPLEST = [f"{name}:{fields}" for name, fields in (
    ("gumbel-ste", "backward=soft"), ("gumbel-ste", "scale=0"), ("simple", "forward=marginal"), ("imle", "lam=norm"),
)]  # fmt: skip


def case(dtype=torch.float64, place=4):
    rng = torch.Generator().manual_seed(3)
    patches, scores = torch.randn(3, N, D, generator=rng).to(dtype), torch.randn(3, N, generator=rng).to(dtype)
    scores[1, place] = torch.nan
    return patches, scores, Noise(0, (5, 6, 7))


def check_visible(make):
    """Refused, or the weights of that image show it, and so does all that a model would read of it."""
    try:
        selection = make()
    except GradprobeError as error:
        assert "NaN" in str(error) and "\n" not in str(error)
        return
    assert selection.weights[1].isnan().any()
    read = [x for x in (selection.tokens, selection.key_bias, selection.self_bias) if x is not None]
    assert any(x[1].isnan().any() for x in read)


@pytest.mark.parametrize("k", [1, 3, N])
@pytest.mark.parametrize("name", sorted({*RELAXATIONS, *names("relaxation"), *SIMPLEST}))
def test_no_relaxation_keeps_a_nan(name, k):
    for place, dtype in itertools.product((0, 4, N - 1), (torch.float32, torch.float64)):
        _, scores, noise = case(dtype, place)
        relaxation = part("relaxation", name)
        try:
            weights = relaxation(scores, k, noise)
        except GradprobeError as error:
            assert "1 of 27 scores is NaN (image 2 of 3" in str(error)
        else:
            assert weights[1, place].isnan()


@pytest.mark.parametrize("k", [1, 3, N])
@pytest.mark.parametrize("throttle", sorted({*THROTTLES, *names("throttle")}))
@pytest.mark.parametrize("relaxation", ["hard", "lapsum", "hard-concrete", "sigmoid", "random"])
def test_no_operator_hands_on_numbers_for_a_nan(relaxation, throttle, k):
    patches, scores, noise = case()
    operator = Operator(part("relaxation", relaxation), part("throttle", throttle))
    check_visible(lambda: operator(patches, scores, k, noise=noise))


@pytest.mark.parametrize("name", registered())
def test_no_registered_operator_hands_on_numbers_for_a_nan(name):
    patches, scores, noise = case()
    check_visible(lambda: build(name)(patches, scores, 3, noise=noise))


@pytest.mark.parametrize("throttle", sorted(THROTTLES))
def test_a_nan_weight_of_a_users_own_relaxation_stays_visible(throttle):
    patches, scores, noise = case()
    check_visible(lambda: part("throttle", throttle)(patches, scores.sigmoid(), 3, noise))


def test_the_refusal_says_how_many_and_of_which_images():
    scores = torch.zeros(4, 3)
    scores[0, 1] = scores[2, 0] = scores[2, 2] = torch.nan
    for rank in (top_k, top_k_mask, lambda s, k: hard_topk(torch.zeros(4, 3, 2), s, k)):
        with pytest.raises(GradprobeError, match=r"^3 of 12 scores are NaN \(images 1, 3 of 4 of the batch\).*float64"):
            rank(scores, 2)


def test_infinite_scores_are_ranked_like_any_other():
    inf = torch.inf
    scores = torch.tensor([[0.0, inf, -inf, 1.0], [-inf, -inf, -inf, 0.0]])
    assert top_k(scores, 2).tolist() == [[1, 3], [0, 3]]
    assert build("hard")(torch.ones(2, 4, 1), scores, 2, noise=Noise(0, (0, 1))).index.tolist() == [[1, 3], [0, 3]]


def kept_sum(values):
    return values.gather(-1, top_k(values, 2)).square().sum()


TRANSFORMS = {
    "vmap": vmap(kept_sum),
    "grad": grad(kept_sum),
    "vmap of grad": vmap(grad(kept_sum)),
    "grad of vmap": grad(lambda x: vmap(kept_sum)(x).sum()),
    "hessian": hessian(kept_sum),
    "jvp": lambda x: jvp(kept_sum, (x,), (x,))[1],
    "compile": torch.compile(kept_sum, backend="eager", fullgraph=True),
    "compile of aot": torch.compile(kept_sum, backend="aot_eager", fullgraph=True),
}


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.filterwarnings("ignore")  # of torch's compiler
def test_the_check_looks_through_transforms_and_the_compiler(name):
    values = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 4.0]])
    output = TRANSFORMS[name](values)
    slope = torch.tensor([[6.0, 0.0, 4.0], [0.0, 10.0, 8.0]])
    wanted = {
        "vmap": torch.tensor([13.0, 41.0]), "grad": slope, "vmap of grad": slope, "grad of vmap": slope,
        "hessian": torch.diag_embed((slope > 0).flatten() * 2.0).reshape(2, 3, 2, 3), "jvp": torch.tensor(108.0),
    }.get(name, torch.tensor(54.0))  # fmt: skip
    assert torch.equal(output, wanted)
    values[1, 0] = torch.nan
    with pytest.raises(GradprobeError, match="NaN has no rank"):
        TRANSFORMS[name](values)


class One(nn.Module):
    """A scorer that gives one token of each image a NaN."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, patches):
        scores = self.weight * patches[..., 0]
        return torch.where(torch.arange(scores.shape[1]) == 2, torch.nan, scores)


def test_a_pruned_model_refuses_it():
    pruned = gp.prune(timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, num_classes=3), One(), k=2)
    for call in (pruned, pruned.kept):
        with pytest.raises(GradprobeError, match=r"1 of 4 scores is NaN \(image 1 of 1"):
            call(torch.randn(1, 3, 32, 32))


def test_rankings_without_a_scorer_refuse_it():
    (batch,) = Toy().batches(1, 3, 0)
    patches = batch.tokens.patches.clone()
    patches[1, 2] = torch.nan
    spoilt = Batch(batch.ids, type(batch.tokens)(batch.tokens.prefix, patches), batch.target)
    with pytest.raises(GradprobeError, match="image 2 of 3"):
        Selecting.of(Toy(), "norm", 3).choose(spoilt)


@pytest.mark.parametrize("op", ["hard+gather", "lapsum+gather", "lapsum+zero", "lapsum+attention", "vpnoise", "scale"])
def test_a_cell_whose_scores_are_nan_has_a_nan_loss_and_the_others_are_as_without_it(op):
    """Far out the scorer overflows: the landscape says so there, whatever the operator would make of it."""
    task = Toy(scorer=Overflowing())
    result = landscape(task, build(op), 3, grid="5", images=3, reach=2.0)
    undefined = np.isnan(result.losses)
    assert undefined.any() and not undefined.all() and not undefined[0, 2].any()
    near = landscape(Toy(scorer=Overflowing(limit=torch.inf)), build(op), 3, grid="5", images=3, reach=2.0)
    assert np.isfinite(near.losses).all()
    assert np.array_equal(result.losses[~undefined], near.losses[~undefined])


class Overflowing(nn.Module):
    """Scores of one image are infinity minus infinity once the weight has moved."""

    def __init__(self, limit=1e-3):
        super().__init__()
        self.weight, self.limit = nn.Parameter(torch.linspace(-1, 1, 5, dtype=torch.float64)[None]), limit

    def forward(self, patches):
        still = torch.linspace(-1, 1, 5, dtype=patches.dtype)
        wild = (self.weight[0] - still).abs().sum() > self.limit
        scores = patches @ self.weight[0]
        return torch.where(wild & (patches[:, :1, 0] > 0), torch.nan, scores)
