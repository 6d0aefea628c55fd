"""Numbers outside their range are refused at once and in one line, on the command line and in Python."""

import json
import math
import re
import typing
from copy import deepcopy

import numpy as np
import pytest
from campaign_cli import commands, wrong

import gradprobe as gp
from gradprobe.errors import GradprobeError, UsageError
from gradprobe.ranges import RANGES, check_number


@pytest.mark.parametrize("option", RANGES)
def test_a_range_refuses_what_is_no_number_of_it(option):
    kind = RANGES[option]
    beyond = [math.nan, math.inf, -math.inf, "3", None, True, kind.least - 1, kind.most + 1, 10**30]
    for value in [*beyond, *([2.5, float(kind.least)] if kind.whole else [])]:
        with pytest.raises(UsageError) as caught:
            check_number(option, value)
        assert str(caught.value).startswith(f"--{option} ")
        assert "\n" not in str(caught.value)
    check_number(option, kind.most)
    if not kind.above:
        check_number(option, kind.least)


def test_a_value_of_another_type_is_shown_as_python_writes_it():
    """Else ``--batches 3 is not possible; give a whole number of at least 3`` contradicts itself."""
    for value, shown in (("3", "'3'"), (np.int64(3), "np.int64(3)"), (True, "True")):
        with pytest.raises(UsageError, match=re.escape(f"--batches {shown} is not possible")):
            check_number("batches", value)


def test_every_number_of_the_command_line_has_a_range():
    seen = set()
    for _, function in commands():
        for name, hint in typing.get_type_hints(function, include_extras=True).items():
            kinds = {hint, *typing.get_args(hint)}
            kinds |= {part for kind in kinds for part in typing.get_args(kind)}
            if kinds & {int, float}:
                seen.add(name.replace("_", "-"))
                assert wrong(name, hint)
    assert seen <= set(RANGES)
    assert len(seen) > 20


@pytest.mark.parametrize(
    "settings",
    [
        {"batches": -1}, {"batches": 2}, {"batches": 10**12}, {"batch_size": 0}, {"draws": 1}, {"steps": -1},
        {"learning_rate": math.nan}, {"learning_rate": 0.0}, {"learning_rate": -1.0}, {"learning_rate": math.inf},
        {"seed": -1}, {"seed": 10**20}, {"seed": 1.0}, {"k": 1.5}, {"k": math.nan}, {"batches": 3.0},
    ],
)  # fmt: skip
def test_python_calls_get_the_same_checks(settings):
    task = gp.classification("scenes", scorer="mlp:width=2")
    with pytest.raises(UsageError):
        gp.coherence(task, gp.build("vpnoise"), **{"k": 5, "batches": 3, "batch_size": 1, **settings})


@pytest.mark.parametrize(
    "name", ["mlp:width=99999999999", f"mlp:width={10**30}", "transformer:width=9999999", "transformer:depth=99999999"]
)
def test_a_network_larger_than_any_memory_is_refused_before_it_is_made(name):
    with pytest.raises(UsageError):
        gp.classification("scenes", scorer=name)


@pytest.mark.parametrize("k", [1.5, math.nan, 0, -1, True, "5"])
def test_a_pruner_keeps_whole_numbers_of_tokens(k):
    from gradprobe.vlm.budgets import Budget

    with pytest.raises(UsageError):
        Budget(k=k)


@pytest.mark.parametrize(
    ("part", "entry", "value"),
    [
        ("text_config", "hidden_size", -5), ("text_config", "hidden_size", 2.5), ("vision_config", "patch_size", 0),
        ("text_config", "num_hidden_layers", 10**9), ("vision_config", "image_size", 0),
        ("text_config", "num_attention_heads", 0), ("vision_config", "patch_size", 10**6),
    ],
)  # fmt: skip
def test_a_configuration_of_no_model_is_one_line(part, entry, value, tmp_path):
    pytest.importorskip("transformers")
    from gradprobe.vlm.costs.dimensions import config_of
    from gradprobe.vlm.costs.flops import cost

    config = deepcopy(config_of("scenes-vlm").to_dict())
    config[part][entry] = value
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(GradprobeError) as caught:
        cost(str(tmp_path))
    assert "\n" not in str(caught.value)
