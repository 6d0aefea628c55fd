"""Reading a file of tensors without running code: what else training scripts pickled beside them becomes inert."""

import re
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from gradprobe.errors import GradprobeError, brief

LEFTOVERS = (  # pickled by name beside the tensors of real checkpoints; read as `Inert`
    "argparse.Namespace", "types.SimpleNamespace", "copyreg._reconstructor", "typing.Any", "functools.partial",
    *(f"builtins.{name}" for name in ("bool", "bytes", "dict", "float", "frozenset", "getattr", "int", "list",
                                      "object", "range", "slice", "str", "tuple", "type")),
    *(f"pathlib.{local}{name}" for local in ("", "_local.")
      for name in ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")),
    *(f"datetime.{name}" for name in ("date", "datetime", "time", "timedelta", "timezone")),
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    "numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer", "numpy.dtype", "numpy.ndarray",
    *(f"numpy.{kind}" for kind in ("float64", "float32", "float16", "int64", "int32", "uint8", "bool_")),
    "torch.torch_version.TorchVersion", "torch.optim.lr_scheduler.OneCycleLR",
    "omegaconf.dictconfig.DictConfig", "omegaconf.listconfig.ListConfig", "omegaconf.base.Metadata",
    "omegaconf.base.ContainerMetadata",
    *(f"omegaconf.nodes.{kind}Node" for kind in ("Any", "Boolean", "Float", "Integer", "String")),
)  # fmt: skip
TABLES = (  # kinds of dictionaries, which are filled after they are made; read as plain ones
    "collections.defaultdict", "yacs.config.CfgNode", "easydict.EasyDict", "addict.addict.Dict",
    "lightning.fabric.utilities.data.AttributeDict", "lightning_fabric.utilities.data.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
)  # fmt: skip


class Inert:
    """An object of a pickle that is neither imported nor called: it takes anything and keeps nothing."""

    def __new__(cls, *args: Any) -> "Inert":
        """Ignore the arguments."""
        return super().__new__(cls)

    def __init__(self, *args: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class Table:
    """A dictionary class of a pickle: makes an `OrderedDict`, whatever it is called with."""

    def __new__(cls, *args: Any) -> Any:
        """Ignore the arguments."""
        return OrderedDict()


def load_file(path: Path) -> Any:
    """Return what a .safetensors file or a torch checkpoint holds; tensors on the CPU, nothing executed.

    Pickles are read by torch's restricted unpickler. Names that training scripts leave in checkpoints (`LEFTOVERS`,
    `TABLES`) stand for inert objects meanwhile; torch's table of safe names is afterwards as it was.

    Args:
        path: an existing file. Its content, not its suffix, decides how it is read, but for ``.safetensors``.

    Raises:
        GradprobeError: the file is damaged, or holds other pickled objects; the message names the first.
    """
    try:
        with path.open("rb") as file:
            head = file.read(9)
        if path.suffix == ".safetensors" or head[8:] == b"{":
            from safetensors.torch import load_file as load

            return load(path)
        with _inert_names(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old pickle protocols and storages
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a pickle, a zip or a header can be broken in many ways
        if name := re.search(r"GLOBAL (\S+)", str(error)):
            raise GradprobeError(
                f"--weights {path} holds a pickled {name[1]}, which is not read since that can run code; save the "
                "tensors alone: torch.save(model.state_dict(), FILE)"
            ) from None
        what = f"--weights {path} is not a readable .safetensors or .pth file of plain tensors"
        raise GradprobeError(f"{what} ({brief(error)}); fetch or save it again") from None


@contextmanager
def _inert_names() -> Iterator[None]:
    """Let the leftovers pass torch's unpickler as inert objects; entries that a user made stay."""
    names: list[Any] = [*((Inert, name) for name in LEFTOVERS), *((Table, name) for name in TABLES)]
    with torch.serialization.safe_globals(names):
        yield
