"""Every probe runs on a device, and gives what it gives on the host where rounding cannot decide otherwise."""

import numpy as np
import pytest

import gradprobe as gp
from gradprobe.noise import HOST, PHILOX
from gradprobe.operators.registry import build
from gradprobe.probes import probe_of
from gradprobe.probes.contract import Resources, Subject

SMALL = {
    "coherence": {"batches": 3, "batch_size": 2},
    "landscape": {"grid": "3x3", "images": 2},
    "curvature": {"eigenvalues": 1, "images": 2, "samples": 2, "tolerance": 0.1},
    "fidelity": {"images": 3, "held_out": 3, "draws": 32, "sigmas": (1.0,), "ladder": (0.01,), "noise_draws": 3},
    "equivalence": {"images": 6},
    "retention": {"steps": 2, "batch_size": 4, "images": 8},
    "cost": {"images": 2, "rounds": 6},
}
K = 58


def measured(probe, task, operator):
    declared = probe_of(probe)
    subject = Subject(task.with_new_scorer(0), build(operator), K)
    return declared.part("measure")(subject, declared.settings(**SMALL[probe]), Resources())


@pytest.mark.parametrize("operator", ["vpnoise", "gumbel", "softtopk"])
@pytest.mark.parametrize("probe", SMALL)
def test_every_probe_runs(device, probe, operator):
    task = gp.classification("scenes", device=device)
    if device != "cpu":
        assert task.generator == PHILOX  # made where it is used
    result = measured(probe, task, operator)
    row = result.row()
    assert row["op"] == result.question["op"]
    assert result.question.get("generator") == (PHILOX if device != "cpu" else None)


@pytest.mark.parametrize(("operator", "field"), [("vpnoise", "gram"), ("gumbel", "gram"), ("vpnoise", "losses")])
def test_coherence_is_that_of_the_host(device, operator, field):
    found = []
    for place in ("cpu", device):
        task = gp.classification("scenes", device=place, dtype="float64", generator=HOST)
        found.append(getattr(measured("coherence", task, operator), field))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4, atol=1e-6 * np.abs(found[0]).max())


def test_a_landscape_is_that_of_the_host(device):
    losses = []
    for place in ("cpu", device):
        task = gp.classification("scenes", device=place, dtype="float64", generator=HOST)
        losses.append(measured("landscape", task, "vpnoise").losses)
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-6)


def test_retention_of_a_vision_language_model_runs(device):
    task = gp.vlm.captioning("scenes-vlm", device=device)
    declared = probe_of("retention")
    subject = Subject(task.with_new_scorer(1), build("vpnoise"), 11)
    result = declared.part("measure")(subject, declared.settings(steps=2, batch_size=4, images=8), Resources())
    assert len(result.losses) == 2
    assert np.isfinite(result.losses).all()
    assert len(result.correct) == 8
