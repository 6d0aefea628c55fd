"""Where a training stands, on disk: whole or not at all, and refused by any other training."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from gradprobe.errors import GradprobeError, UsageError
from gradprobe.files import atomic_write
from gradprobe.vlm.training.result import Validation

NAME = "checkpoint.safetensors"
_FACTS, _BEST = "gradprobe", "best."


@dataclass(frozen=True)
class Checkpoint:
    """All that the rest of a training follows from.

    Attributes:
        state: of `gradprobe.training.train.Fitting`.
        best: the scorer of the best validation so far; empty: there was none.
        question: what is trained how on what, in JSON types.
        validations: so far.
        seconds: spent so far.
    """

    state: dict[str, Tensor]
    best: dict[str, Tensor]
    question: Mapping[str, Any]
    validations: tuple[Validation, ...] = ()
    seconds: float = field(default=0.0, compare=False)

    def content(self) -> bytes:
        """The bytes of its file."""
        tensors = self.state | {f"{_BEST}{name}": value for name, value in self.best.items()}
        facts = {"question": dict(self.question), "seconds": self.seconds}
        facts["validations"] = [[v.step, v.loss, v.deployed] for v in self.validations]
        whole = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        return save(whole, metadata={_FACTS: json.dumps(facts, sort_keys=True)})

    @classmethod
    def of(cls, content: bytes, path: Path) -> "Checkpoint":
        """From the bytes of its file.

        Raises:
            GradprobeError: they are no checkpoint.
        """
        try:
            length = int.from_bytes(content[:8], "little")
            facts = json.loads(json.loads(content[8 : 8 + length])["__metadata__"][_FACTS])
            tensors = load(content)
            validations = tuple(Validation(int(step), *losses) for step, *losses in facts["validations"])
            best = {name.removeprefix(_BEST): tensors.pop(name) for name in list(tensors) if name.startswith(_BEST)}
            return cls(tensors, best, facts["question"], validations, facts["seconds"])
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            reason = " ".join(str(error).split())[:120]
            raise GradprobeError(
                f"{path} is no checkpoint that can be read ({reason}); --restart begins anew, or give another --out"
            ) from None


def write_checkpoint(folder: Path, content: bytes) -> None:
    """Write a checkpoint in place of the last one, which stays if this fails.

    Raises:
        GradprobeError: the disk is full, or the folder cannot be written.
    """
    path = folder / NAME
    try:
        atomic_write(path, content)
    except OSError as error:
        path.with_name(path.name + ".new").unlink(missing_ok=True)  # what was written of it fills the disk
        kept = "; the one before it stays, and the same command goes on from there" if path.exists() else ""
        raise GradprobeError(
            f"cannot write the checkpoint of {len(content) / 1e6:.0f} MB to {folder}: {error.strerror or error}{kept}"
        ) from None


def check_same(there: Mapping[str, Any], here: Mapping[str, Any], folder: Path) -> None:
    """Refuse to go on from another training's checkpoint.

    Raises:
        UsageError: says what differs.
    """
    names = [name for name in sorted({*there, *here}) if there.get(name) != here.get(name)]
    if names:
        what = "; ".join(f"{name} {there.get(name)} there, {here.get(name)} here" for name in names)
        raise UsageError(
            f"{folder} holds another training ({what}); give another --out, or --restart to begin anew in this one"
        )
