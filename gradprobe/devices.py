"""Devices by name: one that is not possible here is refused with the reason, before anything is loaded onto it."""

import re
import warnings
from collections.abc import Sequence
from typing import Any

import torch

from gradprobe.errors import UsageError, brief

_WHEELS = {11: "cu118", 12: "cu126"}  # of torch, for drivers of that major version of CUDA or newer
_BFLOAT16 = (8, 0)  # least compute capability


def device_named(name: Any, *, kinds: Sequence[str] = (), others: Sequence[str] = (), hint: str = "") -> torch.device:
    """Return a device by name, if it can be used here.

    Args:
        name: ``cpu``, ``cuda``, ``cuda:1``, ``mps``, ... or a device.
        kinds: Types of device that the caller takes; none: all.
        others: Names that the caller takes beside devices, for the message.
        hint: Remedy of the caller's, the end of the message.

    Raises:
        UsageError: There is no such device, it is not among the kinds, or torch or its driver cannot use it.

    Example:
        >>> device_named("cpu")
        device(type='cpu')
    """
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        device = None
    if device is None or (kinds and device.type not in kinds):
        reason, remedy = "no kind of device that this takes" if device else "no device is called so", ""
    else:
        reason, remedy = _problem(device)
    if device is not None and not reason:
        return device
    possible = ["cpu", *(each for each in _accelerators() if not kinds or each.split(":")[0] in kinds), *others]
    ends = [f"possible: {', '.join(possible)}", *filter(None, (remedy, hint))]
    raise UsageError(f"--device {name} is not possible here ({reason}); {'; '.join(ends)}")


def check_dtype(dtype: str, device: torch.device, instead: str = "--dtype float32") -> None:
    """Refuse a data type that a device has not, or has by slow emulation alone.

    Args:
        dtype: ``float32``, ``bfloat16``, ...
        device: Device that `device_named` returned.
        instead: Remedy.

    Raises:
        UsageError: The device cannot compute in it.
    """
    if dtype == "bfloat16" and not supports_bfloat16(device):
        name = torch.cuda.get_device_name(device)
        raise UsageError(f"--dtype bfloat16 is not possible on {device} ({name} emulates it); give {instead}")
    if dtype == "float64" and device.type == "mps":
        raise UsageError(f"--dtype float64 is not possible on {device}; give {instead}")


def supports_bfloat16(device: torch.device) -> bool:
    """Tell whether a device computes in bfloat16 itself; a GPU before Ampere emulates it."""
    if device.type != "cuda" or torch.version.hip is not None:
        return True
    return torch.cuda.get_device_capability(device) >= _BFLOAT16


def cuda_available() -> bool:
    """Tell whether CUDA can be used, without torch's warnings about drivers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.cuda.is_available()


def free_memory(device: torch.device) -> int:
    """Return the bytes that torch can still allocate on a CUDA device: free ones, and those it holds unused."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def _accelerators() -> list[str]:
    """Return the names of the accelerators that are here."""
    count = torch.cuda.device_count() if cuda_available() else 0
    usable = [f"cuda:{i}" for i in range(count) if not _too_old(torch.device("cuda", i))]
    names = ["cuda"] if usable == ["cuda:0"] else usable
    return names + ["mps"] * torch.backends.mps.is_available()


def _problem(device: torch.device) -> tuple[str, str]:
    """Return the reason why a device cannot be used here, and a remedy; both empty if it can."""
    if device.type == "cuda":
        return _cuda_problem(device)
    if device.type == "mps" and not torch.backends.mps.is_available():
        return "it needs macOS on Apple silicon, and a torch built for it", ""
    try:
        torch.zeros(1, device=device).item()
    except Exception as error:  # each backend refuses in its own way
        return brief(error), ""
    return "", ""


def _cuda_problem(device: torch.device) -> tuple[str, str]:
    if not cuda_available():
        return _no_cuda()
    count = torch.cuda.device_count()
    if (device.index or 0) >= count:
        found = "one was found, cuda:0" if count == 1 else f"{count} were found, cuda:0 to cuda:{count - 1}"
        return f"there is no such GPU here: {found}", ""
    reason = _too_old(device)
    return reason, "install an older torch, see pytorch.org/get-started/previous-versions" if reason else ""


def _too_old(device: torch.device) -> str:
    """Say why torch has no code for a GPU; nothing if it has."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, about any GPU of the machine that it was not built for
        major, minor = torch.cuda.get_device_capability(device)
        built = [int(re.sub(r"\D", "", arch)) for arch in torch.cuda.get_arch_list() if arch.startswith("sm_")]
    if not built or 10 * major + minor >= min(built):
        return ""
    name = torch.cuda.get_device_name(device)
    return f"{name} has compute capability {major}.{minor}, and {_torch()} was built for {min(built) / 10:g} and newer"


def _no_cuda() -> tuple[str, str]:
    """Return the reason why torch cannot use CUDA at all, and a remedy; torch tells it where it is forced to begin."""
    if torch.version.cuda is None and torch.version.hip is None:
        return f"{_torch()} was built without CUDA", "for a GPU install another, see pytorch.org/get-started"
    try:
        torch.cuda.init()
    except Exception as error:  # RuntimeError of a driver, AssertionError of a build
        text = str(error)
    else:
        text = "torch.cuda.is_available() is False"
    if old := re.search(r"driver.*too old \(found version (\d+)\)", text):
        driver = int(old[1])
        wheels = _WHEELS.get(driver // 1000)
        older = f": pip install torch --index-url https://download.pytorch.org/whl/{wheels}" if wheels else ""
        return (
            f"the NVIDIA driver is too old: it is for CUDA {driver // 1000}.{driver % 1000 // 10}, and {_torch()} for "
            f"CUDA {torch.version.cuda}",
            f"update the driver, or install a torch for an older CUDA{older}",
        )
    if "no NVIDIA driver" in text or "No CUDA GPUs" in text:
        return f"there is no such GPU here: {brief(RuntimeError(text))}", ""
    return brief(RuntimeError(text)), ""


def _torch() -> str:
    return f"torch {torch.__version__}"
