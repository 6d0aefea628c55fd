"""A chunk log keeps what was appended before a kill, and nothing of what was not finished."""

import os
import signal
import subprocess
import sys

import pytest

from gradprobe.errors import GradprobeError
from gradprobe.store.chunk_log import open_chunk_log

RUN = {"question": {"k": 58}, "versions": {"torch": "2"}}


def test_chunks_survive_a_kill(tmp_path):
    code = (
        "import os, signal\nfrom gradprobe.store.chunk_log import open_chunk_log\n"
        f"with open_chunk_log({str(tmp_path)!r}, {RUN!r}) as log:\n"
        "    for i in range(5):\n        log.append(i, bytes([i]) * 1000)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    with open_chunk_log(tmp_path, RUN) as log:
        assert log.chunks == {i: bytes([i]) * 1000 for i in range(5)}
        log.append(7, b"")
    with open_chunk_log(tmp_path, RUN) as log:
        assert log.chunks[7] == b"" and len(log.chunks) == 6


@pytest.mark.parametrize("cut", [1, 10, 16, 500, 1015])
def test_a_torn_last_chunk_is_dropped_and_overwritten(tmp_path, cut):
    with open_chunk_log(tmp_path, RUN) as log:
        log.append(0, b"a" * 1000)
        log.append(1, b"b" * 1000)
    file = next(tmp_path.iterdir())
    os.truncate(file, file.stat().st_size - cut)
    with open_chunk_log(tmp_path, RUN) as log:
        assert log.chunks == {0: b"a" * 1000}
        log.append(2, b"c")
    with open_chunk_log(tmp_path, RUN) as log:
        assert log.chunks == {0: b"a" * 1000, 2: b"c"}


def test_a_flipped_bit_is_seen(tmp_path):
    with open_chunk_log(tmp_path, RUN) as log:
        log.append(0, b"a" * 100)
        log.append(1, b"b" * 100)
    file = next(tmp_path.iterdir())
    content = bytearray(file.read_bytes())
    content[-50] ^= 1
    file.write_bytes(content)
    with open_chunk_log(tmp_path, RUN) as log:
        assert log.chunks == {0: b"a" * 100}


def test_other_work_in_the_same_folder_and_the_users_files_are_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    (tmp_path / "folder").mkdir()
    with open_chunk_log(tmp_path, RUN) as log:
        log.append(0, b"old")
        log.beside("safetensors").write_bytes(b"theta")
    other = {**RUN, "versions": {"torch": "3"}}
    with open_chunk_log(tmp_path, other) as log:
        assert log.chunks == {} and not log.beside("safetensors").exists()
        log.append(0, b"new")
    for run, chunk in ((RUN, b"old"), (other, b"new")):
        with open_chunk_log(tmp_path, run) as log:
            assert log.chunks == {0: chunk}
    assert (tmp_path / "thesis.tex").read_text() == "years of work" and (tmp_path / "folder").is_dir()


def test_two_processes_do_not_write_into_one(tmp_path):
    with (
        open_chunk_log(tmp_path, RUN),
        pytest.raises(GradprobeError, match="another process is at work"),
        open_chunk_log(tmp_path, RUN),
    ):
        pass


def test_a_place_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(GradprobeError, match="name another folder with --results"),
        open_chunk_log(tmp_path / "file" / "x", RUN),
    ):
        pass
