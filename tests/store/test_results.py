"""The store: what was saved comes back to the last bit, and what is not whole is never found."""

import json
import os
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from stored import ENVIRONMENT, array_bytes, asked, members_of, repack, result, run_of
from typer.testing import CliRunner

from gradprobe.cli.store import list_results, show
from gradprobe.errors import GradprobeError, UsageError
from gradprobe.probes.coherence.result import CoherenceResult
from gradprobe.statistics.estimates import coherence_row
from gradprobe.store.archive import read_files
from gradprobe.store.results import SCHEMA, Store, key_of

TREE = Path(__file__).parents[2]
NAMES = ("common", "energy", "gram", "losses", "spread")  # of the arrays of `result`
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
questions = st.dictionaries(
    st.text(min_size=1).filter(lambda name: name != "probe"),
    st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)),
    max_size=6,
).map(lambda question: question | {"probe": "coherence"})


NO_TORCH = f"""
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "timm"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Refuse())
sys.path[:0] = [{str(TREE)!r}, {str(TREE / "tests")!r}]
"""


def python(code, *args, cwd):
    """Run code in a process where torch cannot be imported."""
    command = [sys.executable, "-c", NO_TORCH + code, *map(str, args)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


def names_in(root):
    """The files below a folder."""
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def same(a, b):
    for f in fields(a):
        x, y = getattr(a, f.name), getattr(b, f.name)
        if isinstance(x, np.ndarray):
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(x, y)
        else:
            assert x == y
            assert type(x) is type(y)


# --- round trips ---


def test_what_was_saved_comes_back(tmp_path):
    store, one = Store(tmp_path / "a" / "b"), result()
    path, key = store.save(one), key_of(one.question)
    assert path == store.find(one.question) == tmp_path / "a" / "b" / "coherence" / f"{key}.npz"
    for which in (path, str(path), key, key[:3], f"coherence/{key}", f"coherence/{key[:2]}"):
        same(store.load(which), one)


def test_numpy_reads_the_file_and_other_files_go_with_it(tmp_path):
    keep, one = tmp_path / "keep", result()
    keep.mkdir()
    (keep / "scorer.json").write_text("{}")
    path = Store(tmp_path).save(one, keep)
    with np.load(path) as arrays:
        assert arrays["gram"].tobytes() == one.gram.tobytes()
        assert json.loads(arrays["run.json"])["question"] == one.question
    np.savez(tmp_path / "numpy.npz", **{name: getattr(one, name) for name in NAMES})
    assert array_bytes(path) == members_of(tmp_path / "numpy.npz")
    assert read_files(path) == {"scorer.json": b"{}"}


@given(questions, questions)
def test_any_question_comes_back_and_names_its_folder(tmp_path_factory, question, other):
    store, one = Store(tmp_path_factory.mktemp("store")), result()
    store.save(replace(one, question=question, environment=other))
    loaded = store.load(store.find(question))
    assert json.dumps(loaded.question) == json.dumps(question)  # order and type of numbers too
    assert loaded.environment == other
    assert store.find(dict(reversed(question.items()))) is not None
    assert (store.find(other) is not None) == (key_of(other) == key_of(question))


@given(questions, st.text(min_size=1), scalars)
def test_the_key_is_that_of_the_json_and_changes_with_every_field(question, name, value):
    key = key_of(question)
    assert len(key) == 12
    assert int(key, 16) >= 0
    assert key_of(json.loads(json.dumps(question))) == key
    changed = question | {name: value}
    same_json = json.dumps(changed, sort_keys=True) == json.dumps(question, sort_keys=True)
    if same_json:
        assert key_of(changed) == key
    elif changed != question:
        assert key_of(changed) != key


def test_key_of_a_known_question_never_changes():
    assert key_of({"probe": "coherence", "op": "hard+gather", "k": 58}) == "1ba4345795f2"
    assert key_of({"k": 58.0, "op": "hard+gather", "probe": "coherence"}) == "1ba4345795f2"
    assert key_of({"a": True}) != key_of({"a": 1})
    assert key_of({"a": "1"}) != key_of({"a": 1})
    assert key_of({"a": 0.1}) != key_of({"a": 0.1 + 1e-17 + 1e-16})


@pytest.mark.parametrize("value", [np.nan, np.inf, (1, 2), np.arange(2), {1: 2}, {"a": [np.nan]}, object(), b"x"])
def test_what_is_not_json_is_refused(tmp_path, value):
    with pytest.raises(UsageError, match=r"question\.tau"):
        key_of({"tau": value})
    with pytest.raises(UsageError, match=r"result\.environment\.tau"):
        Store(tmp_path).save(replace(result(), environment={"tau": value}))
    assert list(tmp_path.iterdir()) == []


def test_nan_and_infinity_live_in_arrays(tmp_path):
    losses = np.full((6, 2), np.nan)
    losses[0] = np.inf, -0.0
    loaded = Store(tmp_path).load(Store(tmp_path).save(replace(result(), losses=losses)))
    assert loaded.losses.tobytes() == losses.tobytes()


def test_wrong_shapes_are_refused():
    for name in ("gram", "energy", "common", "losses", "spread"):
        with pytest.raises(GradprobeError, match="shape"):
            replace(result(), **{name: np.zeros((7, 7, 7))})


# --- bytes ---


def test_same_arrays_same_bytes(tmp_path):
    one = result()
    other = replace(
        one,
        gram=np.asfortranarray(one.gram),
        energy=one.energy.astype(">f8"),
        losses=np.repeat(one.losses, 2, axis=1)[:, ::2],
        environment=ENVIRONMENT | {"date": "later"},
    )
    paths = [Store(tmp_path / n).save(r) for n, r in (("a", one), ("b", other))]
    assert array_bytes(paths[0]) == array_bytes(paths[1])
    assert run_of(paths[0])["sha256"] == run_of(paths[1])["sha256"]
    again = Store(tmp_path / "b").save(one)
    assert again.read_bytes() == paths[0].read_bytes()
    changed = Store(tmp_path / "c").save(replace(one, spread=one.spread + 1e-15))
    assert run_of(changed)["sha256"] != run_of(again)["sha256"]


def test_saving_again_replaces(tmp_path):
    store = Store(tmp_path)
    store.save(result(seed=1))
    store.save(result(seed=2))
    same(store.load(key_of(asked())), result(seed=2))
    assert names_in(tmp_path) == [f"coherence/{key_of(asked())}.npz"]


def test_run_json_is_for_people_too(tmp_path):
    text = members_of(Store(tmp_path).save(result()))["run.json"].decode()
    run = json.loads(text)
    assert run["schema"] == SCHEMA
    assert run["question"]["op"] == "lapsum+vpnoise"
    assert run["arrays"]["gram"] == {"dtype": "float64", "shape": [2, 2, 6, 2, 6, 2]}
    assert run["environment"]["seconds"] == 0.1 + 0.2  # exactly
    assert len(text.splitlines()) > 30


# --- killed runs ---


def test_a_failed_save_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    store = Store(tmp_path)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("os.fsync", interrupted)
        store.save(result())
    assert names_in(tmp_path) == []


def test_two_processes_may_answer_the_same_question(tmp_path, monkeypatch):
    store, sync = Store(tmp_path), os.fsync

    def late(descriptor):
        monkeypatch.setattr(os, "fsync", sync)
        Store(tmp_path).save(result(seed=1))  # the other one comes first
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", late)
    path = store.save(result(seed=2))
    same(store.load(path), result(seed=2))
    assert names_in(tmp_path) == [f"coherence/{path.name}"]


def test_other_files_in_the_same_folder_are_no_answers(tmp_path):
    path = Store(tmp_path).save(result())
    for name in ("leaderboard.json", "compare-0123456789ab.json", "page.html", f"{path.stem}.npz", "pruner/card.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(path.read_bytes())
    for name in (f".{path.stem}-01234567", f"{path.stem}.partial", "notes.npz", f"{path.stem}.npz.bak"):
        (path.parent / name).write_bytes(path.read_bytes())
    assert Store(tmp_path).paths() == {f"coherence/{path.stem}": path}
    assert len(Store(tmp_path).entries()) == 1


# --- damage ---


def edit(path, **changes):
    """Change a record as an older gradprobe may have written it, without a checksum of all of it."""
    run = run_of(path) | {"record": None} | changes
    put(path, "run.json", json.dumps({k: v for k, v in run.items() if v is not None}).encode())


def put(path, name, content):
    repack(path, members_of(path) | {name: content})


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


DAMAGE = {
    "truncated": (lambda f: f.write_bytes(f.read_bytes()[:-100]), "damaged"),
    "a flipped bit in an array": (lambda f: flip(f, f.stat().st_size // 2), "damaged"),
    "a flipped bit in the record": (lambda f: flip(f, f.read_bytes().index(b"environment")), "damaged"),
    "a flipped bit in an array, and its CRC": (lambda f: put(f, "spread.npy", flipped(f, "spread.npy")), "checksum"),
    "empty": (lambda f: f.write_bytes(b""), "damaged"),
    "no arrays": (lambda f: repack(f, {"run.json": members_of(f)["run.json"]}), "damaged"),
    "no record": (lambda f: repack(f, array_bytes(f)), "damaged"),
    "truncated record": (lambda f: put(f, "run.json", members_of(f)["run.json"][:-100]), "damaged"),
    "binary record": (lambda f: put(f, "run.json", b"\xff\xfe\x00"), "damaged"),
    "a record that is a list": (lambda f: put(f, "run.json", b"[]"), "damaged"),
    "no schema": (lambda f: edit(f, schema=None), "schema"),
    "newer schema": (lambda f: edit(f, schema=SCHEMA + 1), f"has schema {SCHEMA + 1}, this gradprobe reads up to"),
    "another probe": (lambda f: edit(f, probe="coherency"), "was edited"),
    "no groups": (lambda f: edit(f, groups=None), "it has no groups"),
    "edited question": (lambda f: edit(f, question=asked(k=57)), f"edited: .* coherence/{key_of(asked(k=57))}"),
    "edited key": (lambda f: edit(f, key="0" * 12), "edited"),
    "question with NaN": (lambda f: edit(f, question=asked(k=float("nan"))), "cannot hold"),
    "question that is none": (lambda f: edit(f, question="k"), "damaged"),
}


def flipped(path, name):
    content = bytearray(members_of(path)[name])
    content[-1] ^= 1
    return bytes(content)


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_told_in_one_line(tmp_path, name):
    store = Store(tmp_path)
    path = store.save(result())
    harm, message = DAMAGE[name]
    harm(path)
    with pytest.raises(GradprobeError, match=message) as error:
        store.load(path)
    assert len(str(error.value).splitlines()) == 1 and str(path) in str(error.value)
    assert len(store.entries()) == 1  # a listing goes on


def test_arrays_of_another_result_and_a_renamed_file_are_refused(tmp_path):
    store = Store(tmp_path)
    one, two = store.save(result()), store.save(result(asked(k=20), seed=3))
    repack(one, members_of(one) | array_bytes(two))
    with pytest.raises(GradprobeError, match="checksum"):
        store.load(one)
    one.rename(one.with_name(f"{key_of(asked(k=21))}.npz"))
    with pytest.raises(GradprobeError, match=f"holds the answer coherence/{one.stem}; rename it to {one.name}"):
        store.load(store.find(asked(k=21)))
    assert [bool(entry.problem) for entry in store.entries()] == [True, False]


def test_unknown_and_ambiguous_keys(tmp_path):
    store = Store(tmp_path)
    with pytest.raises(UsageError, match="the folder holds none yet"):
        store.load("abc")
    keys = [key_of(store.load(store.save(result(asked(k=k)))).question) for k in range(1, 18)]
    shared = next(a[0] for a in keys if sum(b.startswith(a[0]) for b in keys) > 1)  # 17 keys, 16 first letters
    with pytest.raises(UsageError, match=r"could be coherence/.*type more letters"):
        store.load(shared)
    wrong = keys[4][:-1] + ("0" if keys[4][-1] != "0" else "1")
    with pytest.raises(UsageError, match=f"no result '{wrong}'.*nearest: {keys[4]}"):
        store.load(wrong)
    with pytest.raises(UsageError):
        store.load("")


def test_an_answer_may_be_sent_to_somebody(tmp_path):
    path = Store(tmp_path / "runs").save(result())
    (tmp_path / "downloads").mkdir()
    sent = path.rename(tmp_path / "downloads" / path.name)
    same(Store("elsewhere").load(sent), result())


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(GradprobeError, match="--results DIR"):
        Store(tmp_path / "file" / "runs").save(result())


# --- rows, listing, and no torch ---


def test_a_row_is_the_statistics_of_the_arrays():
    ours, base = result(), result(asked(op="gumbel-ste+gather"), signal=0.5, seed=1)
    row = ours.row(baseline=base, path=Path("runs/x"))
    numbers = coherence_row(ours.gram, ours.common, ours.energy, 16, baseline=base.gram)
    assert numbers.items() <= row.items()
    assert (row["op"], row["path"], row["batches"]) == ("lapsum+vpnoise", "runs/x", 6)
    assert json.loads(json.dumps(row, allow_nan=False)) == row
    none = result(gradient="none").row()
    assert none["gradient"] == "none"
    assert none["coherence"] is None


def test_entries_are_sorted_by_date(tmp_path):
    for k, date in ((1, "2026-03-01"), (2, "2026-01-01"), (3, "2026-02-01")):
        Store(tmp_path).save(result(asked(k=k), environment={"date": date}))
    assert [entry.question["k"] for entry in Store(tmp_path).entries()] == [2, 3, 1]


@pytest.fixture
def run():
    app = typer.Typer()
    app.command("list")(list_results)
    app.command()(show)
    return lambda *arguments: CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "100"})


def test_list_and_show(tmp_path, run):
    assert "no results in" in run("list", "--results", tmp_path).output
    good, bad = Store(tmp_path).save(result()), Store(tmp_path).save(result(asked(k=20)))
    put(bad, "run.json", b"{")
    listed = run("list", "--results", tmp_path).output
    assert all(word in listed for word in (key_of(asked()), "lapsum+vpnoise", "6 x 16", "2026-01-02", "is damaged"))
    entries = json.loads(run("list", "--results", tmp_path, "--json").output)
    assert {e["key"]: e["problem"] is None for e in entries} == {key_of(asked()): True, key_of(asked(k=20)): False}
    shown = run("show", key_of(asked())[:5], "--results", tmp_path).output
    assert all(word in shown for word in ("lapsum+vpnoise", "0.30000000000000004", str(good), "C [95 %]"))
    as_json = json.loads(run("show", key_of(asked()), "--results", tmp_path, "--json").output)
    assert as_json["question"] == asked()
    assert as_json["rows"] == [result().row(path=good)]
    assert isinstance(run("show", "zzz", "--results", tmp_path).exception, UsageError)


def test_stored_results_are_read_and_drawn_without_torch(tmp_path):
    Store(tmp_path / "runs").save(result())
    code = (
        "from gradprobe.store.results import Store\nimport gradprobe.comparison.experiments, gradprobe.cli.figures\n"
        "import gradprobe.cli.store\n"
        "from gradprobe.probes.coherence.figure import coherence_bars\n"
        "from gradprobe.plotting.style import save_figure\n"
        "from gradprobe.probes.coherence.view import lines\n"
        "row = Store('runs').load(sys.argv[1]).row()\nsave_figure(coherence_bars([row], 'x'), 'x.svg')\n"
        "print(row['op'], lines([row], None))\nassert 'matplotlib.pyplot' not in sys.modules"
    )
    done = python(code, key_of(asked()), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "lapsum+vpnoise" in done.stdout
    assert (tmp_path / "x.svg").stat().st_size > 1000


def test_every_stored_field_is_documented():
    assert all(f"{f.name}:" in CoherenceResult.__doc__ for f in fields(CoherenceResult))
