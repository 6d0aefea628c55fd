"""The generator of noise as a part of the question."""

import json

import pytest

import gradprobe as gp
from gradprobe.errors import UsageError
from gradprobe.probes.opened import OpenTasks, answered
from gradprobe.store.results import Store

SMALL = {"batches": 3, "batch_size": 2}


def test_the_question_names_philox_and_leaves_host_out():
    host, philox = gp.classification("scenes", generator="host"), gp.classification("scenes", generator="philox")
    assert "generator" not in host.question
    assert host.question == gp.classification("scenes").question  # on a CPU
    assert philox.question == {**host.question, "generator": "philox"}
    assert philox.with_new_scorer(3).generator == "philox"
    assert gp.vlm.captioning("scenes-vlm", generator="philox").question["generator"] == "philox"


def test_an_unknown_generator_is_refused():
    for make in (gp.classification, gp.vlm.captioning):
        name = "scenes" if make is gp.classification else "scenes-vlm"
        with pytest.raises(UsageError, match="--generator philx is not possible; did you mean 'philox'"):
            make(name, generator="philx")


@pytest.mark.parametrize("op", ["vpnoise", "gumbel", "imle+gather", "perturbed+gather", "simple+gather"])
def test_another_generator_gives_other_numbers_and_the_same_ones_again(op):
    host, *philox = (
        gp.coherence(gp.classification("scenes", generator=n), op, 20, **SMALL) for n in ("host", *2 * ["philox"])
    )
    assert (philox[0].gram == philox[1].gram).all()
    assert (philox[0].gram != host.gram).any()


def test_a_stored_question_is_answered_with_its_own_generator(tmp_path):
    task = gp.classification("scenes", generator="philox")
    result = gp.coherence(task, "vpnoise", 20, **SMALL)
    again = answered(result.question, {}, [Store(tmp_path)], OpenTasks())
    assert (again.result.gram == result.gram).all()


def test_a_command_takes_the_generator(run, tmp_path):
    words = ["coherence", "--op", "vpnoise", "--k", "20", "--batches", "3", "--batch-size", "2", "--json"]
    rows = {}
    for generator in ("host", "philox"):
        code, out, _ = run(*words, "--generator", generator, "--results", tmp_path)
        assert code == 0
        rows[generator] = json.loads(out)["rows"]
    assert rows["host"] != rows["philox"]
