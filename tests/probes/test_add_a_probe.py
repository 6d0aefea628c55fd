"""The page on adding a probe, as it is written: its file makes a command, answers, a table and a place in compare."""

import json
import re
import shlex
from pathlib import Path

import probe_contract
import pytest
from compared_sizes import shrink

import gradprobe.probes
from gradprobe.probes import probe_of

PAGE = (Path(__file__).parents[2] / "docs" / "add-a-probe.md").read_text(encoding="utf-8")
(FILE,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.S) for line in block.strip().splitlines()]
CHECKS = [
    probe_contract.check_the_same_seed_gives_the_same_bytes,
    probe_contract.check_workers_change_no_bit,
    probe_contract.check_no_gradient_is_a_finding,
    probe_contract.check_a_question_comes_back_from_its_settings,
    probe_contract.check_wrong_values_name_their_option,
]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty folder with the page's file; the names of this process are as found afterwards."""
    (tmp_path / "my_probe.py").write_text(FILE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gradprobe.probes, "_named", {})
    return tmp_path


def test_its_length_is_what_it_promises():
    assert len(PAGE.splitlines()) < 300


@pytest.mark.parametrize("command", COMMANDS[:3])
def test_its_commands_run(run, place, command):
    code, out, err = run(*shlex.split(command)[1:])
    assert code == 0, err
    assert "stability" in out


def test_an_answer_is_stored_listed_and_shown_and_goes_stale_with_the_code(run, place, monkeypatch):
    typed = ("my_probe.py:PROBE", "--op", "vpnoise", "--k", "58", "--images", "3", "--json")
    rows = json.loads(run(*typed)[1])["rows"]
    assert json.loads(run(*typed)[1])["rows"] == rows
    key = Path(rows[1]["path"]).stem
    monkeypatch.setattr(gradprobe.probes, "_named", {})  # as in another process
    assert "name the file of another: --probe FILE.py:PROBE" in " ".join(run("list")[1].split())
    listed = run("list", "--probe", "my_probe.py:PROBE")[1]
    assert key in listed
    assert "unknown here" not in listed
    code, out, err = run("show", key, "--probe", "my_probe.py:PROBE")
    assert code == 0, err
    assert "stability [95 %]" in out
    (place / "other_probe.py").write_text(FILE.replace("seed of the order", "Seed") + "\n# another version\n")
    other = run("other_probe.py:PROBE", *typed[1:])
    assert json.loads(other[1])["rows"][1]["path"] != rows[1]["path"]


def test_it_has_a_place_in_a_comparison_and_on_its_page(run, place, monkeypatch):
    shrink(monkeypatch)
    typed = ["compare", "--op", "vpnoise", "--k", "58", "--size", "tiny", "--probe", "my_probe.py:PROBE"]
    code, out, err = run(*typed, "--baseline", "gumbel", "--page", "page.html")
    assert code == 0, err
    assert "stability: share of the kept tokens that another draw of the noise keeps too" in " ".join(out.split())
    page = (place / "page.html").read_text(encoding="utf-8")
    assert "Does the operator keep the same tokens under another draw of its noise?" in page


@pytest.mark.parametrize("check", CHECKS)
def test_it_keeps_the_contract_of_all_probes(place, check):
    check(probe_of("my_probe.py:PROBE"))


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("nothing.py:PROBE", "no such file"),
        ("my_probe.py", "name the probe that is declared in it, such as my_probe.py:PROBE"),
        ("my_probe.py:PROBES", "defines no 'PROBES'"),
        ("my_probe.py:measure", "a probe is a gradprobe.probes.contract.Probe"),
    ],
)
def test_a_file_without_a_probe_is_one_line(run, place, file, words):
    code, _, err = run(file, "--op", "vpnoise", "--k", "58")
    assert code in (1, 2)
    (line,) = [line for line in err.splitlines() if line.startswith("gradprobe: ")]
    assert words in line


def test_an_installed_package_has_a_command_and_a_broken_one_takes_none_away(run, place, monkeypatch):
    """The entry point as the page writes it; another package's probe cannot be loaded."""
    (entry,) = re.findall(r'\[project\.entry-points\."(gradprobe\.probes)"\]\nstability = "(.*?)"', PAGE)
    for name, lines in (("theirs", f"stability = {entry[1]}"), ("broken", "sick = no_such_module:PROBE")):
        info = place / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{entry[0]}]\n{lines}\n")
    monkeypatch.syspath_prepend(place)
    listed = run("--help")[1]
    assert "stability" in listed
    assert "sick" not in listed
    code, out, err = run("stability", "--op", "vpnoise", "--k", "58", "--images", "3", "--json")
    assert code == 0, err
    key = Path(json.loads(out)["rows"][1]["path"]).stem
    assert "stability [95 %]" in run("show", key)[1]
    code, _, err = run("sick", "--op", "vpnoise", "--k", "58")
    assert code == 1
    assert "the probe 'sick' (no_such_module:PROBE) cannot be loaded: No module named 'no_such_module'" in err
