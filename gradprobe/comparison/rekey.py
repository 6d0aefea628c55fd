"""Stored answers take fingerprints of contents in place of those of names and sizes; nothing is measured again.

Before, an image folder was named by paths and sizes, a model's folder by its weights and config.json. The
older fingerprint is computed of the files that are here: where it is the one in a question, those are the files that
the answer is about as far as anyone can still tell, and their contents become their name.
"""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from gradprobe.data.fingerprints import SCENES_VLM, data_fingerprint, image_files, model_fingerprint
from gradprobe.data.reader import is_plain
from gradprobe.errors import GradprobeError, UsageError
from gradprobe.files import atomic_write, sync, write_synced
from gradprobe.store.leftovers import has_run, remove
from gradprobe.store.locks import folder_locked
from gradprobe.store.record import RUN, key_of, read_arrays, read_run, sealed

_FIELDS = ("data", "train_data")
_WHOLE = 64 << 20  # bytes up to which a model's file was hashed whole


@dataclass(frozen=True)
class Outcome:
    """Outcome for an answer or file: its name, the name it has now, and why."""

    before: str
    after: str
    reason: str


def older_data_fingerprint(root: Path) -> str:
    """Return what named a folder of images: the hash of relative paths and sizes."""
    digest = sha256()
    for file in image_files(root):
        path = root / file
        size = path.stat().st_size if path.exists() else -1
        digest.update(f"{file}\0{size}\n".encode("utf-8", "surrogateescape"))
    return f"sha256:{digest.hexdigest()[:16]}"


def older_model_fingerprint(folder: Path) -> str:
    """Return what named a model's folder: the hash of weights and config.json, of large files only the two ends."""
    digest = sha256()
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin"), *folder.glob("config.json")]):
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}".encode())
        with path.open("rb") as file:
            digest.update(file.read() if size <= _WHOLE else file.read(1 << 20))
            if size > _WHOLE:
                file.seek(-(1 << 20), os.SEEK_END)
                digest.update(file.read())
    return f"sha256:{digest.hexdigest()[:16]}"


def older_captions_fingerprint(listing: Any) -> str:
    """Return what named captioned images: the hash of entries and sizes of images."""
    digest = sha256()
    for entry in listing.entries:
        size = (listing.root / entry.image).stat().st_size
        digest.update(f"{entry!r}{size}\n".encode("utf-8", "surrogateescape"))
    return f"sha256:{digest.hexdigest()[:16]}"


def fingerprints(data: Sequence[str], models: Sequence[str]) -> dict[str, str]:
    """Return the older fingerprint of each folder or captions file -> the one of contents.

    Args:
        data: folders of images, or captions as ``vlm train`` takes them.
        models: folders of vision-language models; ``scenes-vlm`` is always among them.

    Raises:
        UsageError: there is no such folder or file, or its pictures or classes are read otherwise than before.
    """
    found = {older_model_fingerprint(SCENES_VLM): model_fingerprint("scenes-vlm")}
    for name in models:
        if not Path(name).is_dir():
            raise UsageError(f"--model {name} is no folder; models of the hub are named by their ids")
        found[older_model_fingerprint(Path(name))] = model_fingerprint(name)
    for name in data:
        from gradprobe.vlm.caption_files import list_captions

        if Path(name).is_dir():
            _check_read_alike(Path(name))
            found[older_data_fingerprint(Path(name))] = data_fingerprint(name)
        try:
            listing = list_captions(name)
        except UsageError:
            if Path(name).is_dir():
                continue  # images alone
            raise
        found[older_captions_fingerprint(listing)] = listing.fingerprint
    return found


def _check_read_alike(root: Path) -> None:
    """Refuse a folder that earlier versions read otherwise, since its answers would come out differently now.

    Raises:
        UsageError: a picture is turned, transparent, of more than 8 bits or of an extreme shape, or its class folders
            get other labels.
    """
    from gradprobe.data.classes import natural_key  # timm

    files = image_files(root)
    folders = sorted({file.split("/")[0] for file in files if "/" in file})
    reason = next((f"{file} was read otherwise" for file in files if not is_plain(root / file)), "")
    if all(name.isdigit() for name in folders) and [int(name) for name in folders] != list(range(len(folders))):
        reason = reason or "its numbered class folders had other labels"
    elif folders != sorted(folders, key=natural_key):
        reason = reason or "the order of its class folders is uncertain"
    if reason:
        raise UsageError(f"--data {root}: {reason} by earlier versions; leave this folder out and measure again")


def rekey(root: Path, known: Mapping[str, str]) -> Iterator[Outcome]:
    """Re-key the answers of a folder one by one; stopped at any point, the same call goes on.

    Args:
        root: the folder of answers.
        known: of `fingerprints`.

    Yields:
        What became of each answer, in order.
    """
    for folder in sorted(path for path in root.iterdir() if not path.name.startswith(".") and has_run(path)):
        try:
            yield _rekeyed(folder, known)
        except (GradprobeError, OSError) as error:
            yield Outcome(folder.name, folder.name, f"left as it is: {error}")
    for path in sorted(root.glob("*.partial")):
        yield Outcome(path.name, path.name, "left as it is: unfinished work, which goes on where its question is known")
    for path in sorted(root.glob("compare-*.json")):
        yield _note_rekeyed(path, known)


def rekey_presets(folder: Path, known: Mapping[str, str]) -> Iterator[Outcome]:
    """Put the fingerprints of contents into the presets of a folder."""
    for path in sorted(folder.glob("*.toml")):
        text = path.read_text(encoding="utf-8")
        for older, newer in known.items():
            text = text.replace(older, newer)
        changed = text != path.read_text(encoding="utf-8")
        if changed:
            atomic_write(path, text.encode())
        yield Outcome(path.name, path.name, "fingerprints of contents put in" if changed else "as it is")


def _rekeyed(folder: Path, known: Mapping[str, str]) -> Outcome:
    run = read_run(folder)
    read_arrays(folder, run)  # whole
    question = _replaced(run["question"], known)
    if question == run["question"]:
        reason = _why_not(question, known)
        if "record" not in run:
            atomic_write(folder / RUN, sealed(run))
            return Outcome(folder.name, folder.name, f"checksum added; {reason}")
        return Outcome(folder.name, folder.name, reason)
    key = key_of(question)
    target = folder.with_name(f"{run['probe']}-{key}")
    if has_run(target):
        if read_run(target)["sha256"] != run["sha256"]:
            return Outcome(folder.name, folder.name, f"left as it is: {target.name} holds another answer already")
        _put_away(folder)
        return Outcome(folder.name, target.name, "re-keyed before; the older folder is gone now")
    temporary = folder.with_name(f".{key}-{uuid.uuid4().hex[:8]}")
    try:
        shutil.copytree(folder, temporary)
        if (temporary / "scorer.json").is_file():  # of a retention: it says what the scorer was trained on
            about = json.loads((temporary / "scorer.json").read_text(encoding="utf-8"))
            text = json.dumps(_replaced(about, known), indent=2, sort_keys=True)
            write_synced(temporary / "scorer.json", f"{text}\n".encode())
        write_synced(temporary / RUN, sealed(_without_record(run) | {"key": key, "question": question}))
        for path in temporary.iterdir():
            sync(path)
        sync(temporary)
        with folder_locked(folder.parent):
            temporary.rename(target)
            sync(folder.parent)
    finally:
        remove(temporary)
    _put_away(folder)
    return Outcome(folder.name, target.name, "re-keyed")


def _put_away(folder: Path) -> None:
    """Remove an answer that has another name now; killed meanwhile, it is no half of an answer."""
    aside = folder.with_name(f".{folder.name.rpartition('-')[2]}-{uuid.uuid4().hex[:8]}")
    folder.rename(aside)
    remove(aside)


def _without_record(run: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in run.items() if name != "record"}


def _replaced(value: Any, known: Mapping[str, str]) -> Any:
    """The value with each older fingerprint, and what follows it after a colon, replaced by the newer."""
    if isinstance(value, dict):
        return {name: _replaced(each, known) for name, each in value.items()}
    if isinstance(value, list):
        return [_replaced(each, known) for each in value]
    if isinstance(value, str) and value.startswith("sha256:"):
        head, rest = value[:23], value[23:]
        return known[head] + rest if head in known and rest[:1] in ("", ":") else value
    return value


def _why_not(question: Mapping[str, Any], known: Mapping[str, str]) -> str:
    """Why a question stays as it is."""
    fields = (*_FIELDS, "weights") if question.get("task") == "captioning" else _FIELDS
    asked = {name: str(question[name]) for name in fields if str(question.get(name, "")).startswith("sha256:")}
    strange = [f"{name} {value}" for name, value in asked.items() if value[:23] not in known.values()]
    if strange:
        return f"left as it is: {', '.join(strange)} is of none of the files given"
    return "as it is"


def _note_rekeyed(path: Path, known: Mapping[str, str]) -> Outcome:
    """The size that a comparison's budget bought: a note named by what was compared."""
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
        newer = _replaced(note, known)
        name = f"compare-{_note_key(newer)}.json"
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        return Outcome(path.name, path.name, f"left as it is: {error}")
    if newer == note or path.name != f"compare-{_note_key(note)}.json":
        return Outcome(path.name, path.name, "as it is")
    atomic_write(path.with_name(name), json.dumps(newer, indent=2).encode())
    path.unlink()
    return Outcome(path.name, name, "re-keyed")


def _note_key(note: Mapping[str, Any]) -> str:
    about = {name: value for name, value in note.items() if name not in ("size", "estimated_seconds")}
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:12]
