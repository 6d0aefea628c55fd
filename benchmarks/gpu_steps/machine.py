"""Names of the device and of the packages, and the memory that the last step left behind."""

import gc
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from gradprobe import __version__

PACKAGES = ("timm", "transformers", "numpy", "triton")


def machine(device: str) -> dict[str, Any]:
    """Return the names and versions that a number depends on."""
    facts: dict[str, Any] = {
        "device": "cpu",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "gradprobe": __version__,
        "torch": torch.__version__,
    }
    facts |= {package: _version(package) for package in PACKAGES}
    if device == "cuda":
        card = torch.cuda.get_device_properties(0)
        facts |= {
            "device": card.name,
            "memory_gb": round(card.total_memory / 1e9, 1),
            "multiprocessors": card.multi_processor_count,
            "cuda": torch.version.cuda,
            "capability": f"{card.major}.{card.minor}",
        }
    return facts


def clear(device: str) -> None:
    """Give the memory of what is no longer used back to the device."""
    gc.collect()
    if device == "cuda" and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def is_broken(error: BaseException) -> bool:
    """Tell whether an error is one of the device's own, after which nothing more runs on it in this process.

    Example:
        >>> is_broken(RuntimeError("CUDA error: device-side assert triggered")), is_broken(ValueError("CUDA error"))
        (True, False)
    """
    if isinstance(error, RuntimeError) and not isinstance(error, torch.OutOfMemoryError) and "CUDA error" in str(error):
        return True
    return error.__cause__ is not None and is_broken(error.__cause__)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
