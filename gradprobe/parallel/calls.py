"""Questions as they travel to a worker, which may lack gradprobe or have another version of it."""

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from gradprobe.operators import user_files
from gradprobe.probes import named_files
from gradprobe.store.record import key_of

Call = dict[str, Any]
Outcome = dict[str, Any]


def version() -> str:
    """Return the version of gradprobe."""
    return str(import_module("gradprobe").__version__)


def call_of(
    question: Mapping[str, Any], where: Mapping[str, str], roots: list[str], run: Path, force: bool = False
) -> Call:
    """Return a question and all that a worker must know to answer it, in JSON types.

    Args:
        question: as it is stored.
        where: places of files, as seen from the present folder.
        roots: folders of the stores; what is measured is saved in the last.
        run: folder of the run's signs of life.
        force: measure even if an answer is stored.
    """
    label = f"{question.get('probe')} of {question['op']}" if "op" in question else str(question.get("probe"))
    return {
        "version": version(), "key": key_of(question), "label": label, "question": dict(question),
        "where": dict(where), "stores": roots, "run": str(run), "force": force, "folder": str(Path.cwd()),
        "trust": [str(file) for file in user_files.trusted()], "probes": named_files(), "driver": 0, "threads": 0,
    }  # fmt: skip


def shipped() -> Callable[[Call], Outcome]:
    """Return the function that workers call; made here, it is sent as code and runs where gradprobe is missing."""

    def answer_here(call: Call) -> Outcome:
        try:
            from gradprobe.parallel.worker import answer
        except ImportError as error:
            from socket import gethostname

            same = call["version"]
            reason = f"the worker on {gethostname()} cannot import gradprobe {same} ({error}); install it there: "
            reason += f'pip install "gradprobe[cluster]=={same}"'
            return {"key": call["key"], "kind": "refused", "reason": reason, "notices": []}
        return answer(call)

    return answer_here
