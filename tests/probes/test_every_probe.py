"""Every declared probe has every property of `probe_contract`."""

import inspect

import probe_contract
import pytest

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
