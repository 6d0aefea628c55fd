"""Conversion of stored answers of earlier versions; nothing is measured again.

A folder becomes one file. Fingerprints of contents replace those of names and sizes: before, an image folder was named
by paths and sizes, a model's folder by its weights and config.json. The older fingerprint of the files that are here is
computed; where a question has it, these are the files that its answer is about, as far as anyone can still tell.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from gradprobe.data.fingerprints import data_fingerprint, image_files, model_fingerprint
from gradprobe.data.reader import is_plain
from gradprobe.embedded.vlms import SCENES, VLMS
from gradprobe.errors import GradprobeError, UsageError
from gradprobe.files import atomic_write, may_exist
from gradprobe.store import archive, older
from gradprobe.store.leftovers import put_away, temporary
from gradprobe.store.record import key_of, one_line
from gradprobe.store.results import Store
from gradprobe.store.zips import packed

_FIELDS = ("data", "train_data")
_WHOLE = 64 << 20  # bytes up to which a model's file was hashed whole


@dataclass(frozen=True)
class Outcome:
    """Outcome for an answer or file: its name, the name it has now, and why."""

    before: str
    after: str
    reason: str


def older_data_fingerprint(root: Path) -> str:
    """Return the older fingerprint of a folder of images: the hash of relative paths and sizes."""
    digest = sha256()
    for file in image_files(root):
        path = root / file
        size = path.stat().st_size if path.exists() else -1
        digest.update(f"{file}\0{size}\n".encode("utf-8", "surrogateescape"))
    return f"sha256:{digest.hexdigest()[:16]}"


def older_model_fingerprint(folder: Path) -> str:
    """Return the older fingerprint of a model: the hash of weights and config.json, large files by their two ends."""
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
    """Return the older fingerprint of captioned images: the hash of entries and sizes of images."""
    digest = sha256()
    for entry in listing.entries:
        size = (listing.root / entry.image).stat().st_size
        digest.update(f"{entry!r}{size}\n".encode("utf-8", "surrogateescape"))
    return f"sha256:{digest.hexdigest()[:16]}"


def fingerprints(data: Sequence[str], models: Sequence[str]) -> dict[str, str]:
    """Return the fingerprint of contents of each folder or captions file, by its older one.

    Args:
        data: Folders of images, or captions as ``vlm train`` takes them.
        models: Folders of vision-language models; ``scenes-vlm`` is always among them.

    Raises:
        UsageError: There is no such folder or file, or its pictures or classes are read otherwise than before.
    """
    fingerprints = {older_model_fingerprint(VLMS[SCENES]): model_fingerprint(SCENES)}
    for name in models:
        if not Path(name).is_dir():
            raise UsageError(f"--model {name} is no folder; models of the hub are named by their ids")
        fingerprints[older_model_fingerprint(Path(name))] = model_fingerprint(name)
    for name in data:
        from gradprobe.vlm.caption_files import list_captions

        if Path(name).is_dir():
            _check_read_alike(Path(name))
            fingerprints[older_data_fingerprint(Path(name))] = data_fingerprint(name)
        try:
            listing = list_captions(name)
        except UsageError:
            if Path(name).is_dir():
                continue  # images alone
            raise
        fingerprints[older_captions_fingerprint(listing)] = listing.fingerprint
    return fingerprints


def _check_read_alike(root: Path) -> None:
    """Refuse a folder that earlier versions read otherwise, since its answers would come out differently now.

    Raises:
        UsageError: A picture is turned, transparent, of more than 8 bits or of an extreme shape, or its class folders
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
    """Bring the answers of a folder up to date one by one; stopped at any point, the same call goes on.

    Args:
        root: Folder of answers.
        known: Of `fingerprints`.

    Yields:
        Outcome for each folder of the older layout, each answer, each piece of unfinished work and each comparison.
    """
    for folder in sorted(path for path in root.iterdir() if older.label(path)):
        yield _attempt(folder.name, partial(_one_file, folder))
    for label, path in Store(root).paths().items():
        if not path.is_dir():
            yield _attempt(label, partial(_rekeyed, path, known))
    for path in sorted([*root.glob("*.partial"), *root.glob("*/*.partial")]):
        yield Outcome(path.name, path.name, "left as it is: unfinished work, which goes on where its question is known")
    for path in sorted(root.glob("compare-*.json")):
        yield _note_rekeyed(path, known)


def rekey_presets(folder: Path, known: Mapping[str, str]) -> Iterator[Outcome]:
    """Put the fingerprints of contents into the presets of a folder."""
    for path in sorted(folder.glob("*.toml")):
        text = path.read_text(encoding="utf-8")
        for before, after in known.items():
            text = text.replace(before, after)
        changed = text != path.read_text(encoding="utf-8")
        if changed:
            atomic_write(path, text.encode())
        yield Outcome(path.name, path.name, "fingerprints of contents put in" if changed else "as it is")


def _attempt(name: str, work: Callable[[], tuple[str, str]]) -> Outcome:
    try:
        after, reason = work()
    except (GradprobeError, OSError) as error:
        return Outcome(name, name, f"left as it is: {error}")
    return Outcome(name, after or name, reason)


def _one_file(folder: Path) -> tuple[str, str]:
    """Make a file of an answer in the older layout; return its name, and why."""
    label = older.label(folder)
    path = folder.parent / f"{label}.npz"
    with one_line(folder):
        content = older.converted(folder)
    if may_exist(path):
        put_away(folder)
        return label, "replaced before; the older folder is gone now"
    path.parent.mkdir(exist_ok=True)
    atomic_write(path, content, temporary(path.parent))
    put_away(folder)
    return label, "one file now"


def _rekeyed(path: Path, known: Mapping[str, str]) -> tuple[str, str]:
    """Put fingerprints of contents into the question of an answer; return its new name, if it has one, and why."""
    run, members = archive.read(path)
    question = _replaced(run["question"], known)
    if question == run["question"]:
        return "", _why_not(question, known)
    key = key_of(question)
    label, target = f"{run['probe']}/{key}", path.with_name(f"{key}.npz")
    if may_exist(target):
        if archive.read_run(target)["sha256"] != run["sha256"]:
            return "", f"left as it is: {label} holds another answer already"
        path.unlink()
        return label, "re-keyed before; the older file is gone now"
    files = archive.read_files(path)
    if "scorer.json" in files:  # of a retention: it says what the scorer was trained on
        text = json.dumps(_replaced(json.loads(files["scorer.json"]), known), indent=2, sort_keys=True)
        files["scorer.json"] = f"{text}\n".encode()
    atomic_write(target, packed({**run, "key": key, "question": question}, members, files), temporary(target.parent))
    path.unlink()
    return label, "re-keyed"


def _replaced(value: Any, known: Mapping[str, str]) -> Any:
    """Return a value with each older fingerprint replaced by the newer, and what follows it after a colon kept."""
    if isinstance(value, dict):
        return {name: _replaced(each, known) for name, each in value.items()}
    if isinstance(value, list):
        return [_replaced(each, known) for each in value]
    if isinstance(value, str) and value.startswith("sha256:"):
        head, rest = value[:23], value[23:]
        return known[head] + rest if head in known and rest[:1] in ("", ":") else value
    return value


def _why_not(question: Mapping[str, Any], known: Mapping[str, str]) -> str:
    """Return the reason for leaving a question as it is."""
    fields = (*_FIELDS, "weights") if question.get("task") == "captioning" else _FIELDS
    asked = {name: str(question[name]) for name in fields if str(question.get(name, "")).startswith("sha256:")}
    strange = [f"{name} {value}" for name, value in asked.items() if value[:23] not in known.values()]
    if strange:
        return f"left as it is: {', '.join(strange)} is of none of the files given"
    return "as it is"


def _note_rekeyed(path: Path, known: Mapping[str, str]) -> Outcome:
    """Re-key the note of the size that a comparison's budget bought; its name is a hash of what was compared."""
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
    compared = {name: value for name, value in note.items() if name not in ("size", "estimated_seconds")}
    return hashlib.sha256(json.dumps(compared, sort_keys=True).encode()).hexdigest()[:12]
