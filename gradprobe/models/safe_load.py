"""Safe reading of tensor files: no code is run, and other pickled objects of training scripts become inert."""

import re
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from gradprobe.errors import GradprobeError, brief


def _names(classes: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(f"{module}.{name}" for module, names in classes.items() for name in names.split())


_PATHS = "Path PosixPath WindowsPath PurePath PurePosixPath PureWindowsPath"
INERT = _names(  # pickled by name beside the tensors of real checkpoints; read as `Inert`
    {
        "argparse": "Namespace",
        "builtins": "bool bytes dict float frozenset getattr int list object range slice str tuple type",
        "copyreg": "_reconstructor",
        "datetime": "date datetime time timedelta timezone",
        "functools": "partial",
        "numpy": "dtype ndarray float64 float32 float16 int64 int32 uint8 bool_",
        "numpy._core.multiarray": "scalar _reconstruct",
        "numpy._core.numeric": "_frombuffer",
        "numpy.core.multiarray": "scalar _reconstruct",
        "numpy.core.numeric": "_frombuffer",
        "omegaconf.base": "Metadata ContainerMetadata",
        "omegaconf.dictconfig": "DictConfig",
        "omegaconf.listconfig": "ListConfig",
        "omegaconf.nodes": "AnyNode BooleanNode FloatNode IntegerNode StringNode",
        "pathlib": _PATHS,
        "pathlib._local": _PATHS,
        "torch.optim.lr_scheduler": "OneCycleLR",
        "torch.torch_version": "TorchVersion",
        "types": "SimpleNamespace",
        "typing": "Any",
    }
)
DICTIONARIES = _names(  # created empty by the pickle and then filled; read as `Dictionary`
    {
        "addict.addict": "Dict",
        "collections": "defaultdict",
        "easydict": "EasyDict",
        "lightning.fabric.utilities.data": "AttributeDict",
        "lightning_fabric.utilities.data": "AttributeDict",
        "pytorch_lightning.utilities.parsing": "AttributeDict",
        "yacs.config": "CfgNode",
    }
)


class Inert:
    """Stand-in for a pickled object, which is neither imported nor called: it accepts anything and stores nothing."""

    def __new__(cls, *args: Any) -> "Inert":
        """Ignore the arguments."""
        return super().__new__(cls)

    def __init__(self, *args: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class Dictionary:
    """Stand-in for a pickled dictionary class: creates an empty `OrderedDict` from any arguments."""

    def __new__(cls, *args: Any) -> Any:
        """Ignore the arguments."""
        return OrderedDict()


def load_file(path: Path) -> Any:
    """Return the content of a .safetensors file or a torch checkpoint, with tensors on the CPU.

    Pickles are read by torch's restricted unpickler, without executing code. Classes common in checkpoints (`INERT`,
    `DICTIONARIES`) are replaced by inert ones meanwhile; torch's table of safe names is restored.

    Args:
        path: Existing file. Its format is determined by its content, or by the suffix ``.safetensors``.

    Raises:
        GradprobeError: The file is damaged or holds other pickled objects; the message names the first.
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
    except Exception as error:  # broken pickles, zips and headers raise many kinds of errors
        if name := re.search(r"GLOBAL (\S+)", str(error)):
            raise GradprobeError(
                f"--weights {path} holds a pickled {name[1]}, which is not read since that can run code; save the "
                "tensors alone: torch.save(model.state_dict(), FILE)"
            ) from None
        problem = f"--weights {path} is not a readable .safetensors or .pth file of plain tensors"
        raise GradprobeError(f"{problem} ({brief(error)}); fetch or save it again") from None


@contextmanager
def _inert_names() -> Iterator[None]:
    """Let torch's unpickler accept the known classes as inert ones, beside those that the user has registered."""
    names: list[Any] = [*((Inert, name) for name in INERT), *((Dictionary, name) for name in DICTIONARIES)]
    with torch.serialization.safe_globals(names):
        yield
