"""One Triton kernel for the words of Philox4x64-10; imported on a GPU alone."""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 256  # counters of a program


@triton.jit(do_not_specialize=["blocks", "draw", "stream", "kind"])
def _kernel(out, keys, blocks, draw, stream, kind, size: tl.constexpr):
    image = tl.program_id(1).to(tl.int64)
    at = tl.program_id(0).to(tl.int64) * size + tl.arange(0, size)
    k0 = tl.load(keys + 2 * image).to(tl.uint64)
    k1 = tl.load(keys + 2 * image + 1).to(tl.uint64)
    zero = (at * 0).to(tl.uint64)
    c0, c1 = (at + 1).to(tl.uint64), zero + draw.to(tl.uint64)
    c2, c3 = zero + stream.to(tl.uint64), zero + kind.to(tl.uint64)
    c0, c1, c2, c3 = tl.philox_impl(c0, c1, c2, c3, zero + k0, zero + k1)
    first = out + (image * blocks + at) * 4
    mask = at < blocks
    tl.store(first, c0.to(tl.int64), mask)
    tl.store(first + 1, c1.to(tl.int64), mask)
    tl.store(first + 2, c2.to(tl.int64), mask)
    tl.store(first + 3, c3.to(tl.int64), mask)


def launch(keys: Tensor, tail: tuple[int, int, int], blocks: int) -> Tensor:
    """Return the words ``(B, blocks, 4)`` for keys ``(B, 2)``, as `gradprobe.noise.philox_bits.by_torch` does."""
    out = torch.empty(len(keys), blocks, 4, dtype=torch.int64, device=keys.device)
    if out.numel():
        with torch.cuda.device(keys.device) if keys.is_cuda else torch.device(keys.device):
            _kernel[(triton.cdiv(blocks, BLOCK), len(keys))](out, keys.contiguous(), blocks, *tail, size=BLOCK)
    return out
