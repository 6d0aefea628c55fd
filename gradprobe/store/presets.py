"""Presets that come with gradprobe, wherever it is run (no torch)."""

from pathlib import Path

FOLDER = "experiments"
HOMES = (Path(__file__).parents[2] / FOLDER, Path(__file__).parents[1] / FOLDER)  # of a clone, and of a wheel


def shipped(path: Path | str) -> Path:
    """Return a path as it is; where ``experiments/...`` is not there, that of gradprobe's own preset or folder.

    Example:
        >>> shipped("experiments/leaderboard.toml").name, shipped("mine/preset.toml").as_posix()
        ('leaderboard.toml', 'mine/preset.toml')
    """
    path = Path(path)
    if path.exists() or path.parts[:1] != (FOLDER,):
        return path
    return next((own for home in HOMES if (own := home.joinpath(*path.parts[1:])).exists()), path)
