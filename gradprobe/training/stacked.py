"""Networks of one shape side by side: one call for all, each with parameters and rows of its own."""

import copy
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from gradprobe.errors import GradprobeError, out_of_memory
from gradprobe.landscapes.functional import copied


class Stacked(nn.Module):
    """S networks whose parameters are stacked, ``(S, ...)``, under the names of one of them.

    Row r of the input belongs to network ``r mod S``. A gradient of the stacked parameters holds the gradients of all
    networks, none of which depends on another's rows; AdamW treats each number on its own. So networks are trained side
    by side with the numbers of separate trainings, to rounding.

    On a GPU one call of ``torch.func.vmap`` serves all networks; on a CPU, where it is slower, each has a call.

    Args:
        networks: Networks of one architecture, without buffers; their parameters are copied.
        mapped: Use vmap; None: on a GPU.

    Raises:
        GradprobeError: They differ in their parameters, or have buffers; in a call, torch.func does not take them.

    Example:
        >>> networks = [nn.Linear(3, 1), nn.Linear(3, 1)]
        >>> x = torch.randn(4, 5, 3)
        >>> torch.allclose(Stacked(networks)(x)[1::2], networks[1](x[1::2]), atol=1e-6)
        True
    """

    def __init__(self, networks: Sequence[nn.Module], mapped: bool | None = None):
        super().__init__()
        refuse_unlike(networks)
        self._count = len(networks)
        self._all = copied(networks[0])
        for name, parameter in list(self._all.named_parameters()):
            stacked = torch.stack([dict(network.named_parameters())[name].detach() for network in networks])
            module, _, leaf = name.rpartition(".")
            setattr(self._all.get_submodule(module), leaf, nn.Parameter(stacked, parameter.requires_grad))
        self._one = copied(networks[0]).to("meta")
        self._idle: deque[nn.Module] = deque()  # copies of it, one for each thread: a call swaps a module's parameters
        self._mapped = next(networks[0].parameters()).device.type != "cpu" if mapped is None else mapped

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the stacked parameters under the names that they have in one network."""
        return self._all.named_parameters(prefix, recurse, remove_duplicate)

    def forward(self, rows: Tensor) -> Tensor:
        """Rows ``(R S, ...)`` -> outputs ``(R S, ...)``, row r by network ``r mod S``."""
        split = rows.unflatten(0, (-1, self._count))
        parameters: dict[str, Tensor] = dict(self.named_parameters())
        if self._mapped:
            return self._at_once(parameters, split).flatten(0, 1)
        each = {name: parameter.unbind() for name, parameter in parameters.items()}
        outputs = [
            self._call({name: own[s] for name, own in each.items()}, split[:, s].contiguous())
            for s in range(self._count)
        ]
        return torch.stack(outputs, 1).flatten(0, 1)

    def _at_once(self, parameters: dict[str, Tensor], split: Tensor) -> Tensor:
        try:
            return vmap(self._call, in_dims=(0, 1), out_dims=1)(parameters, split)
        except RuntimeError as error:  # anyone's network
            if out_of_memory(error):
                raise
            reason = str(error).splitlines()[0]
            raise GradprobeError(f"torch.func does not take this network ({reason[:200]})") from error

    def _call(self, parameters: dict[str, Tensor], rows: Tensor) -> Tensor:
        try:
            network = self._idle.pop()
        except IndexError:
            network = copy.deepcopy(self._one)
        try:
            return functional_call(network, parameters, (rows,))
        finally:
            self._idle.append(network)

    def write(self, networks: Sequence[nn.Module]) -> None:
        """Write the parameters into the networks that they belong to."""
        with torch.no_grad():
            for name, stacked in self.named_parameters():
                for network, own in zip(networks, stacked, strict=True):
                    network.get_parameter(name).copy_(own)


def refuse_unlike(networks: Sequence[nn.Module]) -> None:
    """Refuse networks that cannot be stacked.

    Raises:
        GradprobeError: They differ in their parameters, or have buffers.
    """
    first, *others = map(_described, networks)
    if any(other != first for other in others):
        raise GradprobeError("networks of different architectures cannot be trained side by side")
    if next(networks[0].buffers(), None) is not None:
        raise GradprobeError("networks with buffers, such as running statistics, cannot be trained side by side")


def _described(network: nn.Module) -> tuple[list[tuple[str, str]], dict[str, tuple[Any, ...]]]:
    """Return names and classes of modules (a parametrised one has a class of its own), and kinds of parameters."""
    modules = [(name, type(module).__qualname__) for name, module in network.named_modules()]
    return modules, {n: (p.shape, p.dtype, p.device, p.requires_grad) for n, p in network.named_parameters()}
