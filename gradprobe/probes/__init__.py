"""The probes, each in a folder of its own. Importing this package imports no torch."""

import importlib
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from gradprobe.errors import GradprobeError, UsageError, nearest
from gradprobe.operators.user_files import PATH, from_file
from gradprobe.probes.contract import Probe

BUILT_IN = {  # name -> where its `Probe` is declared
    "coherence": "gradprobe.probes.coherence:PROBE",
    "landscape": "gradprobe.probes.landscape:PROBE",
    "curvature": "gradprobe.probes.curvature:PROBE",
    "fidelity": "gradprobe.probes.fidelity:PROBE",
    "reference": "gradprobe.probes.fidelity:REFERENCE",
    "equivalence": "gradprobe.probes.equivalence:PROBE",
    "retention": "gradprobe.probes.retention:PROBE",
    "ranking": "gradprobe.probes.ranking:PROBE",
    "cost": "gradprobe.probes.cost:PROBE",
}
OWN_COMMAND = {  # with another command, or of another subject than a task; stored like the others
    "evaluation": "gradprobe.vlm.evaluation:PROBE",
    "schedule": "gradprobe.vlm.schedule:PROBE",
}
_named: dict[str, Probe] = {}  # probes of Python files that the user named in this process
_files: dict[str, str] = {}  # their files and names there


def names() -> list[str]:
    """Return the names of all probes: built in, of installed packages, and of files named in this process."""
    packages = (point.name for point in entry_points(group="gradprobe.probes"))
    return list(dict.fromkeys([*BUILT_IN, *OWN_COMMAND, *packages, *_named]))


def named_files() -> list[str]:
    """Return the probes of Python files that the user named in this process, as ``/path/file.py:PROBE``."""
    return list(_files.values())


def probe_of(name: str) -> Probe:
    """Return the probe of a name, or of a Python file: ``my_probe.py:PROBE``.

    Raises:
        UsageError: no probe is called so.
        GradprobeError: a package or file that cannot be loaded, or what it names is no `Probe`.

    Example:
        >>> probe_of("cost").name
        'cost'
    """
    if own := BUILT_IN.get(name) or OWN_COMMAND.get(name):
        return _attribute(own)
    if name in _named:
        return _named[name]
    if match := PATH.fullmatch(name):
        probe = _declared(from_file(Path(match["file"]), match["cls"], called=False), name)
        if probe.name in (*BUILT_IN, *OWN_COMMAND):
            raise UsageError(f"{name} calls its probe {probe.name!r}, which is a built-in one; give it another name")
        _named[probe.name] = probe
        _files[probe.name] = f"{Path(match['file']).resolve()}:{match['cls']}"
        return probe
    for point in entry_points(group="gradprobe.probes"):
        if point.name == name:
            try:
                return _declared(point.load(), name)
            except GradprobeError:
                raise
            except (Exception, SystemExit) as error:  # anyone's package
                raise GradprobeError(f"the probe {name!r} ({point.value}) cannot be loaded: {error}") from error
    if name.endswith(".py"):
        raise UsageError(f"{name} is a file; name the probe that is declared in it, such as {name}:PROBE")
    raise UsageError(f"no probe is called {name!r}: {nearest(name, names())}")


def _attribute(path: str) -> Probe:
    module, _, attribute = path.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _declared(value: Any, name: str) -> Probe:
    if not isinstance(value, Probe):
        raise GradprobeError(f"{name} is {type(value).__name__}; a probe is a gradprobe.probes.contract.Probe")
    return value
