"""Fingerprints of weights and images in a stored question: hashes of contents, not paths (no torch is imported)."""

import json
import os
from hashlib import sha256
from pathlib import Path

from gradprobe.data.hashes import file_hash, file_hashes
from gradprobe.embedded.scenes_model import MODELS, scenes_sha256
from gradprobe.embedded.vlms import embedded_folder
from gradprobe.errors import GradprobeError, UsageError
from gradprobe.files import open_regular

# Files of a model's folder that do not affect its output: pictures, documents, and an embedded model's card.
_DOCUMENT_SUFFIXES = frozenset({".md", ".png", ".jpg", ".jpeg", ".gif", ".webp", ".svg", ".pdf", ".log"})
_DOCUMENT_NAMES = ("card.json", "license", "notice")
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})


def weights_fingerprint(name: str, weights: str | Path | None, seed: int) -> str:
    """Return an identifier of a backbone's weights that does not depend on path or machine.

    Args:
        name: Backbone, ``scenes``, ``photos`` or a timm model name.
        weights: File, ``"none"`` for random weights, None for the hub's (or the shipped ones of an
            embedded model).
        seed: Seed of random weights.

    Returns:
        ``sha256:`` and 16 hex digits of the file's hash, ``hub:`` and the full timm name, or ``random:`` and the seed.

    Raises:
        UsageError: The file cannot be read.
        GradprobeError: The shipped weights of an embedded model cannot be read.

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
    if name in MODELS:
        return f"sha256:{scenes_sha256(MODELS[name])[:16]}"
    return f"hub:{_full_name(name)}"


def model_fingerprint(name: str) -> str:
    """Return ``hub:`` and the id of a vision-language model, or a hash of the contents of its folder.

    The hash is ``sha256:`` and 16 hex digits, over the names and contents of all files that can affect the model's
    inputs or outputs: weights, config, processor, tokenizer, chat templates, generation config, and an adapter with
    the folder of its base model. Documents, pictures, hidden files and sub-folders with a model of their own are left
    out.

    Args:
        name: Embedded model (``photos-vlm``), a hub id or a folder.

    Raises:
        GradprobeError: A file of the folder cannot be read.

    Example:
        >>> model_fingerprint("llava-hf/llava-1.5-7b-hf")
        'hub:llava-hf/llava-1.5-7b-hf'
    """
    folder = embedded_folder(name) or Path(name)
    return f"sha256:{_folder_hash(folder)[:16]}" if folder.is_dir() else f"hub:{name}"


def _folder_hash(folder: Path, within: tuple[str, ...] = ()) -> str:
    files = _model_files(folder)
    digest = sha256(b"gradprobe model 2\n")
    for file, content in zip(files, file_hashes(folder, files), strict=True):
        if content is None:
            raise GradprobeError(f"{folder / file} cannot be read; a model is identified by all its files")
        digest.update(f"{file}\0{content}\n".encode("utf-8", "surrogateescape"))
    base = _base_model(folder)
    real = os.path.realpath(folder)
    if base is not None and base.is_dir() and os.path.realpath(base) not in (*within, real):
        digest.update(f"base\0{_folder_hash(base, (*within, real))}\n".encode())
    return digest.hexdigest()


def _model_files(folder: Path) -> list[str]:
    """Return the files of a model's folder and its sub-folders (further tokenizers, chat templates), sorted."""
    below = sorted(each for each in folder.iterdir() if not each.name.startswith((".", "__")) and each.is_dir())
    places = [folder, *(each for each in below if not (each / "config.json").exists())]
    return sorted(
        file.relative_to(folder).as_posix()
        for place in places
        for file in place.iterdir()
        if file.is_file() and not file.name.startswith(".") and not _is_document(file)
    )


def _is_document(file: Path) -> bool:
    return file.suffix.lower() in _DOCUMENT_SUFFIXES or file.name.lower().startswith(_DOCUMENT_NAMES)


def _base_model(folder: Path) -> Path | None:
    """Return the folder of an adapter's base model, None if the folder holds no adapter."""
    try:
        with open_regular(folder / "adapter_config.json") as file:
            return Path(json.loads(file.read())["base_model_name_or_path"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def weights_file(weights: str | Path) -> Path:
    """Return the path of an existing weights file.

    Raises:
        UsageError: The path is not a file.
    """
    path = Path(weights)
    if not path.is_file():
        problem = "is a folder" if path.is_dir() else "does not exist"
        raise UsageError(f"--weights {weights} {problem}; give a .safetensors or .pth file, or --weights none")
    return path


def data_fingerprint(root: str | Path) -> str:
    """Return ``sha256:`` and 16 hex digits of a hash over the relative paths and contents of a folder's images.

    An unreadable file, which every reader of images skips, enters with its path alone.

    Raises:
        UsageError: The folder does not exist or has no image.
    """
    return images_fingerprint(Path(root), image_files(Path(root)))


def images_fingerprint(root: Path, files: list[str]) -> str:
    """Return the fingerprint of some images of a folder, by their relative paths."""
    digest = sha256(b"gradprobe images 2\n")
    for file, content in zip(files, file_hashes(root, files), strict=True):
        digest.update(f"{file}\0{content or 'unreadable'}\n".encode("utf-8", "surrogateescape"))
    return f"sha256:{digest.hexdigest()[:16]}"


def image_files(root: Path) -> list[str]:
    """Return the images of a folder at any depth as sorted relative paths with ``/``.

    An image is recognised by its suffix; hidden names are left out.

    Raises:
        UsageError: The folder does not exist or has no image.
    """
    if not root.is_dir():
        problem = "is a file" if root.is_file() else "does not exist"
        raise UsageError(f"--data {root} {problem}; give a folder of images (one sub-folder per class, or flat)")
    paths: list[str] = []
    visited: set[str] = set()
    for folder, below, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        below[:] = [] if real in visited else sorted(name for name in below if not name.startswith("."))
        if real in visited:  # a link to a parent, or a second link to the same folder
            continue
        visited.add(real)
        start = Path(folder).relative_to(root)
        images = (name for name in names if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES)
        paths.extend((start / name).as_posix() for name in images)
    if not paths:
        raise UsageError(f"--data {root} has no image ({', '.join(sorted(SUFFIXES))}); give a folder that has some")
    return sorted(paths)


def _full_name(name: str) -> str:
    """Return the name of a timm model with its default tag."""
    if "." in name:
        return name
    import timm  # slow, and needed for the tag alone

    cfg = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    return f"{name}.{cfg.tag}" if cfg is not None and cfg.tag else name
