"""Answers with compressed arrays: read as before, and an array that inflates beyond its size takes no memory."""

import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
from stored import asked, members_of, result

from gradprobe.cli.compact import compact as command
from gradprobe.errors import GradprobeError
from gradprobe.store.archive import compact, read, read_files
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
