"""Folders of the embedded vision-language models, and the commands that make them."""

from difflib import get_close_matches
from pathlib import Path

from gradprobe.errors import UsageError, nearest

_HERE = Path(__file__).parent
SCENES, PHOTOS = "scenes-vlm", "photos-vlm"  # the quick one, and the one on which selectors and operators differ
PHOTOS_SIZES = {"small": f"{PHOTOS}-small", "medium": PHOTOS, "large": f"{PHOTOS}-large"}
VLMS = {name: _HERE / name.replace("-", "_") for name in (SCENES, *PHOTOS_SIZES.values())}


def embedded_folder(name: str) -> Path | None:
    """Return the folder of an embedded vision-language model; None for any other name.

    Example:
        >>> embedded_folder("photos-vlm").name, embedded_folder("llava-hf/llava-1.5-7b-hf")
        ('photos_vlm', None)
    """
    return VLMS.get(name)


def check_spelling(name: str) -> None:
    """Refuse a name that is nearly one of an embedded model, before any hub is asked for it.

    Raises:
        UsageError: names the nearest.

    Example:
        >>> check_spelling("llava-1.5-7b-hf")
        >>> check_spelling("photo-vlm")
        Traceback (most recent call last):
        gradprobe.errors.UsageError: no model is called 'photo-vlm'; did you mean 'photos-vlm'? Known: photos-vlm, ...
    """
    if get_close_matches(name, VLMS, n=1, cutoff=0.75):
        raise UsageError(f"no model is called {name!r}; {nearest(name, VLMS)}, a hub id, or a folder")


def training_command(name: str, seed: int = 0) -> str:
    """Return the command that trains an embedded vision-language model from nothing.

    Example:
        >>> training_command("photos-vlm-large")
        'gradprobe vlm train-photos --size large --seed 0 --out gradprobe/embedded/photos_vlm_large'
    """
    size = {model: size for size, model in PHOTOS_SIZES.items()}.get(name)
    command = "train-scenes" if size is None else f"train-photos --size {size}"
    return f"gradprobe vlm {command} --seed {seed} --out gradprobe/embedded/{VLMS[name].name}"
