"""Checkpoint of an unfinished training: one safetensors file, its config and progress in the metadata."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from gradprobe.errors import GradprobeError, UsageError, brief
from gradprobe.files import atomic_write, open_regular

NAME = "checkpoint.safetensors"
MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # of AdamW
_ENTRY = "gradprobe"  # of the metadata


@dataclass(frozen=True)
class Checkpoint:
    """State that the remaining steps of a training follow from.

    Attributes:
        config: Everything that decides the outcome, in JSON types.
        tensors: Parameters, moments and other tensors by name.
        progress: Other state in JSON types, such as the seconds spent.
    """

    config: Mapping[str, Any]
    tensors: dict[str, Tensor]
    progress: Mapping[str, Any] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """Return the content of the file."""
        tensors = {name: value.detach().cpu().contiguous() for name, value in self.tensors.items()}
        facts = {"question": dict(self.config), **self.progress}
        return save(tensors, metadata={_ENTRY: json.dumps(facts, sort_keys=True)})

    @classmethod
    def from_bytes(cls, content: bytes, path: Path) -> "Checkpoint":
        """Parse the content of a file; ``path`` is for the error message.

        Raises:
            GradprobeError: The content is no checkpoint.
        """
        try:
            length = int.from_bytes(content[:8], "little")
            metadata = json.loads(content[8 : 8 + length])["__metadata__"]
            if "about" in metadata:  # as retention wrote it before all trainings shared this format
                facts = json.loads(metadata["about"]) | {n: float(metadata[n]) for n in ("spread", "seconds")}
            else:
                facts = json.loads(metadata[_ENTRY])
            return cls(facts.pop("question"), load(content), facts)
        except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise unreadable(path, error) from None

    @classmethod
    def read(cls, path: Path) -> "Checkpoint | None":
        """Read a file; None if there is none.

        Raises:
            GradprobeError: The file cannot be read, or is no checkpoint.
        """
        content = read_bytes(path)
        return None if content is None else cls.from_bytes(content, path)

    def write(self, path: Path) -> None:
        """Replace a file by this checkpoint; if that fails, the one before stays.

        Raises:
            GradprobeError: The disk is full, or the folder cannot be written.
        """
        content = self.to_bytes()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(path, content)
        except OSError as error:
            raise unwritable(path, error, f" of {len(content) / 1e6:.0f} MB") from None

    def check_config(self, config: Mapping[str, Any], folder: Path) -> None:
        """Refuse to resume a training of another config.

        Raises:
            UsageError: The configs differ; the message says where.
        """
        names = [n for n in sorted({*self.config, *config}) if self.config.get(n) != config.get(n)]
        if names:
            differences = "; ".join(f"{n} {self.config.get(n)} there, {config.get(n)} here" for n in names)
            raise UsageError(
                f"{folder} holds another run ({differences}); give another --out, or --restart to begin anew in "
                "this one"
            )


def read_bytes(path: Path) -> bytes | None:
    """Read the content of a checkpoint file; None if there is none.

    Raises:
        GradprobeError: The file cannot be read.
    """
    if not path.exists():
        return None
    try:
        with open_regular(path) as file:
            return file.read()
    except OSError as error:
        raise unreadable(path, error) from None


def unreadable(path: Path, error: Exception) -> GradprobeError:
    """Return the error of a file that is no checkpoint."""
    reason = getattr(error, "strerror", None) or brief(error)
    return GradprobeError(f"{path} is no checkpoint that can be read ({reason}); delete it to begin anew")


def unwritable(path: Path, error: OSError, size: str = "") -> GradprobeError:
    """Return the error of a checkpoint, ``size`` large, that could not be written."""
    advice = "name another folder (--results or --out)"
    if path.exists():
        advice = "the one before it stays, and the same command goes on from there"
    return GradprobeError(f"cannot write the checkpoint {path}{size}: {error.strerror or error}; {advice}")


def adamw_state(optimiser: torch.optim.Optimizer, parameters: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Return the moments of named parameters, ``exp_avg.NAME`` and so on."""
    return {f"{kind}.{n}": value for n, p in parameters for kind, value in optimiser.state.get(p, {}).items()}


def load_adamw_state(
    optimiser: torch.optim.Optimizer, parameters: Iterable[tuple[str, Tensor]], state: Mapping[str, Tensor]
) -> None:
    """Load the moments of named parameters as `adamw_state` returns them."""
    for name, parameter in parameters:
        moments = {kind: state[f"{kind}.{name}"].clone() for kind in MOMENTS if f"{kind}.{name}" in state}
        for kind in set(moments) - {"step"}:  # on the parameter's device, in its memory format: the same bits
            moments[kind] = torch.empty_like(parameter, requires_grad=False).copy_(moments[kind])
        if moments:  # AdamW has none for a parameter that never had a gradient
            optimiser.state[parameter] = moments
