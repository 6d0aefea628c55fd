"""What names weights and images in a stored question: hashes, not paths. Nothing here imports torch by itself."""

import os
from hashlib import sha256
from pathlib import Path

from gradprobe.errors import UsageError

_WHOLE = 64 << 20  # bytes up to which a file of a model is hashed whole
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
        return f"sha256:{_hash_of(weights_file(weights))[:16]}"
    if name == "scenes":
        from gradprobe.embedded import scenes_sha256

        return f"sha256:{scenes_sha256()[:16]}"
    return f"hub:{_full_name(name)}"


def model_fingerprint(name: str) -> str:
    """What the weights of a vision-language model are: ``hub:`` and its id, or a hash of its folder's files.

    Of a file larger than 64 MB the first and last megabytes and the size are hashed.

    Args:
        name: ``scenes-vlm``, a hub id, or a folder.

    Example:
        >>> model_fingerprint("llava-hf/llava-1.5-7b-hf")
        'hub:llava-hf/llava-1.5-7b-hf'
    """
    folder = Path(__file__).parents[1] / "assets" / "scenes_vlm" if name == "scenes-vlm" else Path(name)
    if not folder.is_dir():
        return f"hub:{name}"
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
    """What the images of a folder are: ``sha256:`` and 16 hex digits of the hash of their relative paths and sizes.

    Raises:
        UsageError: there is no such folder, or no image in it.
    """
    root = Path(root)
    digest = sha256()
    for file in image_files(root):
        path = root / file
        size = path.stat().st_size if path.exists() else -1  # a dangling link
        digest.update(f"{file}\0{size}\n".encode("utf-8", "surrogateescape"))
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


def _hash_of(path: Path) -> str:
    digest = sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except OSError as error:
        raise UsageError(f"--weights {path} cannot be read ({error.strerror}); check its permissions") from None
    return digest.hexdigest()


def _full_name(name: str) -> str:
    if "." in name:
        return name
    import timm  # only here: the default tag is timm's to know

    cfg = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    return f"{name}.{cfg.tag}" if cfg is not None and cfg.tag else name
