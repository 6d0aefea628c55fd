"""Properties of inputs and global state: an operator changes neither."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch

from gradprobe.testing.cases import TOKENS, normal_case
from gradprobe.testing.findings import SHAPE, Broken, Subject, error_text
from gradprobe.testing.properties import KEYED


def inputs_untouched(subject: Subject) -> str:
    """Patches and scores are left as they were."""
    for plain in (normal_case(), normal_case(TOKENS, torch.float32)):
        case = replace(plain, scores=plain.scores.clone(), patches=plain.patches.clone())
        before = case.patches._version, case.scores._version
        try:
            subject.operator(case.patches, case.scores, case.k, noise=case.noise)
        except Exception as error:
            raise Broken(case.describe(), error_text(error, subject.name), SHAPE) from error
        for i, (name, is_now, was) in enumerate(
            (("patches", case.patches, plain.patches), ("scores", case.scores, plain.scores))
        ):
            remedy = "work on a copy: x = x.clone(), or x * 2 for x.mul_(2)"
            if is_now._version != before[i] or not torch.equal(is_now, was):
                raise Broken(case.describe(), f"{name} are changed in place", remedy)
            if is_now.requires_grad or is_now.grad is not None:
                raise Broken(case.describe(), f"{name} ask for a gradient afterwards", "leave requires_grad as it is")
    return "values, versions, requires_grad"


def surroundings_untouched(subject: Subject) -> str:
    """Global random numbers (torch, numpy, Python), grad mode, default dtype and threads are left as they were."""
    case = normal_case().leaf()
    before = global_state()
    subject.gradient(subject(case).tokens.sum(), case)
    for what, value in global_state().items():
        if value != before[what]:
            remedy = KEYED if "random" in what else "change no global setting inside an operator"
            raise Broken(case.describe(), f"it changes {what}", remedy)
    return "random numbers, grad mode, default dtype, threads"


@contextmanager
def surroundings_kept() -> Iterator[None]:
    """Restore the global state on exit, whatever an operator did to it."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002, it is the global one
    dtype, threads, grad = torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled()
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        random.setstate(states[2])
        torch.set_default_dtype(dtype)
        torch.set_num_threads(threads)
        torch.set_grad_enabled(grad)


def global_state() -> dict[str, object]:
    """Return the settings and random states that an operator must leave alone, by name."""
    state = np.random.get_state(legacy=False)  # noqa: NPY002, it is the global one that must not move
    assert isinstance(state, dict)
    return {
        "torch's random numbers": torch.get_rng_state().numpy().tobytes(),
        "numpy's random numbers": (state["state"]["key"].tobytes(), state["state"]["pos"]),
        "Python's random numbers": random.getstate(),
        "grad mode": torch.is_grad_enabled(),
        "default dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
    }
