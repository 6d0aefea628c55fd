"""Operators and their solvers give on a device what they give on the host."""

import pytest
import torch
from questions import cases, cdfs, questions

import gradprobe as gp
from gradprobe.core import Noise, hard_topk, top_k_mask
from gradprobe.noise import PHILOX
from gradprobe.noise.philox_bits import _kernel_agrees, by_torch, words
from gradprobe.operators.registry import registered

N, K, D = 60, 17, 8


def given(device, dtype=torch.float64, images=3):
    generator = torch.Generator().manual_seed(0)
    patches = torch.randn(images, N, D, generator=generator, dtype=dtype)
    scores = torch.randn(images, N, generator=generator, dtype=dtype)
    return patches.to(device), scores.to(device)


@pytest.mark.parametrize("n", [1, 7, 196, 2880, 32768])
@pytest.mark.parametrize("cdf", ["laplace", "logistic", "gaussian", "linear"])
def test_soft_top_k_is_that_of_the_host(device, n, cdf):
    scores = torch.randn(4, n, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    k = max(0.3 * n, 0.5)
    weights, slopes = {}, {}
    for place in ("cpu", device):
        leaf = scores.to(place).requires_grad_()
        out = gp.soft_topk(leaf, k, 0.5, cdf)
        assert out.device.type == place
        (slope,) = torch.autograd.grad(
            out, leaf, torch.linspace(-1, 1, n, dtype=torch.float64, device=place).expand(4, n)
        )
        weights[place], slopes[place] = out.detach().cpu(), slope.cpu()
    torch.testing.assert_close(weights[device], weights["cpu"], atol=1e-9, rtol=0)
    torch.testing.assert_close(slopes[device], slopes["cpu"], atol=1e-9, rtol=0)


@cdfs
@cases
def test_hard_questions_have_the_answers_of_the_host(device, cdf, case):
    scores, k, tau = questions(case)
    alpha = gp.soft_topk(scores.to(device), k.to(device), tau.to(device), cdf)
    torch.testing.assert_close(alpha.cpu(), gp.soft_topk(scores, k, tau, cdf), atol=1e-10, rtol=0)


def test_the_first_of_equal_scores_win_on_any_device(device):
    scores = torch.randint(0, 3, (16, 500), generator=torch.Generator().manual_seed(1)).float()
    for k in (1, 100, 250, 499):
        assert torch.equal(top_k_mask(scores.to(device), k).cpu(), top_k_mask(scores, k))
    patches = torch.arange(500.0)[None, :, None].expand(16, -1, 2)
    kept = hard_topk(patches.to(device), scores.to(device), 100)
    assert torch.equal(kept.index.cpu(), hard_topk(patches, scores, 100).index)
    assert torch.equal(kept.tokens[..., 0].cpu(), kept.index.cpu().float())


@pytest.mark.parametrize("name", registered())
def test_every_operator_selects_and_differentiates_as_on_the_host(device, name):
    operator, found = gp.build(name), {}
    for place in ("cpu", device):
        patches, scores = given(place)
        leaf = scores.requires_grad_()
        selection = operator(patches, leaf, K, noise=Noise(0, (3, 4, 5)))
        parts = [selection.tokens, selection.key_bias, selection.self_bias, selection.log_prob, selection.penalty]
        parts = [each for each in parts if each is not None and each.requires_grad]
        total = sum((each * torch.linspace(-1, 1, each.numel(), device=place).view_as(each)).sum() for each in parts)
        (slope,) = torch.autograd.grad(total, leaf)
        found[place] = [each.detach().cpu() for each in (selection.tokens, selection.weights, slope)]
    for mine, theirs in zip(found[device], found["cpu"], strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-7, rtol=1e-7)


def test_a_device_makes_the_bits_of_noise_as_integer_operations_do_and_a_gpu_by_its_kernel(device):
    keys, tail, place = torch.tensor([[3, 1], [0, 1 << 62]]), (1 << 40, 1, 2), torch.zeros(0, device=device).device
    made = words(keys.tolist(), tail, 1000, place)
    assert made.device == place
    assert torch.equal(made, by_torch(keys.to(place), tail, 250).flatten(1))
    assert device != "cuda" or _kernel_agrees(place)


def test_noise_has_the_same_bits_on_any_device(device):
    ids, shape = (0, 7, 2**40), (33, 5)
    for seed in (0, 2**31, [1, 2, 3]):
        noise = Noise(seed, ids, generator=PHILOX).draw(3).stream(1)
        like = torch.zeros((), device=device)
        assert torch.equal(noise.uniform(shape, like=like).cpu(), noise.uniform(shape))
        for kind in ("normal", "gumbel"):
            here, there = getattr(noise, kind)(shape), getattr(noise, kind)(shape, like=like)
            assert there.device.type == device
            torch.testing.assert_close(there.cpu(), here, atol=2e-6, rtol=2e-6)
        torch.testing.assert_close(
            noise.gamma(0.3, shape, like=like).cpu(), noise.gamma(0.3, shape), atol=1e-6, rtol=1e-5
        )
