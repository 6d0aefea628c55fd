"""Answers with compressed arrays: read as before, and an array that inflates beyond its size takes no memory."""

import errno
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from stored import asked, members_of, result
from test_results import names_in

from gradprobe.cli.compact import compact as command
from gradprobe.errors import GradprobeError
from gradprobe.store import archive
from gradprobe.store.archive import compact, read, read_files
from gradprobe.store.locks import Busy
from gradprobe.store.results import Store


def test_a_compacted_answer_is_read_as_before_and_keeps_its_files(tmp_path):
    store = Store(tmp_path / "runs")
    (tmp_path / "keep").mkdir()
    (tmp_path / "keep" / "scorer.safetensors").write_bytes(b"0" * 1000)
    path = store.save(result(), keep=tmp_path / "keep")
    before, run = read(path), path.read_bytes()
    saved = compact(path)
    assert saved == len(run) - path.stat().st_size > 0 and read(path) == before
    assert read_files(path) == {"scorer.safetensors": b"0" * 1000}
    assert store.find(asked()) == path and compact(path) == 0
    np.testing.assert_array_equal(store.load(path).gram, result().gram)


def test_a_damaged_answer_is_named_and_keeps_no_other_from_being_compressed(tmp_path, capsys):
    store = Store(tmp_path)
    first, *others = sorted(store.save(result(asked(k=k))) for k in (5, 20, 58))
    whole = first.read_bytes()
    first.write_bytes(whole[: len(whole) // 2])
    sizes = [path.stat().st_size for path in others]
    with pytest.raises(GradprobeError, match=f"{first.stem}.* damaged"):
        command(tmp_path)
    assert "2 answers" in capsys.readouterr().out
    assert all(path.stat().st_size < size for path, size in zip(others, sizes, strict=True))
    assert first.read_bytes() == whole[: len(whole) // 2]


def test_no_forced_run_can_save_a_newer_answer_while_the_older_one_is_compressed(tmp_path, monkeypatch):
    store, packing, tried = Store(tmp_path), archive.packed, []
    path = store.save(result(seed=1))

    def late(*arguments, **more):
        with pytest.raises(Busy, match="in the hands of"), store.working(asked(), force=True):
            store.save(result(seed=2))
        tried.append(path)
        return packing(*arguments, **more)

    monkeypatch.setattr(archive, "packed", late)
    command(tmp_path)
    assert tried and names_in(tmp_path) == [f"coherence/{path.name}"]
    np.testing.assert_array_equal(store.load(path).gram, result(seed=1).gram)


def test_an_answer_that_a_process_works_on_is_left_to_it_and_named(tmp_path, capsys):
    store = Store(tmp_path)
    held, other = (store.save(result(asked(k=k))) for k in (5, 20))
    whole, size = held.read_bytes(), other.stat().st_size
    with store.working(asked(k=5), force=True) as partial:
        (partial / "piece").write_bytes(b"half")
        with pytest.raises(GradprobeError, match=f"question {held.stem} in .*in the hands of"):
            command(tmp_path)
        assert held.read_bytes() == whole and (partial / "piece").read_bytes() == b"half"
    assert "1 answer in" in capsys.readouterr().out and other.stat().st_size < size


@pytest.mark.parametrize("place", ["replace", "open"])
def test_an_answer_that_cannot_be_written_is_told_in_a_line_and_stays(tmp_path, monkeypatch, place):
    path = Store(tmp_path).save(result())
    whole, usual = path.read_bytes(), getattr(Path, place)

    def full(self, *arguments):
        if self.parent == path.parent and "r" not in arguments[:1]:
            raise OSError(errno.ENOSPC, "No space left on device")
        return usual(self, *arguments)

    with monkeypatch.context() as patch, pytest.raises(GradprobeError, match=r"cannot write to .*No space left"):
        patch.setattr(Path, place, full)
        command(tmp_path)
    assert path.read_bytes() == whole and names_in(tmp_path) == [f"coherence/{path.name}"]


def test_an_array_that_inflates_to_more_than_it_says_is_damaged_and_takes_no_memory(tmp_path):
    """The zip states the size of the array; behind it comes a gigabyte of zeros."""
    path = Store(tmp_path).save(result())
    members = members_of(path)
    name = next(each for each in members if each.endswith(".npy"))
    bomb = {**members, name: bytes(10**9)}
    with zipfile.ZipFile(path, "w") as archive:
        for each, content in bomb.items():
            archive.writestr(each, content, zipfile.ZIP_DEFLATED if each == name else zipfile.ZIP_STORED)
    honest = len(members[name])
    content = path.read_bytes().replace(struct.pack("<L", 10**9), struct.pack("<L", honest))
    path.write_bytes(content)
    del bomb
    tracemalloc.start()
    with pytest.raises(GradprobeError, match="damaged"):
        read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * 2**20
