"""Properties that every declared probe has; a probe's own test is its row in `SMALL`."""

import contextlib
import dataclasses
import typing

import numpy as np
import pytest
from toy import Toy

from gradprobe.errors import GradprobeError, UsageError
from gradprobe.operators import registry
from gradprobe.probes.contract import Probe, Resources, Subject, question_of
from gradprobe.ranges import RANGES
from gradprobe.settings import asked, declared, settings_from

SMALL = {  # the least that each probe measures in a test
    "coherence": {"batches": 3, "batch_size": 2},
    "landscape": {"grid": "3x3", "images": 2},
    "curvature": {"eigenvalues": 1, "images": 2, "samples": 2},
    "fidelity": {"images": 3, "held_out": 3, "draws": 32, "sigmas": (1.0,), "ladder": (0.01,), "noise_draws": 3},
    "reference": {"images": 3, "held_out": 3, "draws": 32, "sigmas": (1.0,), "ladder": (0.01,)},
    "equivalence": {"images": 6},
    "retention": {"steps": 2, "batch_size": 4, "images": 8},
    "ranking": {"steps": 2, "batch_size": 4, "images": 8},
    "cost": {"images": 2, "rounds": 6},
}
TIMED = {"cost": ("unpruned", "backward", "scorer", "operator", "operator_backward", "training", "deployed")}
TRAINS = ("retention", "ranking")  # an operator without a gradient is an error there
POISONED = {"retention": 10_001, "ranking": 10_001}  # an image that it trains on; what is deployed has no losses
K = 4


def small(probe: Probe, **changes):
    """The least settings of a probe, but for some."""
    return probe.settings(**SMALL.get(probe.name, {}) | changes)


def subject_of(probe: Probe, operator="vpnoise", task=None):
    """A toy subject; a reference has no operator."""
    task = Toy() if task is None else task
    return Subject(task, None if probe.name == "reference" else registry.build(operator), K)


def measured(probe: Probe, operator="vpnoise", task=None, resources=None, **changes):
    """The result of a probe on a toy task, without a store."""
    task = Toy() if task is None else task
    resources = Resources(workers=1) if resources is None else resources
    return probe.part("measure")(subject_of(probe, operator, task), small(probe, **changes), resources)


def arrays_of(result):
    """Arrays of a result that are the same in every run; seconds are not."""
    free = TIMED.get(result.probe, ())
    return {
        f.name: value
        for f in dataclasses.fields(result)
        if isinstance(value := getattr(result, f.name), np.ndarray) and f.name not in free
    }


def check_same(first, second):
    """Refuse two results that differ in a question or in a bit of an array."""
    assert first.question == second.question
    ours, theirs = arrays_of(first), arrays_of(second)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert ours[name].dtype == theirs[name].dtype and ours[name].tobytes() == theirs[name].tobytes(), name


def check_the_same_seed_gives_the_same_bytes(probe: Probe):
    check_same(measured(probe), measured(probe))


def check_another_seed_gives_other_numbers(probe: Probe):
    first, other = arrays_of(measured(probe)), arrays_of(measured(probe, seed=7))
    assert any(first[name].tobytes() != other[name].tobytes() for name in first) or not first


def check_workers_change_no_bit(probe: Probe):
    check_same(measured(probe), measured(probe, resources=Resources(workers=3)))


def check_a_killed_measurement_resumes_to_the_same_bytes(probe: Probe, folder):
    whole, calls = measured(probe), []

    def stop(description, done, total):
        calls.append(done)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        measured(probe, resources=Resources(workers=1, folder=folder, progress=stop))
    assert calls, "a probe says how far it is"
    check_same(whole, measured(probe, resources=Resources(workers=1, folder=folder)))


def check_no_gradient_is_a_finding(probe: Probe):
    if probe.name in TRAINS:
        with pytest.raises(GradprobeError, match="no gradient"):
            measured(probe, "hard")
    else:
        assert measured(probe, "hard").row().get("gradient", "none") == "none"


def check_a_loss_that_is_not_finite_is_told(probe: Probe):
    """It is an error that names operator or image; a plane may reach such losses, and its row then has no number."""
    if probe.name == "landscape":
        row = measured(probe, task=Toy(poison=1)).row()
        assert row["loss"] is None and row["d2_variation"] is None
    else:
        with pytest.raises(GradprobeError, match="not finite"):
            measured(probe, task=Toy(poison=POISONED.get(probe.name, 1)))


def check_a_question_comes_back_from_its_settings(probe: Probe):
    subject, settings = subject_of(probe), small(probe)
    question = question_of(probe, subject, settings)
    again = settings_from(probe.settings, question)
    assert question_of(probe, subject, again) == question
    assert asked(again) == asked(settings)


def wrong_values(probe: Probe):
    """Values outside each declaration: (field, option, value), counts and choices."""
    hints = typing.get_type_hints(probe.settings)
    for name, each in declared(probe.settings).items():
        numeric = hints[name] in (int, float) or typing.get_args(hints[name])[:1] in ((int,), (float,))
        if each.choices:
            yield name, each.option, "nonesuch"
        elif numeric and (each.option in RANGES or each.least is not None):
            least = max(RANGES[each.option].least if each.option in RANGES else 0, each.least or 0)
            yield name, each.option, type(least)(least - 1)


def check_wrong_values_name_their_option(probe: Probe):
    for name, option, value in wrong_values(probe):
        with pytest.raises(UsageError, match=f"--{option} {value} is not possible"):
            measured(probe, **{name: value})
