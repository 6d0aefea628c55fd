"""Completion in a shell: names of operators and selectors, and the script that a shell reads."""

import os
import subprocess
import sys

import pytest

from gradprobe.cli.completion import baselines, checked, operators, selectors
from gradprobe.operators import registry


def completed(words):
    """Lines that a shell gets at the end of a line of words."""
    typed = ["gradprobe", *words]
    asked = {"_GRADPROBE_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(typed), "COMP_CWORD": str(len(typed) - 1)}
    code = "import sys; sys.argv = ['gradprobe']; from gradprobe.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **asked}, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""
    return done.stdout.split()


def test_a_shell_completes_commands_options_and_operators():
    assert completed(["comp"]) == ["compare", "compact"]
    assert completed(["coherence", "--batch"]) == ["--batches", "--batch-size"]
    assert completed(["coherence", "--op", "lapsum+vp"]) == ["lapsum+vpnoise"]
    assert completed(["vlm", "generate", "--select", "div"]) == ["divprune"]


def test_every_name_is_completed_and_nothing_that_is_none():
    for kind in ("operator", "relaxation"):
        assert set(registry.names(kind)) <= set(operators(""))
    assert [name.partition("+")[2] for name in operators("lapsum+")] == registry.names("throttle")
    assert selectors("") == registry.names("selector")
    assert set(checked("")) == {*operators(""), *selectors("")}
    assert "none" in baselines("no") and "none" not in baselines("gum")
    for name in operators(""):
        registry.build(name if name in registry.names("operator") else f"{name}+gather")


@pytest.mark.parametrize("text", ["lapsum:tau=0", "my.py:My", "no such name", "fastv@2"])
def test_fields_layers_and_files_are_left_to_the_shell(text):
    assert checked(text) == []


def test_a_broken_package_completes_nothing(monkeypatch):
    def broken(kind):
        raise registry.GradprobeError("a package is broken")

    monkeypatch.setattr(registry, "names", broken)
    assert checked("la") == []


def test_the_script_of_a_shell_is_shown_and_help_names_both_options(run, monkeypatch):
    monkeypatch.setattr("typer.completion._get_shell_name", lambda: "zsh")
    code, out, _ = run("--show-completion")
    assert code == 0 and out.startswith("#compdef gradprobe") and "_GRADPROBE_COMPLETE=complete_zsh" in out
    code, out, _ = run("--help")
    assert code == 0 and "--install-completion" in out and "--show-completion" in out


def test_completion_imports_no_torch():
    code = "import sys; from gradprobe.cli.completion import checked; checked('l'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
