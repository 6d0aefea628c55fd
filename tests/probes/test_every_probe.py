"""Every declared probe has every property of `probe_contract`."""

import inspect
import re

import probe_contract
import pytest
from typer.testing import CliRunner

import gradprobe.tasks
from gradprobe.cli import app
from gradprobe.errors import UsageError
from gradprobe.probes import BUILT_IN, probe_of

CHECKS = {
    name: check
    for name, check in inspect.getmembers(probe_contract)
    if name.startswith("check_") and name != "check_same"
}


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("probe", BUILT_IN)
def test_a_probe_keeps_the_contract(probe, check, tmp_path):
    given = {"folder": tmp_path} if "folder" in inspect.signature(CHECKS[check]).parameters else {}
    CHECKS[check](probe_of(probe), **given)


@pytest.mark.parametrize("probe", [name for name in BUILT_IN if probe_of(name).command])
def test_a_command_refuses_what_its_declaration_does_not_take(probe, monkeypatch, tmp_path):
    """Every count and choice, before a model is opened."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gradprobe.tasks, "load_backbone", None)
    options = set(re.findall(r"--[a-z0-9-]+", CliRunner().invoke(app, [probe, "--help"]).output))
    typed = [each for each in probe_contract.wrong_values(probe_of(probe)) if f"--{each[1]}" in options]
    assert typed
    for _, option, value in typed:
        done = CliRunner().invoke(app, [probe, "--op", "vpnoise", "--k", "8", f"--{option}={value}"])
        assert isinstance(done.exception, UsageError), (option, done.exception)
        assert f"--{option} {value} is not possible" in str(done.exception)
