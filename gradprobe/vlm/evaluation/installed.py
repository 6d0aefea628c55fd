"""Import of lmms-eval and datasets, with a helpful error where they are missing."""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from gradprobe.errors import GradprobeError

REMEDY = 'type: pip install "gradprobe[lmms]"'


def datasets_module() -> Any:
    """Import datasets.

    Raises:
        GradprobeError: It is missing, or cannot be imported; the message says what to install.
    """
    return _imported("datasets", "a benchmark is prepared as a data set of the package datasets")


def lmms_eval_module(name: str = "lmms_eval") -> Any:
    """Import a module of lmms-eval.

    Raises:
        GradprobeError: It is missing, or cannot be imported; the message says what to install.
    """
    return _imported(name, "benchmarks are scored by lmms-eval")


def lmms_eval_version() -> str:
    """Return the version of lmms-eval, whose prompts and scores are part of a question.

    Raises:
        GradprobeError: It is missing.
    """
    try:
        return version("lmms-eval")
    except PackageNotFoundError:
        raise GradprobeError(f"benchmarks are scored by lmms-eval, which is not installed; {REMEDY}") from None


def _imported(name: str, why: str) -> Any:
    package = name.partition(".")[0]
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name == package:
            raise GradprobeError(f"{why}, which is not installed; {REMEDY}") from None
        raise GradprobeError(f"{package} cannot be imported: {error}; {REMEDY}") from None
    except ImportError as error:
        raise GradprobeError(f"{package} cannot be imported: {error}; {REMEDY}") from None
