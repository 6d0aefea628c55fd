"""A bad answer is one line, hides no other, hangs nothing, and is never deleted on the advice of a failed read."""

import errno
import io
import json
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer
from stored import asked, result
from test_results import NO_TORCH
from typer.testing import CliRunner

from gradprobe.cli.store import list_results, show
from gradprobe.errors import GradprobeError
from gradprobe.probes.cost.result import CostResult
from gradprobe.store.record import RUN, SCHEMA, checksum, key_of, npz, sealed
from gradprobe.store.results import Store


@pytest.fixture
def run():
    app = typer.Typer()
    app.command("list")(list_results)
    app.command()(show)
    return lambda *arguments: CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "300"})


def forged(folder, **changes):
    """Change a record, with the checksum that its author would give it."""
    said = json.loads((folder / RUN).read_text()) | changes
    (folder / RUN).write_bytes(sealed({name: value for name, value in said.items() if name != "record"}))


def forged_arrays(folder, content, **described):
    import hashlib

    (folder / "arrays.npz").write_bytes(content)
    said = json.loads((folder / RUN).read_text())
    forged(folder, sha256=hashlib.sha256(content).hexdigest(), arrays=said["arrays"] | described)


def zipped(*entries, compression=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, data in entries:
            file.writestr(name, data)
    return buffer.getvalue()


def npy(array, **options):
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def arrays_of(one):
    return {name: getattr(one, name) for name in ("gram", "energy", "common", "losses", "spread")}


# --- run.json ---


def nested(depth):
    return '{"a":' * depth + "0" + "}" * depth


def fifo(folder):
    (folder / RUN).unlink()
    os.mkfifo(folder / RUN)


def linked(folder, target):
    (folder / RUN).unlink()
    (folder / RUN).symlink_to(target)


def huge(folder):
    with (folder / RUN).open("wb") as file:
        file.truncate(10**11)


def surrogate(folder):
    question = asked(k=20)
    text = json.dumps({"schema": SCHEMA, "probe": "coherence", "key": key_of(question), "question": question})
    (folder / RUN).write_text(text.replace('"mlp"', '"\\ud800"'))


BAD_RUNS = {
    "nested 100000 deep": (lambda f: (f / RUN).write_text(nested(100_000)), "damaged"),
    "a question nested 800 deep": (lambda f: forged_text(f, "question", nested(800)), "damaged|edited"),
    "environment null": (lambda f: forged(f, environment=None), "environment is not a table"),
    "environment a list": (lambda f: forged(f, environment=[1]), "environment is not a table"),
    "a probe that is a list": (lambda f: forged(f, probe=[]), "damaged"),
    "a schema that is text": (lambda f: forged(f, schema="1"), "damaged"),
    "a lone surrogate": (surrogate, "edited"),
    "a number of 10000 digits": (lambda f: (f / RUN).write_text('{"schema": 1' + "0" * 10_000 + "}"), "damaged"),
    "a FIFO": (fifo, "cannot be read"),
    "a device": (lambda f: linked(f, "/dev/zero"), "cannot be read"),
    "a link to itself": (lambda f: linked(f, RUN), "cannot be read"),
    "a link to nothing": (lambda f: linked(f, "nowhere"), "cannot be read"),
    "a folder": (lambda f: ((f / RUN).unlink(), (f / RUN).mkdir()), "cannot be read"),
    "100 GB": (huge, "damaged"),
}  # fmt: skip


def forged_text(folder, name, text):
    said = (folder / RUN).read_text()
    (folder / RUN).write_text(said.replace(f'"{name}": {{', f'"{name}": {{"deep": {text},', 1))


@pytest.mark.parametrize("name", BAD_RUNS)
def test_a_bad_record_is_one_line_and_hides_no_other(tmp_path, run, name):
    store = Store(tmp_path)
    good, bad = store.save(result()), store.save(result(asked(k=20)))
    harm, message = BAD_RUNS[name]
    harm(bad)
    listed = run("list", "--results", tmp_path)
    assert listed.exit_code == 0, listed.exception
    assert good.name.rpartition("-")[2] in listed.output
    lines = [line for line in listed.output.splitlines() if str(bad) in line]
    assert len(lines) == 1
    entries = json.loads(run("list", "--results", tmp_path, "--json").output)
    assert sorted(entry["problem"] is None for entry in entries) == [False, True]
    for which in (key_of(asked(k=20)), bad):
        error = run("show", which, "--results", tmp_path).exception
        assert isinstance(error, GradprobeError)
        assert len(str(error).splitlines()) == 1 and len(str(error)) < 1000
        assert any(word in str(error) for word in message.split("|"))
        assert "delete" not in str(error) or "cannot be read" not in message


@pytest.mark.parametrize("date", ["[/x]", "\x1b[31m", 7, [1, 2], None, {"a": "[bold]"}])
def test_any_date_can_be_listed(tmp_path, run, date):
    folder = Store(tmp_path).save(replace(result(), environment={"date": date}))
    listed = run("list", "--results", tmp_path)
    assert listed.exit_code == 0, listed.exception
    assert folder.name.rpartition("-")[2] in listed.output
    assert run("show", folder, "--results", tmp_path).exit_code == 0


def test_a_loop_of_folders_is_told(tmp_path, run):
    good = Store(tmp_path).save(result())
    (tmp_path / "loop").symlink_to("loop")
    listed = run("list", "--results", tmp_path)
    assert listed.exit_code == 0 and good.name.rpartition("-")[2] in listed.output
    assert sum("loop" in line and "cannot be read" in line for line in listed.output.splitlines()) == 1


@pytest.mark.parametrize("file", ["run.json", "arrays.npz"])
def test_what_could_not_be_read_is_not_called_damaged(tmp_path, monkeypatch, run, file):
    folder, opened = Store(tmp_path).save(result()), os.open

    def refused(path, *arguments, **options):
        if str(path).endswith(file):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, *arguments, **options)

    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(GradprobeError, match=r"cannot be read \(Permission denied\); check its permissions") as error:
        Store(tmp_path).load(folder)
    assert "delete" not in str(error.value) and "damaged" not in str(error.value)
    assert Store(tmp_path).find(asked()) == folder  # and it is not measured again over it


def test_a_folder_that_cannot_be_listed_is_told(tmp_path, monkeypatch):
    def refused(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", refused)
    with pytest.raises(GradprobeError, match="Permission denied"):
        Store(tmp_path).entries()


# --- what is shown is under a checksum ---


def cost():
    seconds = np.arange(1.0, 10.0)
    names = ("unpruned", "backward", "scorer", "operator", "operator_backward", "training", "deployed")
    question = {"probe": "cost", "op": "lapsum+vpnoise", "k": 58, "images": 8, "rounds": 9}
    flops = dict.fromkeys(("batch", "unpruned", "scorer", "training", "gradient", "deployed"), 1e9)
    memory = {"training": 1e6, "operator": 1e5, "peak": None}
    return CostResult(
        question=question, gradient="yes", sent=196, flops=flops, memory=memory, environment={"date": "2026-01-01"},
        **dict.fromkeys(names, seconds),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("flops", dict.fromkeys(("batch", "unpruned", "scorer", "training", "gradient", "deployed"), 1e10)),
        ("memory", {"training": 1e7, "operator": 1e5, "peak": None}),
        ("sent", 58), ("gradient", "none"), ("environment", {"date": "2025-01-01"}), ("arrays", {}), ("more", 1),
    ],
)  # fmt: skip
def test_an_edited_number_is_seen(tmp_path, run, place, value):
    folder = Store(tmp_path).save(cost())
    said = json.loads((folder / RUN).read_text())
    (folder / RUN).write_text(json.dumps(said | {place: value}))
    error = run("show", folder, "--results", tmp_path).exception
    assert isinstance(error, GradprobeError) and "was edited" in str(error)
    assert "was edited" in run("list", "--results", tmp_path).output


def test_layout_and_order_of_a_record_are_free_and_older_ones_have_no_checksum(tmp_path):
    folder = Store(tmp_path).save(cost())
    said = json.loads((folder / RUN).read_text())
    assert said["record"] == checksum(said)
    (folder / RUN).write_text(json.dumps(dict(reversed(said.items()))))
    assert Store(tmp_path).load(folder).flops == cost().flops
    del said["record"]
    (folder / RUN).write_text(json.dumps(said))
    assert Store(tmp_path).load(folder).flops == cost().flops


# --- arrays.npz ---


class Evil:
    def __reduce__(self):
        return (os.mkdir, ("executed",))


def without(name):
    return npz({n: a for n, a in arrays_of(result(asked(k=20))).items() if n != name})


def with_entry(name, data):
    whole = {f"{n}.npy": npy(a) for n, a in arrays_of(result(asked(k=20))).items()}
    return zipped(*(whole | {name: data}).items())


def claiming(shape, descr="<f8"):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": descr, "fortran_order": False, "shape": shape})
    return buffer.getvalue() + b"\0" * 64


def bomb():
    entries = [(f"{name}.npy", b"\0" * (50 << 20)) for name in arrays_of(result())]
    return zipped(*entries, compression=zipfile.ZIP_DEFLATED)


def twice():
    with pytest.warns(UserWarning, match="Duplicate"):
        return zipped(*((f"{n}.npy", npy(a)) for n, a in [*arrays_of(result()).items(), ("gram", np.zeros(3))]))


def described(array):
    return {"dtype": str(array.dtype), "shape": list(array.shape)}


EVIL = np.array([Evil()], dtype=object)
HOSTILE = {
    "objects": lambda f: forged_arrays(
        f, with_entry("gram.npy", npy(EVIL, allow_pickle=True)), gram={"dtype": "object", "shape": [1]}
    ),
    "text": lambda f: forged_arrays(
        f, with_entry("spread.npy", npy(np.full(6, "a"))), spread={"dtype": "<U1", "shape": [6]}
    ),
    "truncated": lambda f: forged_arrays(f, npz(arrays_of(result()))[:-200]),
    "not a zip": lambda f: forged_arrays(f, b"PK\x03\x04" + b"\xff" * 1000),
    "a bomb": lambda f: forged_arrays(f, bomb()),
    "an array that claims 8 EB": lambda f: forged_arrays(
        f, with_entry("gram.npy", claiming((10**18,))), gram={"dtype": "float64", "shape": [10**18]}
    ),
    "a negative shape": lambda f: forged_arrays(
        f, with_entry("gram.npy", claiming((-1, -8))), gram={"dtype": "float64", "shape": [-1, -8]}
    ),
    "a missing array": lambda f: forged_arrays(f, without("losses")),
    "an array too many": lambda f: forged_arrays(f, with_entry("more.npy", npy(np.zeros(3)))),
    "other dimensions": lambda f: forged_arrays(
        f, with_entry("losses.npy", npy(np.zeros((6, 2, 1)))), losses=described(np.zeros((6, 2, 1)))
    ),
    "no dimensions": lambda f: forged_arrays(
        f, with_entry("energy.npy", npy(np.zeros(()))), energy=described(np.zeros(()))
    ),
    "the same name twice": lambda f: forged_arrays(f, twice()),
    "no npy": lambda f: forged_arrays(f, with_entry("gram.npy", b"hello")),
    "an empty npy": lambda f: forged_arrays(f, with_entry("gram.npy", b"")),
    "a header that is code": lambda f: forged_arrays(
        f, with_entry("gram.npy", npy(np.zeros(3)).replace(b"'descr'", b"exit(1)"))
    ),
    "another version": lambda f: forged_arrays(f, with_entry("gram.npy", b"\x93NUMPY\x09\x00" + b"\0" * 100)),
    "described by a list": lambda f: forged(f, arrays=[]),
    "described by none": lambda f: forged(f, arrays=None),
    "no checksum": lambda f: forged(f, sha256=None),
    "complex": lambda f: forged_arrays(
        f, with_entry("spread.npy", npy(np.zeros(6, complex))), spread=described(np.zeros(6, complex))
    ),
    "a link to itself": lambda f: ((f / "arrays.npz").unlink(), (f / "arrays.npz").symlink_to("arrays.npz")),
    "a FIFO": lambda f: ((f / "arrays.npz").unlink(), os.mkfifo(f / "arrays.npz")),
    "a device": lambda f: ((f / "arrays.npz").unlink(), (f / "arrays.npz").symlink_to("/dev/zero")),
    "groups that are a number": lambda f: forged(f, groups=7),
    "no question of its own": lambda f: forged(f, question={"probe": "coherence"}, key="0" * 12),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_arrays_are_one_line(tmp_path, run, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = Store(tmp_path / "runs")
    good, bad = store.save(result()), store.save(result(asked(k=20)))
    HOSTILE[name](bad)
    listed = run("list", "--results", tmp_path / "runs")
    assert listed.exit_code == 0 and good.name.rpartition("-")[2] in listed.output
    error = run("show", bad, "--results", tmp_path / "runs").exception
    assert isinstance(error, GradprobeError), error
    assert len(str(error).splitlines()) == 1 and len(str(error)) < 600 and str(bad) in str(error)
    assert not (tmp_path / "executed").exists()
    assert isinstance(store.load(good), type(result()))


def test_numbers_that_make_no_table_are_one_line(tmp_path, run):
    question = {name: value for name, value in asked().items() if name != "batch_size"}
    folder = Store(tmp_path).save(result(question))
    error = run("show", folder, "--results", tmp_path).exception
    assert isinstance(error, GradprobeError) and str(folder) in str(error)


def test_an_answer_of_a_probe_to_come_is_told(tmp_path):
    class Later:
        pass

    question = {"probe": "sharpness", "k": 3}
    folder = tmp_path / f"sharpness-{key_of(question)}"
    folder.mkdir()
    said = {"schema": SCHEMA, "probe": "sharpness", "key": key_of(question), "question": question, "environment": {}}
    (folder / RUN).write_bytes(sealed(said))
    with pytest.raises(GradprobeError, match="unknown here; known: coherence"):
        Store(tmp_path).load(folder)


def test_a_store_needs_no_other_import(tmp_path):
    folder = Store(tmp_path).save(result())
    code = (
        "from gradprobe.store.results import Store\n"
        "print(type(Store('.').load(sys.argv[1])).__name__, [e.problem for e in Store('.').entries()])"
    )
    command = [sys.executable, "-c", NO_TORCH + code, folder.name]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "CoherenceResult ['']"


@pytest.mark.parametrize("which", ["x" * 5000, "a\0b", "../" * 2000, "\n"])
def test_no_key_is_too_strange_to_be_refused(tmp_path, which):
    Store(tmp_path).save(result())
    with pytest.raises(GradprobeError):
        Store(tmp_path).load(which)
