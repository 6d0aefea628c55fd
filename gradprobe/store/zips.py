"""Contents of an answer's file: a zip of arrays, as ``np.savez`` writes them, ``run.json`` and other files.

Read without trust: no code runs, and memory is taken for the arrays that ``run.json`` describes and no others.
"""

import hashlib
import io
import math
import os
import struct
import zipfile
import zlib
from collections.abc import Mapping
from typing import IO, Any

import numpy as np

from gradprobe.store.record import LARGEST, RUN, sealed

_LOCAL = struct.Struct("<4s5H3L2H")  # what a zip says before each member
_DIRECTORY = 1 << 20  # bytes of a zip's table of contents
_END = 22  # bytes of the record behind it
_SLACK = 1 << 16  # bytes that a member may have beside its array
_KINDS = "biuf"  # of dtypes: truth values, integers, floats


def npy(array: np.ndarray) -> bytes:
    """Return the npy file of an array; its bytes depend on the values alone, not on strides or byte order."""
    buffer = io.BytesIO()
    plain = array.astype(array.dtype.newbyteorder("<"), order="C")
    np.lib.format.write_array(buffer, plain, allow_pickle=False)
    return buffer.getvalue()


def described(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return the entry of ``run.json`` about arrays: dtype and shape of each."""
    return {name: {"dtype": str(a.dtype), "shape": list(a.shape)} for name, a in arrays.items()}


def digest(members: Mapping[str, bytes]) -> str:
    """Return the SHA-256 of npy files and their names, whatever the zip around them."""
    total = hashlib.sha256()
    for name in sorted(members):
        total.update(f"{name}\0{len(members[name])}\0".encode())
        total.update(members[name])
    return total.hexdigest()


def packed(
    run: Mapping[str, Any], members: Mapping[str, bytes], files: Mapping[str, bytes], small: bool = False
) -> bytes:
    """Return the contents of an answer's file, its record first; nothing in it is dated.

    Args:
        run: Record; its checksums are computed here.
        members: The npy files of its arrays.
        files: Other files, neither called ``run.json`` nor ending with ``.npy``.
        small: Compress the arrays; the bytes then depend on the version of zlib. Their checksum does not.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in {RUN: sealed({**run, "sha256": digest(members)}), **members, **files}.items():
            entry = zipfile.ZipInfo(name)  # dated 1980
            entry.create_system = 3  # else it names the operating system
            method = zipfile.ZIP_DEFLATED if small and name in members else zipfile.ZIP_STORED
            archive.writestr(entry, content, method, 9)
    return buffer.getvalue()


def read_first(file: IO[bytes]) -> bytes:
    """Return ``run.json`` from the beginning of a zip; nothing else of the file is read.

    Raises:
        ValueError: It does not begin so, or is not whole.
    """
    head = file.read(_LOCAL.size)
    magic, _, flags, method, _, _, check, size, _, length, extra = _LOCAL.unpack(head.ljust(_LOCAL.size, b"\0"))
    name = file.read(length + extra)[:length]
    if (magic, flags, method, name) != (b"PK\3\4", 0, zipfile.ZIP_STORED, RUN.encode()) or size > LARGEST:
        raise ValueError(f"it does not begin with {RUN}")
    content = file.read(size)
    if zlib.crc32(content) != check:
        raise ValueError(f"{RUN} is not whole")
    return content


def open_zip(file: IO[bytes]) -> zipfile.ZipFile:
    """Open a zip in which at most arrays are compressed.

    Raises:
        ValueError: Other members are, or two have one name, or it is not whole.
    """
    file.seek(max(0, file.seek(0, os.SEEK_END) - _END))
    end = file.read()
    if not end.startswith(b"PK\5\6"):
        raise ValueError("its end is missing")
    if int.from_bytes(end[12:16], "little") > _DIRECTORY:
        raise ValueError("its table of contents is too long")
    archive = zipfile.ZipFile(file)
    entries = archive.infolist()
    for e in entries:
        stored = e.compress_type == zipfile.ZIP_STORED and e.file_size == e.compress_size
        if not stored and not (e.compress_type == zipfile.ZIP_DEFLATED and e.filename.endswith(".npy")):
            raise ValueError("it is compressed")
    if len({entry.filename for entry in entries}) < len(entries):
        raise ValueError("it holds a name twice")
    return archive


def read_members(archive: zipfile.ZipFile, about: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the npy files of a zip by name; memory is taken for the arrays in question and no others.

    Args:
        archive: The zip.
        about: Of `described`.

    Raises:
        ValueError: There are others, or larger ones, than those described.
    """
    sizes = {f"{name}.npy": math.prod(each["shape"]) * np.dtype(each["dtype"]).itemsize for name, each in about.items()}
    there = {entry.filename: entry.file_size for entry in archive.infolist() if entry.filename.endswith(".npy")}
    if there.keys() != sizes.keys():
        raise ValueError(f"it holds {', '.join(there)[:100]}, not the arrays of run.json")
    if any(size > sizes[name] + _SLACK for name, size in there.items()):
        raise ValueError("it has more bytes than its arrays")
    return {name: _inflated(archive, name, size) for name, size in there.items()}


def _inflated(archive: zipfile.ZipFile, name: str, size: int) -> bytes:
    """Return a member of at most the size that its zip states; a longer one takes no memory."""
    with archive.open(name) as file:
        return file.read(size + 1)  # of a given length, so that no more is inflated at a time


def unpacked(members: Mapping[str, bytes], about: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the arrays of npy files.

    Raises:
        ValueError: One is not as described.
    """
    return {name: _array(members[f"{name}.npy"], each, name) for name, each in about.items()}


def _array(data: bytes, about: Mapping[str, Any], name: str) -> np.ndarray:
    """Return an array from its npy file; dtype, shape and length are checked before memory is taken."""
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    expected = np.dtype(about["dtype"]).newbyteorder("=")
    if dtype.kind not in _KINDS or dtype.newbyteorder("=") != expected or list(shape) != about["shape"]:
        raise ValueError(f"{name} is {dtype} {shape}, not as run.json says")
    if len(data) - file.tell() != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{name} has too few or too many bytes")
    flat = np.frombuffer(data, dtype, offset=file.tell())
    return flat.reshape(shape, order="F" if fortran else "C").copy()
