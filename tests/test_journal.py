"""A journal keeps what was appended before a kill, and nothing of what was not finished."""

import os
import signal
import subprocess
import sys

import pytest

from gradprobe.errors import GradprobeError
from gradprobe.store.chunk_log import opened

ABOUT = {"question": {"k": 58}, "versions": {"torch": "2"}}


def test_pieces_survive_a_kill(tmp_path):
    code = (
        "import os, signal\nfrom gradprobe.store.chunk_log import opened\n"
        f"with opened({str(tmp_path)!r}, {ABOUT!r}) as journal:\n"
        "    for i in range(5):\n        journal.append(i, bytes([i]) * 1000)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    with opened(tmp_path, ABOUT) as journal:
        assert journal.pieces == {i: bytes([i]) * 1000 for i in range(5)}
        journal.append(7, b"")
    with opened(tmp_path, ABOUT) as journal:
        assert journal.pieces[7] == b"" and len(journal.pieces) == 6


@pytest.mark.parametrize("cut", [1, 10, 16, 500, 1015])
def test_a_torn_last_piece_is_dropped_and_overwritten(tmp_path, cut):
    with opened(tmp_path, ABOUT) as journal:
        journal.append(0, b"a" * 1000)
        journal.append(1, b"b" * 1000)
    file = next(tmp_path.iterdir())
    os.truncate(file, file.stat().st_size - cut)
    with opened(tmp_path, ABOUT) as journal:
        assert journal.pieces == {0: b"a" * 1000}
        journal.append(2, b"c")
    with opened(tmp_path, ABOUT) as journal:
        assert journal.pieces == {0: b"a" * 1000, 2: b"c"}


def test_a_flipped_bit_is_seen(tmp_path):
    with opened(tmp_path, ABOUT) as journal:
        journal.append(0, b"a" * 100)
        journal.append(1, b"b" * 100)
    file = next(tmp_path.iterdir())
    content = bytearray(file.read_bytes())
    content[-50] ^= 1
    file.write_bytes(content)
    with opened(tmp_path, ABOUT) as journal:
        assert journal.pieces == {0: b"a" * 100}


def test_other_work_in_the_same_folder_and_the_users_files_are_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    (tmp_path / "folder").mkdir()
    with opened(tmp_path, ABOUT) as journal:
        journal.append(0, b"old")
        journal.beside("safetensors").write_bytes(b"theta")
    other = {**ABOUT, "versions": {"torch": "3"}}
    with opened(tmp_path, other) as journal:
        assert journal.pieces == {} and not journal.beside("safetensors").exists()
        journal.append(0, b"new")
    for about, piece in ((ABOUT, b"old"), (other, b"new")):
        with opened(tmp_path, about) as journal:
            assert journal.pieces == {0: piece}
    assert (tmp_path / "thesis.tex").read_text() == "years of work" and (tmp_path / "folder").is_dir()


def test_two_processes_do_not_write_into_one(tmp_path):
    with (
        opened(tmp_path, ABOUT),
        pytest.raises(GradprobeError, match="another process is at work"),
        opened(tmp_path, ABOUT),
    ):
        pass


def test_a_place_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(GradprobeError, match="name another folder with --results"),
        opened(tmp_path / "file" / "x", ABOUT),
    ):
        pass
