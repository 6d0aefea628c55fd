"""Trained scorer on disk: tensors in ``scorer.safetensors``, what it was trained for in ``scorer.json`` beside them.

Retention and pruner training write the same two files; those of a retention go into the file of its result. Earlier
versions called those of a pruner ``pruner.*``.
"""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from gradprobe.errors import GradprobeError, UsageError
from gradprobe.files import atomic_write, open_regular
from gradprobe.operators.registry import check_trusted, part
from gradprobe.store.archive import file_names, read_files

NAME, OLDER = "scorer.safetensors", "pruner.safetensors"
RESULT = ".npz"


class Scorer(nn.Module):
    """A trained scorer.

    Args:
        network: Patches ``(B, N, D)`` -> scores ``(B, N)``.
        metadata: What it was trained for; ``scorer`` and ``dim``, the token width, are always there.
    """

    def __init__(self, network: nn.Module, metadata: Mapping[str, Any]):
        super().__init__()
        self.network, self.metadata = network, dict(metadata)

    def forward(self, patches: Tensor) -> Tensor:
        """Scores ``(B, N)``; higher is more important."""
        return self.network(patches)


def save_scorer(scorer: nn.Module, folder: Path | str, metadata: Mapping[str, Any]) -> Path:
    """Write ``scorer.safetensors`` and ``scorer.json`` into a folder, which is made if need be.

    Args:
        scorer: Network as ``metadata["scorer"]`` makes it.
        folder: Folder to write to.
        metadata: ``scorer``, ``dim`` (the token width) and what else is known of the training, in JSON types.

    Raises:
        GradprobeError: The folder cannot be written.
    """
    folder = Path(folder)
    state = {name: value.detach().cpu().contiguous() for name, value in scorer.state_dict().items()}
    text = json.dumps(dict(metadata), indent=2, sort_keys=True) + "\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write(folder / NAME, save(state))
        atomic_write((folder / NAME).with_suffix(".json"), text.encode())
    except OSError as error:
        raise GradprobeError(f"cannot write to {folder}: {error.strerror or error}; name another folder") from None
    return folder / NAME


def scorer_path(path: Path | str) -> Path:
    """Return the file of tensors that a folder holds, or the path itself if it is no folder."""
    path = Path(path)
    if not path.is_dir():
        return path
    older = (path / OLDER).is_file() and not (path / NAME).is_file()
    return path / (OLDER if older else NAME)


def load_scorer(path: Path | str, trust: Collection[Path | str] = ()) -> Scorer:
    """Load a trained scorer in evaluation mode on the CPU.

    Args:
        path: Stored result of a retention, folder of a pruner, or the file of tensors in it.
        trust: Python files that its ``scorer.json`` may name and that may run.

    Raises:
        UsageError: There is no scorer, or it names Python code that is not trusted.
        GradprobeError: Its files cannot be read.
    """
    path = scorer_path(path)
    if not path.is_file() or (path.suffix == RESULT and NAME not in file_names(path)):
        raise UsageError(
            f"there is no scorer at {path}; name the result of a retention (gradprobe list) or the folder of a pruner, "
            "or train one: gradprobe retention --op vpnoise --k 20"
        )
    try:
        tensors, text = _contents(path)
        metadata = json.loads(text)
        check_trusted("scorer", metadata["scorer"], path, trust)
        state = load(tensors)
        network = part("scorer", metadata["scorer"]).make(metadata["dim"], 0).to(next(iter(state.values())).dtype)
        network.load_state_dict(state)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, StopIteration, RuntimeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise GradprobeError(f"{path} holds no scorer that can be read ({reason}); train it again") from None
    return Scorer(network.requires_grad_(False), metadata).eval()


def _contents(path: Path) -> tuple[bytes, bytes]:
    """Return tensors and metadata from a stored result, or from the file of tensors and the one beside it."""
    if path.suffix == RESULT:
        files = read_files(path)
        return files[NAME], files["scorer.json"]
    with open_regular(path.with_suffix(".json")) as file:
        return path.read_bytes(), file.read()
