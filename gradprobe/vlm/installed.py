"""Import of transformers, with a helpful error if it is missing or too old."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gradprobe.errors import GradprobeError

NEEDED = (5, 17)  # the least that was run: generate() runs the vision tower once, Qwen2.5-VL goes by token types


def transformers_module() -> Any:
    """Import transformers.

    Raises:
        GradprobeError: It is missing or too old; the message says what to install.

    Example:
        >>> transformers_module().__name__
        'transformers'
    """
    remedy = 'type: pip install "gradprobe[vlm]"'
    try:
        import transformers
    except ImportError:
        raise GradprobeError(f"vision-language models need transformers; {remedy}") from None
    version = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    if version < NEEDED:
        least = ".".join(map(str, NEEDED))
        raise GradprobeError(f"transformers {transformers.__version__} is too old, {least} is the least; {remedy}")
    return transformers


@contextmanager
def no_progress_bar(transformers: Any) -> Iterator[None]:
    """Hide the bars that transformers draws while it loads a model."""
    logging = transformers.utils.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
