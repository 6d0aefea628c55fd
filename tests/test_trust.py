"""Nothing that is loaded runs code: names in files are built-in or installed, a path needs the user's own word."""

import json
import os
import textwrap

import pytest
import torch
from safetensors.torch import save_file
from stored import result as stored_result

from gradprobe.comparison.experiments import load_experiment
from gradprobe.errors import UsageError
from gradprobe.models.scorer_file import load_scorer, save_scorer
from gradprobe.models.scorers import MLP
from gradprobe.operators import registry
from gradprobe.probes.opened import OpenTasks, operator_of
from gradprobe.store.results import Store

THEIRS = """
    from pathlib import Path
    Path({mark!r}).touch()
    from dataclasses import dataclass
    from gradprobe.models.scorers import MLP
    from gradprobe.operators.throttles.scale import Scale as E
    @dataclass(frozen=True)
    class S:
        def make(self, dim, seed):
            return MLP(width=4).make(dim, seed)
    """
PRESET = """
    title = "t"
    figure = "fig1c"
    claim = "c"
    baseline = "gumbel"
    [question]
    probe = "coherence"
    k = 5
    [[run]]
    """


@pytest.fixture
def theirs(tmp_path):
    """A Python file that leaves a mark when it runs, and the mark."""
    path, mark = tmp_path / "theirs.py", tmp_path / "it ran"
    path.write_text(textwrap.dedent(THEIRS).format(mark=str(mark)))
    return path, mark


def reading_scorer(path, folder, trust):
    save_scorer(MLP(width=4).make(6, 0), folder, {"scorer": f"{path}:S", "dim": 6})
    return load_scorer(folder, trust)


def reading_pruner(path, folder, trust):
    from gradprobe.vlm.deploy import load

    folder.mkdir()
    about = {"scorer": f"{path}:S", "dim": 128, "k": 3, "model": "scenes-vlm"}
    (folder / "pruner.json").write_text(json.dumps(about))
    save_file({"a": torch.zeros(1)}, folder / "pruner.safetensors")
    return load(folder, trust=trust)


def reading_preset(field, value):
    def read(path, folder, trust):
        folder.mkdir()
        lines = textwrap.dedent(PRESET) + ("" if field == "op" else 'op = "gumbel"\n')
        (folder / "p.toml").write_text(f"{lines}{field} = {json.dumps(value(path))}\n")
        return load_experiment(folder / "p.toml", trust)

    return read


READERS = {
    "scorer.json": reading_scorer,
    "pruner.json": reading_pruner,
    "preset, operator": reading_preset("op", lambda path: ["gumbel", f"{path}:E"]),
    "preset, throttle": reading_preset("op", lambda path: f"lapsum+{path}:E"),
    "preset, relaxation": reading_preset("op", lambda path: f"{path}:E:a=1+gather"),
    "preset, scorer": reading_preset("scorer", lambda path: f"{path}:S"),
    "preset, denoiser": reading_preset("denoiser", lambda path: f" {path}:S"),
}


@pytest.mark.parametrize("reader", READERS)
def test_a_path_in_a_file_does_not_run_without_the_users_word(reader, theirs, tmp_path):
    path, mark = theirs
    with pytest.raises(UsageError) as caught:
        READERS[reader](path, tmp_path / "read", ())
    told = str(caught.value)
    assert not mark.exists()
    assert str(tmp_path / "read") in told  # which file names it
    assert f"--trust {path}" in told or f"--trust '{path}'" in told
    assert "\n" not in told


def test_the_word_is_for_exactly_that_file(theirs, tmp_path):
    path, mark = theirs
    other = tmp_path / "other.py"
    other.write_text(path.read_text())
    with pytest.raises(UsageError, match="--trust"):
        reading_scorer(path, tmp_path / "a", [other])
    assert not mark.exists()
    assert reading_scorer(path, tmp_path / "b", [path]).metadata["scorer"] == f"{path}:S"
    assert mark.exists()


def test_a_trusted_link_is_the_file_that_it_leads_to(theirs, tmp_path):
    path, _ = theirs
    link = tmp_path / "link.py"
    link.symlink_to(path)
    reading_scorer(path, tmp_path / "a", [link])
    innocent = tmp_path / "innocent.py"
    innocent.write_text("")
    with pytest.raises(UsageError, match="--trust"):
        registry.check_trusted("scorer", f"{innocent}:S", "x.json", [link])


@pytest.mark.parametrize(
    "name", ["{}:E", "lapsum+{}:E", "{}:E+gather", "{}:E:a=1", " {}:E", "hard+ {}:E:", "{}", " {} ", "{}:a=1"]
)
def test_a_question_from_nowhere_runs_nothing(name, theirs):
    path, mark = theirs
    question = {"op": name.format(path), "scorer": f"{path}:S", "backbone": "scenes", "weights": "embedded"}
    with pytest.raises(UsageError, match="--trust"):
        operator_of(question)
    with pytest.raises(UsageError, match="--trust"):
        OpenTasks().task(question, {})
    assert not mark.exists()


def test_what_was_typed_may_be_asked_again(theirs):
    path, _ = theirs
    typed = registry.build(f"lapsum+{path}:E")
    assert operator_of({"op": registry.label(typed)}) == typed


def test_built_in_names_need_no_word():
    for spec in ("vpnoise:tau=0.3", "lapsum+gather", "mlp:width=3", None, 3, ["x.py:E"]):
        registry.check_trusted("operator", spec, "file")


@pytest.mark.parametrize("argument", [["list"], ["list", "--json"]])
def test_a_stored_question_is_listed_and_not_run(argument, theirs, tmp_path):
    from typer.testing import CliRunner

    from gradprobe.cli import app

    path, mark = theirs
    question = {"probe": "coherence", "op": f"{path}:E", "scorer": f"{path}:S", "k": 5}
    stored = Store(tmp_path / "runs").save(stored_result(question))
    result = CliRunner().invoke(app, [*argument, "--results", str(tmp_path / "runs")])
    assert result.exit_code == 0
    assert stored.stem in result.output
    assert not mark.exists()


def test_a_model_folder_that_brings_its_own_code_is_refused(theirs, tmp_path):
    from gradprobe.errors import GradprobeError
    from gradprobe.vlm.costs.dimensions import config_of
    from gradprobe.vlm.model import open_vlm

    path, mark = theirs
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "theirs.py").write_text(path.read_text())
    config = {"model_type": "theirs", "auto_map": {"AutoConfig": "theirs.E", "AutoModelForImageTextToText": "theirs.S"}}
    (folder / "config.json").write_text(json.dumps(config))
    for read in (open_vlm, config_of):
        with pytest.raises(GradprobeError) as caught:
            read(str(folder))
        assert "\n" not in str(caught.value)
    assert not mark.exists()


def test_a_relative_path_is_the_file_of_the_present_folder(tmp_path, monkeypatch):
    """Also after an operator of that name was used from another folder in the same process."""
    made = []
    for i in range(2):
        (tmp_path / f"{i}").mkdir()
        (tmp_path / f"{i}" / "mine.py").write_text(f"def Op(patches, scores, k, noise):\n    return {i}\n")
        monkeypatch.chdir(tmp_path / f"{i}")
        made += [registry.build("mine.py:Op")(None, None, 1, None)]
        registry.build(registry.build("mine.py:Op"))
        made += [registry.build("mine.py:Op")(None, None, 1, None) for _ in range(2)]
    assert made == [0] * 3 + [1] * 3


def test_what_is_trusted_is_there(tmp_path):
    from gradprobe.cli.options import trusted

    file = tmp_path / "theirs.py"
    file.touch()
    assert trusted([file]) == (file,)
    assert trusted(None) == ()
    for wrong in (tmp_path / "missing.py", tmp_path, tmp_path / "theirs"):
        with pytest.raises(UsageError, match="--trust"):
            trusted([wrong])


def test_a_file_that_never_ends_is_not_waited_for(tmp_path):
    from gradprobe.errors import GradprobeError

    os.mkfifo(tmp_path / "p.toml")
    with pytest.raises(UsageError, match="cannot read the preset"):
        load_experiment(tmp_path / "p.toml")
    about = save_scorer(MLP(width=4).make(6, 0), tmp_path, {"scorer": "mlp", "dim": 6}).with_suffix(".json")
    about.unlink()
    os.mkfifo(about)
    with pytest.raises(GradprobeError, match="no scorer that can be read"):
        load_scorer(tmp_path)
