"""Results made of toy gradients, for tests of what is stored, asked and drawn."""

import hashlib
import io
import json
import warnings
import zipfile

import numpy as np

from gradprobe.probes.coherence.result import CoherenceResult
from gradprobe.store.record import sealed

QUESTION = {
    "probe": "coherence", "op": "lapsum+vpnoise", "k": 58, "batches": 6, "batch_size": 16, "draws": 2, "seed": 0,
    "steps": 0, "scorer": "mlp", "backbone": "scenes", "weights": "0123456789ab", "data": "scenes", "layer": 0,
    "loss": "ce", "dtype": "float32",
}  # fmt: skip
ENVIRONMENT = {"versions": {"numpy": "2.0"}, "seconds": 0.1 + 0.2, "date": "2026-01-02T03:04:05+00:00"}


def asked(**fields):
    return QUESTION | fields


def result(question=QUESTION, signal=1.0, gradient="yes", seed=0, environment=ENVIRONMENT):
    """B batches of R draws of gradients in two groups that share a direction as strongly as ``signal`` says."""
    b, r = question.get("batches", 6), question.get("draws", 2)
    rng = np.random.default_rng(seed)
    g = signal * rng.normal(size=(2, 2, 1, 1, 20)) + rng.normal(size=(2, 2, b, r, 20))
    g = np.zeros_like(g) if gradient == "none" else g
    energy = rng.uniform(1, 2, (b, r)) * (gradient == "yes")
    return CoherenceResult(
        question=question, groups=("hidden", "out"), gradient=gradient, gram=np.einsum("cgbrp,cgdsp->cgbrds", g, g),
        energy=energy, common=energy * 0.3, losses=rng.uniform(1, 2, (b, r)), spread=rng.uniform(1, 2, b),
        environment=environment,
    )  # fmt: skip


# --- the file of an answer, and the folder that it was in the older layout ---


def members_of(path):
    """All files in an answer's file, by name."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def repack(path, members):
    """Replace the file of an answer by other members; names may repeat."""
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items() if isinstance(members, dict) else members:
            archive.writestr(zipfile.ZipInfo(name), content)


def run_of(path):
    """The record of an answer."""
    return json.loads(members_of(path)["run.json"])


def array_bytes(path):
    """The npy files of an answer, by name."""
    return {name: content for name, content in members_of(path).items() if name.endswith(".npy")}


def make_older(path, record=True):
    """Turn the file of an answer into the folder of the older layout; ``record``: with a checksum of its run.json."""
    members, folder = members_of(path), path.parents[1] / f"{path.parent.name}-{path.stem}"
    folder.mkdir()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(name for name in members if name.endswith(".npy")):
            entry = zipfile.ZipInfo(name)
            entry.create_system = 3
            archive.writestr(entry, members.pop(name))
    run = {**json.loads(members.pop("run.json")), "sha256": hashlib.sha256(buffer.getvalue()).hexdigest()}
    del run["record"]
    (folder / "arrays.npz").write_bytes(buffer.getvalue())
    (folder / "run.json").write_bytes(sealed(run) if record else json.dumps(run, indent=2).encode())
    for name, content in members.items():
        (folder / name).write_bytes(content)
    path.unlink()
    if not any(path.parent.iterdir()):
        path.parent.rmdir()
    return folder
