"""Denoisers begin as the identity; a per-token one copies nothing between tokens and is a block with the mask I_N."""

import pytest
import torch
import torch.nn.functional as F

from gradprobe.errors import UsageError
from gradprobe.operators.registry import label, part

SPECS = ("token", "token:width=24", "token:hidden=5", "global", "global:width=24,heads=3")


def made(spec, dim=12, stirred=True):
    """A denoiser in float64, its parameters moved away from where they begin."""
    network = part("denoiser", spec).make(dim, seed=0).double()
    generator = torch.Generator().manual_seed(1)
    if stirred:
        for parameter in network.parameters():
            parameter.data += torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return network


def tokens(n=5, dim=12):
    return torch.randn(2, n, dim, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@pytest.mark.parametrize("spec", SPECS)
def test_it_begins_as_the_identity_and_can_leave_it(spec):
    network, x = made(spec, stirred=False), tokens()
    assert torch.equal(network(x), x)
    network(x).square().sum().backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in network.parameters())
    assert not torch.equal(made(spec)(x), x)


@pytest.mark.parametrize("spec", SPECS)
def test_only_a_global_one_lets_tokens_see_each_other(spec):
    network = made(spec)
    jacobian = torch.autograd.functional.jacobian(lambda x: network(x[None])[0], tokens()[0]).abs().amax((1, 3))
    apart = jacobian[~torch.eye(5, dtype=torch.bool)]
    assert jacobian.diagonal().min() > 0
    assert apart.min() > 0 if spec.startswith("global") else apart.max() == 0


def test_a_token_alone_is_a_block_with_an_identity_mask():
    network, x = made("token"), tokens()
    normed = network.norm1(x)
    value = network.value(normed)
    anything = torch.randn(2, *x.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    looked = F.scaled_dot_product_attention(*anything, value, attn_mask=torch.eye(5, dtype=torch.bool))
    y = x + network.mixed(looked)
    assert torch.allclose(network(x), y + network.down(F.gelu(network.up(network.norm2(y)))), atol=1e-12)


@pytest.mark.parametrize("spec", SPECS)
def test_seeds_decide_it_and_the_global_numbers_stay(spec):
    before = torch.get_rng_state()
    one, again, other = (part("denoiser", spec).make(8, seed=s) for s in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    state = [m.state_dict()["value.weight"] for m in (one, again, other)]
    assert torch.equal(state[0], state[1]) and not torch.equal(state[0], state[2])
    assert label(part("denoiser", spec)) == spec


def test_none_is_nothing():
    assert part("denoiser", "none").make(8, 0) is None


@pytest.mark.parametrize("spec", ["token:width=-1", "global:heads=-2", "local", "token:depth=2"])
def test_what_is_not_possible_is_refused(spec):
    with pytest.raises(UsageError):
        part("denoiser", spec)
    with pytest.raises(UsageError, match="give heads that divide it"):
        part("denoiser", "global:heads=5").make(12, 0)
