"""Declared settings: those of every committed answer come back from its question and ask it again."""

from pathlib import Path

import pytest

from gradprobe.errors import UsageError
from gradprobe.probes import BUILT_IN, probe_of
from gradprobe.probes.contract import OWN, TASK, check_keys
from gradprobe.settings import asked, check, settings_from
from gradprobe.store.archive import read_run
from gradprobe.store.results import Store

RESULTS = Store(Path(__file__).parents[1] / "results").paths()


def committed(probe):
    """Return the questions of a probe's committed answers."""
    return [read_run(path)["question"] for name, path in RESULTS.items() if name.startswith(f"{probe}/")]


@pytest.mark.parametrize("name", [name for name in BUILT_IN if name != "reference"])  # references are not committed
def test_the_settings_of_every_committed_answer_ask_its_question_again(name):
    probe = probe_of(name)
    assert committed(name)
    for question in committed(name):
        check_keys(probe, question)
        settings = settings_from(probe.settings, question)
        check(settings)
        own = asked(settings)
        assert own == {key: question[key] for key in own}
        assert question.keys() <= {*own, *OWN, *TASK, *probe.keys}


def test_a_fidelity_asks_for_the_reference_of_its_own_settings():
    fidelity = probe_of("fidelity").settings
    for question in committed("fidelity"):
        settings = settings_from(fidelity, question)
        assert asked(settings.reference) | {"noise_draws": settings.noise_draws} == asked(settings)


def test_none_is_left_out_of_a_question_and_comes_back():
    settings = probe_of("retention").settings(tau_start=None, tau_end=None, tau_steps=None)
    assert not {"tau_start", "tau_end", "tau_steps"} & asked(settings).keys()
    assert settings_from(type(settings), asked(settings)) == settings


def test_numbers_of_a_preset_that_are_no_text_are_refused():
    question = {"probe": "reference", "draws": 32, "images": 3, "scores": "random", "seed": 0}
    for sigmas in ("0.1,x", 0.1, ""):
        with pytest.raises(UsageError, match="is no list of numbers; write them as one text"):
            settings_from(probe_of("reference").settings, question | {"sigmas": sigmas})
