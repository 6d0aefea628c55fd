"""Weights in files: unwrap the state_dict of a checkpoint, and choose among several.

A checkpoint may hold several models (raw weights and their moving average, student and teacher) under keys or name
prefixes, nested in any way. `CONTAINERS` is the order of preference; its first four are those of timm's own loader.
Prefixes that wrappers add to the names of one model (`PREFIXES`) are removed.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from gradprobe.data.fingerprints import weights_file
from gradprobe.errors import UsageError, nearest
from gradprobe.models.safe_load import load_file

CONTAINERS = (
    *("state_dict_ema", "model_ema", "state_dict", "model", ""),  # "": tensors at the top level
    *("model_state_dict", "teacher", "ema", "ema_model", "ema_state_dict"),
    *("net", "network", "module", "backbone", "student"),
)
PREFIXES = ("module", "_orig_mod", "model", "backbone", "net", "network", "base_model")
SEVERAL = frozenset(CONTAINERS) - frozenset(PREFIXES)  # prefixes that each mark a separate model


@dataclass(frozen=True)
class Weights:
    """State_dict from a file.

    Attributes:
        tensors: Tensors by name, without prefix.
        unprefixed: Names without the prefix that most names had: a classifier, or a leftover of the training script.
        path: File.
        key: Key of the chosen container, ``""`` for the file itself; nested keys are joined by dots.
        others: Keys of the other containers.
        prefix: Prefix that was removed, ``""`` for none.
    """

    tensors: Mapping[str, Tensor]
    unprefixed: frozenset[str]
    path: str
    key: str = ""
    others: tuple[str, ...] = ()
    prefix: str = ""

    def notice(self, remarks: Iterable[str] = ()) -> str:
        """Return one line about what was unwrapped or chosen, with further remarks; ``""`` if there is nothing."""
        parts = []
        if self.key or self.others:
            rather = f" rather than from {' or '.join(self.others)}" if self.others else ""
            parts.append(f"taken from {self.key or 'the top level'}{rather}")
        if self.prefix:
            parts.append(f"prefix {self.prefix} cut off")
        parts.extend(remarks)
        choice = "; --weights-key KEY takes another" if self.others else ""
        return f"--weights {self.path}: {', '.join(parts)}{choice}" if parts else ""


def read_weights(path: str | Path, names: Collection[str], key: str | None = None) -> Weights:
    """Read the weights of one model from a .safetensors file or a checkpoint, without executing code.

    Args:
        path: File.
        names: Names in the model's own state_dict. A prefix is removed unless the name with it is among them, and
            containers with less than half as many of them as the best container are skipped.
        key: Container: a key, keys joined by dots, or the prefix of one of several models. None: the first in the order
            of `CONTAINERS`, then of the file.

    Raises:
        UsageError: The file or the key does not exist, or holds no weights.
        GradprobeError: The file is damaged or holds pickled code.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "checkpoint.pth"
        ...     raw, ema = {"module.head.weight": torch.zeros(1)}, {"module.head.weight": torch.ones(1)}
        ...     torch.save({"epoch": 3, "state_dict": raw, "state_dict_ema": ema}, path)
        ...     taken, raw = (read_weights(path, ["head.weight"], key) for key in (None, "state_dict"))
        >>> taken.key, taken.prefix, dict(taken.tensors), raw.tensors["head.weight"]
        ('state_dict_ema', 'module.', {'head.weight': tensor([1.])}, tensor([0.]))
    """
    own = frozenset(names)
    candidates = list(_candidates(load_file(weights_file(path)), own, (), {}))
    if not candidates:
        raise UsageError(
            f"--weights {path} holds no weights: it must map names to tensors, or do so under a key such as "
            "state_dict or model"
        )
    most = max(len(own & each.tensors.keys()) for each in candidates)
    plausible = [each for each in candidates if 2 * len(own & each.tensors.keys()) >= most]
    possible = plausible
    if key is not None:
        possible = [each for each in candidates if each.key == key or each.key.startswith(f"{key}.")]
        if not possible:
            known = [each.key for each in plausible if each.key]
            advice = nearest(key, known) if known else "it holds one model without a key: leave --weights-key out"
            raise UsageError(f"--weights {path} has no weights under {key!r}; {advice}")
    chosen = min(possible, key=_rank)
    if any(".lora_" in name for name in chosen.tensors):
        raise UsageError(
            f"--weights {path} holds a LoRA adapter, not a whole model; merge it first: "
            "torch.save(peft_model.merge_and_unload().state_dict(), FILE)"
        )
    others = () if key is not None else tuple(each.key or "the top level" for each in plausible if each is not chosen)
    return replace(chosen, path=str(path), others=others)


def _rank(weights: Weights) -> tuple[int, ...]:
    """Return the sort key of the order of `CONTAINERS`, outer names first, unknown names last."""
    return tuple(CONTAINERS.index(part) if part in CONTAINERS else len(CONTAINERS) for part in weights.key.split("."))


def _candidates(
    content: Any, own: frozenset[str], keys: tuple[str, ...], cache: dict[int, list[tuple[tuple[str, ...], Weights]]]
) -> Iterator[Weights]:
    """Yield every state_dict in the nested dictionaries of a file; a dictionary that recurs is searched once."""
    if not isinstance(content, Mapping):
        return
    entries = {} if id(content) in cache else {n: value for n, value in content.items() if isinstance(n, str)}
    if id(content) not in cache:
        cache[id(content)] = list(_models({n: value for n, value in entries.items() if isinstance(value, Tensor)}, own))
    for label, weights in cache[id(content)]:
        yield replace(weights, key=".".join((*keys, *label)))
    for name, value in entries.items():
        yield from _candidates(value, own, (*keys, name), cache)


def _models(tensors: Mapping[str, Tensor], own: frozenset[str]) -> Iterator[tuple[tuple[str, ...], Weights]]:
    """Yield the models in one dictionary, each with its distinguishing prefixes and with the prefixes removed."""
    groups = _groups(tensors, own)
    for label, group in groups.items():
        chains = {name: _chain(name, own) for name in group}
        chain = Counter(chains.values()).most_common(1)[0][0]
        unprefixed = frozenset(name for name in group if chain and not chains[name])
        bare = {_bare(name, own): value for name, value in group.items()}
        prefix = "".join(f"{part}." for part in chain)
        yield label or (chain[:1] if len(groups) > 1 else ()), Weights(bare, unprefixed, path="", prefix=prefix)


def _groups(tensors: Mapping[str, Tensor], own: frozenset[str]) -> dict[tuple[str, ...], dict[str, Tensor]]:
    """Return the models of a shared dictionary, distinguished by their prefixes."""
    groups: dict[tuple[str, ...], dict[str, Tensor]] = {}
    for name, value in tensors.items():
        label = tuple(part for part in _chain(name, own) if part in SEVERAL)
        groups.setdefault(label, {})[name] = value
    for label, group in list(groups.items()):
        if _clashes(group, own):  # the same name under two prefixes: two models
            del groups[label]
            for name, value in group.items():
                groups.setdefault(_chain(name, own), {})[name] = value
    return groups if len(groups) > 1 else dict(zip([()], groups.values(), strict=False))


def _clashes(group: Mapping[str, Tensor], own: frozenset[str]) -> bool:
    """Return True if two names are equal without their prefixes and their tensors differ."""
    bare: dict[str, Tensor] = {}
    for name, value in group.items():
        other = bare.setdefault(_bare(name, own), value)
        if other is not value and not (other.shape == value.shape and bool((other == value).all())):
            return True
    return False


def _chain(name: str, own: frozenset[str]) -> tuple[str, ...]:
    """Return the prefixes of a tensor's name: ``module._orig_mod.head.bias`` -> ``("module", "_orig_mod")``."""
    parts = name.split(".")
    count = 0
    while count < len(parts) - 1 and (parts[count] in PREFIXES or parts[count] in SEVERAL):
        if ".".join(parts[count:]) in own:
            break
        count += 1
    return tuple(parts[:count])


def _bare(name: str, own: frozenset[str]) -> str:
    return ".".join(name.split(".")[len(_chain(name, own)) :])
