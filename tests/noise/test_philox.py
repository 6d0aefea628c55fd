"""Philox: known answers, the same bits from numpy, torch and the GPU's kernel, and numbers that never change."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy.special import gammaincinv

from gradprobe.core import Noise
from gradprobe.noise.gamma_quantile import quantile
from gradprobe.noise.philox_bits import by_torch, words

KEYS = ((3, 1), (2**64 - 1, 2**62), (0, 0), (7, 2**64 - 1))
TAILS = ((0, 0, 0), (1 << 40, 1, 2), (2**64 - 1, 1000, 3))
CPU = torch.device("cpu")
NORMAL = [1.4937068223953247, -1.3386213779449463, 1.1099098920822144, -1.1882623434066772]
GUMBEL = [0.566801130771637, -0.26379939913749695, 0.6391175389289856, -1.0479366779327393]
UNIFORM = [0.367095410823822, 0.8067591786384583, 0.5446522831916809, 0.3032694458961487]
GAMMA = [0.1860880700155294, 0.1534326226237926, 0.007764670541088253, 0.5691046782338709]


def rows(keys):
    return torch.from_numpy(np.array(keys, np.uint64).view(np.int64))


def test_numpy_gives_the_known_answers_of_random123():
    """Counter and key 0; numpy counts up before it draws."""
    philox = np.random.Philox(key=np.zeros(2, np.uint64), counter=np.full(4, 2**64 - 1, np.uint64))
    answer = [0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B]
    assert philox.random_raw(4).tolist() == answer


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("count", [1, 4, 1001])
def test_integer_operations_of_torch_give_the_bits_of_numpy(tail, count):
    expected = words(KEYS, tail, count, CPU)
    assert expected.dtype == torch.int64
    assert torch.equal(by_torch(rows(KEYS), tail, -(-count // 4)).flatten(1)[:, :count], expected)


def test_the_kernel_gives_the_same_bits_in_tritons_interpreter():
    pytest.importorskip("triton")
    code = f"""
import numpy as np, torch
from gradprobe.noise.philox_bits import by_torch
from gradprobe.noise.philox_kernel import launch
keys = torch.from_numpy(np.array({KEYS}, np.uint64).view(np.int64))
for tail in {[t for t in TAILS if max(t) < 2**63]}:
    for blocks in (1, 300, 513):
        assert torch.equal(launch(keys, tail, blocks), by_torch(keys, tail, blocks)), (tail, blocks)
print("equal")
"""
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "equal", done.stderr


def test_numbers_never_change():
    """Stored answers were made with them; their last place may differ with another logarithm or cosine."""
    noise = Noise(2, (11,), index=5, source=1, generator="philox")
    close = {"rtol": 1e-6, "atol": 0}
    torch.testing.assert_close(noise.normal((4,))[0], torch.tensor(NORMAL), **close)
    torch.testing.assert_close(noise.gumbel((4,))[0], torch.tensor(GUMBEL), **close)
    assert noise.uniform((4,))[0].tolist() == UNIFORM
    wide = torch.zeros(0, dtype=torch.float64)
    torch.testing.assert_close(noise.gamma(0.5, (4,), wide)[0], torch.tensor(GAMMA, dtype=torch.float64), **close)


@pytest.mark.parametrize("concentration", [0.01, 1 / 58, 0.3, 1.0, 7.5, 1e4])
def test_the_table_of_gamma_quantiles_is_exact_to_seven_digits(concentration):
    tails = 2.0 ** -torch.linspace(1e-3, 31, 2000, dtype=torch.float64)
    v = torch.cat([tails, (torch.arange(5000, dtype=torch.float64) + 0.5) / 5000])
    expected = torch.from_numpy(gammaincinv(concentration, (1 - v).numpy()))
    shown = (v > 1e-9) & (expected > 1e-290)  # 1 - v has too few digits beyond
    torch.testing.assert_close(quantile(concentration, CPU)(v)[shown], expected[shown], rtol=1e-6, atol=0)


def test_no_number_of_any_bits_is_infinite():
    from gradprobe.noise.philox_numbers import OF_BITS

    ends = torch.tensor([0, 1, -1, 2**31 - 1, -(2**31), 2**30], dtype=torch.int32)
    bits = torch.cartesian_prod(ends, ends).flatten()[None]
    for kind, make in OF_BITS.items():
        values = make(bits, *((0.3,) if kind == "gamma" else ()))
        assert values.isfinite().all(), kind
        assert kind != "uniform" or (values.min() > 0 and values.max() < 1)
