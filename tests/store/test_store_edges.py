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
from stored import array_bytes, asked, make_older, members_of, repack, result, run_of
from test_results import NO_TORCH, flip, put
from typer.testing import CliRunner

from gradprobe.cli.store import list_results, show
from gradprobe.errors import GradprobeError
from gradprobe.probes.cost.result import CostResult
from gradprobe.store.record import RUN, SCHEMA, checksum, key_of, sealed
from gradprobe.store.results import Store
from gradprobe.store.zips import digest, packed


@pytest.fixture
def run():
    app = typer.Typer()
    app.command("list")(list_results)
    app.command()(show)
    return lambda *arguments: CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "300"})


def forged(path, **changes):
    """Change a record, with the checksum that its author would give it."""
    put(path, RUN, sealed(run_of(path) | changes))


def forged_arrays(path, members, **described):
    """Replace the arrays, with the checksums that their author would give them."""
    run = run_of(path)
    run |= {"sha256": digest(dict(members)), "arrays": run["arrays"] | described}
    repack(path, [(RUN, sealed(run)), *members])


def with_array(path, name, content, **described):
    """Replace or add one npy file."""
    forged_arrays(path, (array_bytes(path) | {f"{name}.npy": content}).items(), **described)


def npy(array, **options):
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


# --- the file and its run.json ---


def nested(depth):
    return b'{"a":' * depth + b"0" + b"}" * depth


def deep(path):
    head, tail = members_of(path)[RUN].split(b'"question": {', 1)
    put(path, RUN, head + b'"question": {"deep": ' + nested(800) + b"," + tail)


def replaced(path, target=None):
    """Put a FIFO or a link in place of an answer."""
    path.unlink()
    if target is None:
        os.mkfifo(path)
    else:
        path.symlink_to(target)


def sparse(path, begin, end=b"\0"):
    """Leave ``begin`` bytes of a file and make it 100 GB long, which take no room on the disk."""
    with path.open("r+b") as file:
        file.truncate(begin)
        file.seek(10**11)
        file.write(end)


def claim(path, size):
    """Change the size that the zip says of the record."""
    content = path.read_bytes()
    path.write_bytes(content[:18] + size * 2 + content[26:])


def surrogate(path):
    question = asked(k=20)
    text = json.dumps({"schema": SCHEMA, "probe": "coherence", "key": key_of(question), "question": question})
    put(path, RUN, text.replace('"mlp"', '"\\ud800"').encode())


def compressed(path, size):
    """Compress the record of an answer, blown up to a size."""
    members = members_of(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(RUN, members[RUN].ljust(size))


BAD_RUNS = {
    "nested 100000 deep": (lambda f: put(f, RUN, nested(100_000)), "damaged"),
    "a question nested 800 deep": (deep, "damaged|edited"),
    "environment null": (lambda f: forged(f, environment=None), "environment is not a table"),
    "environment a list": (lambda f: forged(f, environment=[1]), "environment is not a table"),
    "a probe that is a list": (lambda f: forged(f, probe=[]), "damaged"),
    "a schema that is text": (lambda f: forged(f, schema="1"), "damaged"),
    "a lone surrogate": (surrogate, "edited"),
    "a number of 10000 digits": (lambda f: put(f, RUN, b'{"schema": 1' + b"0" * 10_000 + b"}"), "damaged"),
    "a FIFO": (replaced, "cannot be read"),
    "a device": (lambda f: replaced(f, "/dev/zero"), "cannot be read"),
    "a link to itself": (lambda f: replaced(f, f.name), "cannot be read"),
    "a link to nothing": (lambda f: replaced(f, "nowhere"), "cannot be read"),
    "a folder": (lambda f: (f.unlink(), f.mkdir()), "there is no run.json"),
    "not a zip": (lambda f: f.write_bytes(b"PK\x03\x04" + b"\xff" * 1000), "damaged"),
    "empty": (lambda f: f.write_bytes(b""), "does not begin with run.json"),
    "half a record": (lambda f: f.write_bytes(f.read_bytes()[:500]), "run.json is not whole"),
    "one bit": (lambda f: flip(f, f.read_bytes().index(b"versions")), "run.json is not whole"),
    "100 GB": (lambda f: sparse(f, 0), "does not begin with run.json"),
    "a record that claims 4 GB": (lambda f: claim(f, b"\xff" * 4), "does not begin with run.json"),
    "a record at the end": (lambda f: repack(f, reversed(members_of(f).items())), "does not begin with run.json"),
    "compressed": (lambda f: compressed(f, 10**9), "does not begin with run.json"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_RUNS)
def test_a_bad_record_is_one_line_and_hides_no_other(tmp_path, run, name):
    store = Store(tmp_path)
    good, bad = store.save(result()), store.save(result(asked(k=20)))
    harm, message = BAD_RUNS[name]
    harm(bad)
    listed = run("list", "--results", tmp_path)
    assert listed.exit_code == 0, listed.exception
    assert good.stem in listed.output
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
    path = Store(tmp_path).save(replace(result(), environment={"date": date}))
    listed = run("list", "--results", tmp_path)
    assert listed.exit_code == 0, listed.exception
    assert path.stem in listed.output
    assert run("show", path, "--results", tmp_path).exit_code == 0


def test_a_loop_of_folders_is_told(tmp_path, run):
    good = Store(tmp_path).save(result())
    (tmp_path / "loop").symlink_to("loop")
    listed = run("list", "--results", tmp_path)
    assert listed.exit_code == 0 and good.stem in listed.output
    assert sum("loop" in line and "cannot be read" in line for line in listed.output.splitlines()) == 1


@pytest.mark.parametrize("file", [".npz", "run.json", "arrays.npz"])
def test_what_could_not_be_read_is_not_called_damaged(tmp_path, monkeypatch, run, file):
    path, opened = Store(tmp_path).save(result()), os.open
    path = path if file == ".npz" else make_older(path)

    def refused(name, *arguments, **options):
        if str(name).endswith(file):
            raise PermissionError(errno.EACCES, "Permission denied", str(name))
        return opened(name, *arguments, **options)

    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(GradprobeError, match=r"cannot be read \(Permission denied\); check its permissions") as error:
        Store(tmp_path).load(path)
    assert "delete" not in str(error.value) and "damaged" not in str(error.value)
    assert Store(tmp_path).find(asked()) == path  # and it is not measured again over it


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
    path = Store(tmp_path).save(cost())
    put(path, RUN, json.dumps(run_of(path) | {place: value}).encode())
    error = run("show", path, "--results", tmp_path).exception
    assert isinstance(error, GradprobeError) and "was edited" in str(error)
    assert "was edited" in run("list", "--results", tmp_path).output


def test_layout_and_order_of_a_record_are_free_and_older_ones_have_no_checksum(tmp_path):
    path = Store(tmp_path).save(cost())
    said = run_of(path)
    assert said["record"] == checksum(said)
    put(path, RUN, json.dumps(dict(reversed(said.items()))).encode())
    assert Store(tmp_path).load(path).flops == cost().flops
    assert Store(tmp_path).load(make_older(path, record=False)).flops == cost().flops


# --- its arrays ---


class Evil:
    def __reduce__(self):
        return (os.mkdir, ("executed",))


def claiming(shape, descr="<f8"):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": descr, "fortran_order": False, "shape": shape})
    return buffer.getvalue() + b"\0" * 64


def described(array):
    return {"dtype": str(array.dtype), "shape": list(array.shape)}


def other(path, name, array):
    with_array(path, name, npy(array), **{name: described(array)})


def bomb(path):
    """Compress arrays of 50 MB each."""
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("more.npy", b"\0" * (50 << 20))


BIG_TABLE = b"PK\x05\x06" + b"\0" * 8 + (10**9).to_bytes(4, "little") + b"\0" * 6
EVIL = np.array([Evil()], dtype=object)
HOSTILE = {
    "objects": lambda f: with_array(
        f, "gram", npy(EVIL, allow_pickle=True), gram={"dtype": "object", "shape": [1]}
    ),
    "text": lambda f: with_array(f, "spread", npy(np.full(6, "a")), spread={"dtype": "<U1", "shape": [6]}),
    "truncated": lambda f: f.write_bytes(f.read_bytes()[:-200]),
    "a bomb": bomb,
    "100 GB": lambda f: sparse(f, 5000),
    "a table of contents of 1 GB": lambda f: sparse(f, 5000, BIG_TABLE),
    "two records": lambda f: repack(f, [*members_of(f).items(), (RUN, b"{}")]),
    "an array of 50 MB": lambda f: with_array(f, "spread", npy(np.zeros(50 << 20, np.int8))),
    "an array that claims 8 EB": lambda f: with_array(
        f, "gram", claiming((10**18,)), gram={"dtype": "float64", "shape": [10**18]}
    ),
    "a negative shape": lambda f: with_array(
        f, "gram", claiming((-1, -8)), gram={"dtype": "float64", "shape": [-1, -8]}
    ),
    "a missing array": lambda f: forged_arrays(f, list(array_bytes(f).items())[1:]),
    "an array too many": lambda f: with_array(f, "more", npy(np.zeros(3))),
    "other dimensions": lambda f: other(f, "losses", np.zeros((6, 2, 1))),
    "no dimensions": lambda f: other(f, "energy", np.zeros(())),
    "the same name twice": lambda f: forged_arrays(f, [*array_bytes(f).items(), ("gram.npy", npy(np.zeros(3)))]),
    "no npy": lambda f: with_array(f, "gram", b"hello"),
    "an empty npy": lambda f: with_array(f, "gram", b""),
    "a header that is code": lambda f: with_array(f, "gram", npy(np.zeros(3)).replace(b"'descr'", b"exit(1)")),
    "another version": lambda f: with_array(f, "gram", b"\x93NUMPY\x09\x00" + b"\0" * 100),
    "described by a list": lambda f: forged(f, arrays=[]),
    "described by none": lambda f: forged(f, arrays=None),
    "no checksum": lambda f: forged(f, sha256=None),
    "complex": lambda f: other(f, "spread", np.zeros(6, complex)),
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
    assert listed.exit_code == 0 and good.stem in listed.output
    error = run("show", bad, "--results", tmp_path / "runs").exception
    assert isinstance(error, GradprobeError), error
    assert len(str(error).splitlines()) == 1 and len(str(error)) < 600 and str(bad) in str(error)
    assert not (tmp_path / "executed").exists()
    assert isinstance(store.load(good), type(result()))


def test_numbers_that_make_no_table_are_one_line(tmp_path, run):
    question = {name: value for name, value in asked().items() if name != "batch_size"}
    path = Store(tmp_path).save(result(question))
    error = run("show", path, "--results", tmp_path).exception
    assert isinstance(error, GradprobeError) and str(path) in str(error)


@pytest.mark.parametrize("probe", ["sharpness", "FILE:PROBE"])
def test_an_answer_of_an_unknown_probe_is_told_and_no_file_is_run(tmp_path, probe):
    (tmp_path / "theirs.py").write_text(
        f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\nPROBE = 1\n"
    )
    probe = probe.replace("FILE", str(tmp_path / "theirs.py"))
    question = {"probe": probe, "k": 3}
    path = tmp_path / "runs" / "sharpness" / f"{key_of(question)}.npz"
    path.parent.mkdir(parents=True)
    run = {"schema": SCHEMA, "probe": probe, "key": key_of(question), "question": question, "arrays": {}}
    path.write_bytes(packed(run, {}, {}))
    with pytest.raises(GradprobeError, match="unknown here; known: coherence"):
        Store(tmp_path / "runs").load(path)
    assert "unknown here" in Store(tmp_path / "runs").entries()[0].problem
    assert not (tmp_path / "ran").exists()


def test_a_store_needs_no_other_import(tmp_path):
    path = Store(tmp_path).save(result())
    code = (
        "from gradprobe.store.results import Store\n"
        "print(type(Store('.').load(sys.argv[1])).__name__, [e.problem for e in Store('.').entries()])"
    )
    command = [sys.executable, "-c", NO_TORCH + code, path.stem]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "CoherenceResult ['']"


@pytest.mark.parametrize("which", ["x" * 5000, "a\0b", "../" * 2000, "\n"])
def test_no_key_is_too_strange_to_be_refused(tmp_path, which):
    Store(tmp_path).save(result())
    with pytest.raises(GradprobeError):
        Store(tmp_path).load(which)
