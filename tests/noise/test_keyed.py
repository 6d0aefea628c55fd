"""Properties of keyed noise that both generators have."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from gradprobe.core import Noise, Stream
from gradprobe.errors import UsageError
from gradprobe.noise import GENERATORS

DISTRIBUTIONS = {
    "normal": stats.norm(), "uniform": stats.uniform(), "gumbel": stats.gumbel_r(), "gamma": stats.gamma(0.3),
}  # fmt: skip
PARAMETERS = {"gamma": (0.3,)}
KEYS = {
    "seed": lambda i, make: make(seed=i),
    "id": lambda i, make: make(ids=(i,)),
    "draw": lambda i, make: make().draw(i),
    "stream": lambda i, make: make().stream(i),
}
kinds = pytest.mark.parametrize("kind", DISTRIBUTIONS)
generators = pytest.mark.parametrize("generator", GENERATORS)


def drawn(noise, kind, shape, like=None):
    return getattr(noise, kind)(*PARAMETERS.get(kind, ()), shape, like=like)


@kinds
@generators
@given(ids=st.lists(st.integers(0, 2**63), min_size=1, max_size=6, unique=True), data=st.data())
@settings(max_examples=20)
def test_an_images_noise_does_not_depend_on_its_batch_or_order(kind, generator, ids, data):
    order = data.draw(st.permutations(ids))
    here, there = (drawn(Noise(3, each, generator=generator), kind, (5, 3)) for each in (ids, order))
    for i, image in enumerate(ids):
        assert torch.equal(here[i], there[order.index(image)])


@kinds
@generators
def test_images_of_several_seeds_share_a_batch(kind, generator):
    joined = drawn(Noise((4, 5, 4), (7, 7, 8), generator=generator), kind, (9,))
    for row, (seed, image) in zip(joined, ((4, 7), (5, 7), (4, 8)), strict=True):
        assert torch.equal(row, drawn(Noise(seed, (image,), generator=generator), kind, (9,))[0])


@generators
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_uniform_numbers_exclude_both_ends_in_every_type(generator, dtype):
    values = Noise(1, range(200), generator=generator).uniform((1001,), torch.zeros(0, dtype=dtype))
    assert values.dtype == dtype and values.min() > 0 and values.max() < 1


@kinds
@generators
def test_noise_has_the_promised_distribution(kind, generator):
    values = drawn(Noise(1, range(200), generator=generator), kind, (1001,), torch.zeros(0, dtype=torch.float64))
    assert values.isfinite().all()
    assert stats.kstest(values.flatten(), DISTRIBUTIONS[kind].cdf).pvalue > 1e-3
    scores = stats.norm.ppf(DISTRIBUTIONS[kind].cdf(values.flatten()).clip(1e-12, 1 - 1e-12))
    moments = scores.mean(), scores.var() - 1, stats.skew(scores), stats.kurtosis(scores)
    for moment, variance in zip(moments, (1, 2, 6, 24), strict=True):  # of Gaussian numbers, times their number
        assert abs(moment) < 4 * (variance / len(scores)) ** 0.5


@pytest.mark.parametrize("part", KEYS)
@kinds
@generators
def test_numbers_of_neighbouring_keys_are_independent(kind, generator, part):
    """The mean square correlation of n numbers of independent rows is 1 / n."""

    def make(seed=0, ids=(7,)):
        return Noise(seed, ids, generator=generator)

    wide = torch.zeros(0, dtype=torch.float64)
    rows = torch.cat([drawn(KEYS[part](i, make), kind, (2000,), wide) for i in range(60)])
    ranks = rows.argsort(-1).argsort(-1).double()
    between = torch.corrcoef(ranks)[~torch.eye(60, dtype=torch.bool)]
    assert abs(between.square().mean() * 2000 - 1) < 0.12
    assert between.abs().max() < 5 / 2000**0.5


@kinds
@generators
def test_numbers_of_an_image_are_independent_of_their_neighbours(kind, generator):
    """So are the lanes of a block: the four words of a counter, the two halves of a word."""
    values = drawn(Noise(0, range(100), generator=generator), kind, (1600,), torch.zeros(0, dtype=torch.float64))
    values = values.flatten().argsort().argsort().double().reshape(-1, 16)
    lanes = torch.corrcoef(values.T)[~torch.eye(16, dtype=torch.bool)]
    assert lanes.abs().max() < 5 / len(values) ** 0.5
    squares = torch.corrcoef((values - values.mean()).square().T)[~torch.eye(16, dtype=torch.bool)]
    assert squares.abs().max() < 5 / len(values) ** 0.5


@generators
def test_noise_leaves_the_global_generators_alone(generator):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    Noise(0, (1, 2), generator=generator).gumbel((4,))
    assert torch.equal(before, torch.get_rng_state())


@kinds
@generators
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_noise_is_the_same_numbers_in_any_dtype(kind, generator, dtype):
    noise = Noise(0, (1,), generator=generator)
    wide = drawn(noise, kind, (8,), torch.zeros(1, dtype=torch.float64))
    assert torch.equal(wide.to(dtype), drawn(noise, kind, (8,), torch.zeros(1, dtype=dtype)))


@generators
@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 1), (2, 0, 4)])
def test_any_shape_can_be_drawn(generator, shape):
    assert Noise(0, (1, 2), generator=generator).normal(shape).shape == (2, *shape)


def test_the_numbers_of_the_streams_never_change():
    """They are part of the random numbers of every stored answer."""
    assert dict(Stream.__members__) == {
        "RELAXATION": 0, "THROTTLE": 1, "SMOOTHING": 2, "RANKING": 2, "FIDELITY_SCORES": 3, "VALIDATION": 7,
        "EQUIVALENCE_SCORES": 1000,
    }  # fmt: skip
    by_hand = np.random.Generator(np.random.SFC64([4, 5, 3, 2])).standard_normal(7, dtype=np.float32)
    assert Noise(4, (5,)).draw(3).stream(Stream.SMOOTHING).normal((7,))[0].tolist() == by_hand.tolist()


@kinds
@generators
def test_a_batch_without_images_has_noise_of_its_shape_on_either_generator(generator, kind):
    values = drawn(Noise(0, (), generator=generator), kind, (4, 3), torch.zeros(1, dtype=torch.float64))
    assert values.shape == (0, 4, 3) and values.dtype == torch.float64


@generators
def test_numpys_whole_numbers_are_keys_as_pythons_are(generator):
    here = Noise(np.int64(3), np.array([7, 2**62]), generator=generator).draw(np.int64(2)).normal((5,))
    assert torch.equal(here, Noise(3, (7, 2**62), generator=generator).draw(2).normal((5,)))


KEYED = "seeds, image ids and draws are whole numbers, 0 to 2\\^64 - 1"
WRONG = {
    "a negative id": (lambda make: make(ids=(-1,)).normal((1,)), f"cannot be keyed by -1; {KEYED}"),
    "a negative seed": (lambda make: make(seed=-1).normal((1,)), f"cannot be keyed by -1; {KEYED}"),
    "a negative draw": (lambda make: make().draw(-1).normal((1,)), f"cannot be keyed by -1; {KEYED}"),
    "an id of 65 bits": (lambda make: make(ids=(2**64,)).normal((1,)), f"cannot be keyed by {2**64}; {KEYED}"),
    "a share as id": (lambda make: make(ids=(1.5,)).normal((1,)), f"cannot be keyed by 1.5; {KEYED}"),
    "a share as draw": (lambda make: make().draw(1.5).normal((1,)), f"cannot be keyed by 1.5; {KEYED}"),
    "a word as id": (lambda make: make(ids=("a.png",)).normal((1,)), f"cannot be keyed by 'a.png'; {KEYED}"),
    "a share as one of the seeds": (lambda make: make(seed=(0.5,)).normal((1,)), f"cannot be keyed by 0.5; {KEYED}"),
    "a share as seed": (lambda make: make(seed=0.5), "seed=0.5 is no key of noise; give whole numbers: Noise"),
    "one id without brackets": (lambda make: make(ids=7), "ids=7 is no key of noise; give whole numbers: Noise"),
    "seeds for other images": (lambda make: make(seed=(1, 2)), "2 seeds for 1 images"),
    "whole numbers": (lambda make: make().normal((1,), torch.zeros(1, dtype=torch.int64)), "no noise of torch.int64"),
    "a concentration of 0": (lambda make: make().gamma(0.0, (1,)), "no gamma numbers of concentration 0.0; give one"),
    "no concentration": (lambda make: make().gamma(float("nan"), (1,)), "no gamma numbers of concentration nan"),
}


@pytest.mark.parametrize(("wrong", "match"), WRONG.values(), ids=WRONG)
@generators
def test_what_keys_no_noise_is_refused_alike_by_both_generators(generator, wrong, match):
    with pytest.raises(UsageError, match=match):
        wrong(lambda seed=0, ids=(7,): Noise(seed, ids, generator=generator))


def test_an_unknown_generator_is_refused():
    with pytest.raises(UsageError, match="no generator of noise is called 'filox'; did you mean 'philox'"):
        Noise(0, (1,), generator="filox")
