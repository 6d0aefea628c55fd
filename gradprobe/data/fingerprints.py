"""Fingerprints of weights and images in a stored question: hashes of contents, not paths; no torch is imported."""

import json
import os
from hashlib import sha256
from pathlib import Path

from gradprobe.data.hashes import file_hash, file_hashes
from gradprobe.errors import GradprobeError, UsageError
from gradprobe.files import open_regular

SCENES_VLM = Path(__file__).parents[1] / "embedded" / "scenes_vlm"
# Of a model's folder, what decides nothing: pictures, documents, and the card of scenes-vlm.
_DOCUMENTS = frozenset({".md", ".png", ".jpg", ".jpeg", ".gif", ".webp", ".svg", ".pdf", ".log"})
_PAPERS = ("card.json", "license", "notice")
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})


def weights_fingerprint(name: str, weights: str | Path | None, seed: int) -> str:
    """What the weights of a backbone are, whatever file or machine they come from.

    Args:
        name: ``scenes`` or a timm model name.
        weights: a file, ``"none"`` for random weights, None for the hub's (or the shipped ones of ``scenes``).
        seed: of random weights.

    Returns:
        ``sha256:`` and 16 hex digits of the file's hash, ``hub:`` and the full timm name, or ``random:`` and the seed.

    Raises:
        UsageError: the file cannot be read.
        GradprobeError: the shipped weights of ``scenes`` cannot be read.

    Example:
        >>> weights_fingerprint("deit_tiny_patch16_224", "none", seed=3)
        'random:3'
        >>> weights_fingerprint("deit_tiny_patch16_224.fb_in1k", None, seed=3)
        'hub:deit_tiny_patch16_224.fb_in1k'
    """
    if weights == "none":
        return f"random:{seed}"
    if weights is not None:
        return f"sha256:{file_hash(weights_file(weights))[:16]}"
    if name == "scenes":
        from gradprobe.embedded.scenes_model import scenes_sha256

        return f"sha256:{scenes_sha256()[:16]}"
    return f"hub:{_full_name(name)}"


def model_fingerprint(name: str) -> str:
    """Return ``hub:`` and the id of a vision-language model, or a hash of the contents of its folder.

    ``sha256:`` and 16 hex digits of the hash of the names and whole contents of all files that can decide what the
    model sees or says: weights, configuration, processor, tokenizer, chat templates, generation settings, adapter (and
    the folder of the model that it adapts). Documents, pictures, hidden files and sub-folders that hold a model of
    their own are left out.

    Args:
        name: ``scenes-vlm``, a hub id, or a folder.

    Raises:
        GradprobeError: a file of the folder cannot be read.

    Example:
        >>> model_fingerprint("llava-hf/llava-1.5-7b-hf")
        'hub:llava-hf/llava-1.5-7b-hf'
    """
    folder = SCENES_VLM if name == "scenes-vlm" else Path(name)
    return f"sha256:{_folder_hash(folder)[:16]}" if folder.is_dir() else f"hub:{name}"


def _folder_hash(folder: Path, within: tuple[str, ...] = ()) -> str:
    files = _model_files(folder)
    digest = sha256(b"gradprobe model 2\n")
    for file, found in zip(files, file_hashes(folder, files), strict=True):
        if found is None:
            raise GradprobeError(f"{folder / file} cannot be read; a model is named by the contents of all its files")
        digest.update(f"{file}\0{found}\n".encode("utf-8", "surrogateescape"))
    base = _adapted(folder)
    real = os.path.realpath(folder)
    if base is not None and base.is_dir() and os.path.realpath(base) not in (*within, real):
        digest.update(f"base\0{_folder_hash(base, (*within, real))}\n".encode())
    return digest.hexdigest()


def _model_files(folder: Path) -> list[str]:
    """The files of a model's folder, and of its sub-folders (further tokenizers, chat templates), sorted."""
    below = sorted(each for each in folder.iterdir() if not each.name.startswith((".", "__")) and each.is_dir())
    places = [folder, *(each for each in below if not (each / "config.json").exists())]
    return sorted(
        file.relative_to(folder).as_posix()
        for place in places
        for file in place.iterdir()
        if file.is_file() and not file.name.startswith(".") and not _is_paper(file)
    )


def _is_paper(file: Path) -> bool:
    return file.suffix.lower() in _DOCUMENTS or file.name.lower().startswith(_PAPERS)


def _adapted(folder: Path) -> Path | None:
    """The folder of the model that an adapter is for."""
    try:
        with open_regular(folder / "adapter_config.json") as file:
            return Path(json.loads(file.read())["base_model_name_or_path"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def weights_file(weights: str | Path) -> Path:
    """The path of a weights file that is there.

    Raises:
        UsageError: no file has this path.
    """
    path = Path(weights)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise UsageError(f"--weights {weights} {what}; give a .safetensors or .pth file, or --weights none")
    return path


def data_fingerprint(root: str | Path) -> str:
    """Return ``sha256:`` and 16 hex digits of the hash of a folder's images: their relative paths and contents.

    A file that cannot be read is passed over by all that reads images; here its path alone counts.

    Raises:
        UsageError: there is no such folder, or no image in it.
    """
    return images_fingerprint(Path(root), image_files(Path(root)))


def images_fingerprint(root: Path, files: list[str]) -> str:
    """Return the same of some images of a folder, by relative path."""
    digest = sha256(b"gradprobe images 2\n")
    for file, found in zip(files, file_hashes(root, files), strict=True):
        digest.update(f"{file}\0{found or 'unreadable'}\n".encode("utf-8", "surrogateescape"))
    return f"sha256:{digest.hexdigest()[:16]}"


def image_files(root: Path) -> list[str]:
    """The images of a folder by suffix, at any depth, as sorted relative paths with ``/``; hidden names are left out.

    Raises:
        UsageError: there is no such folder, or no image in it.
    """
    if not root.is_dir():
        what = "is a file" if root.is_file() else "does not exist"
        raise UsageError(f"--data {root} {what}; give a folder of images (one sub-folder per class, or flat)")
    found: list[str] = []
    seen: set[str] = set()
    for folder, below, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        below[:] = [] if real in seen else sorted(name for name in below if not name.startswith("."))
        if real in seen:  # a link back up, or a second one to the same folder
            continue
        seen.add(real)
        start = Path(folder).relative_to(root)
        images = (name for name in names if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES)
        found.extend((start / name).as_posix() for name in images)
    if not found:
        raise UsageError(f"--data {root} has no image ({', '.join(sorted(SUFFIXES))}); give a folder that has some")
    return sorted(found)


def _full_name(name: str) -> str:
    if "." in name:
        return name
    import timm  # only here: the default tag is timm's to know

    cfg = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    return f"{name}.{cfg.tag}" if cfg is not None and cfg.tag else name
