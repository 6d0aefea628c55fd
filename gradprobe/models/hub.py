"""The Hugging Face hub, or its cache where it does not answer."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def hub_or_cache() -> Iterator[bool]:
    """Yield True if the hub answers, else let its client use the cache at once instead of retrying for a minute."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    before = constants.HF_HUB_OFFLINE
    try:
        if not before:
            try:
                get_session().head(constants.ENDPOINT, timeout=5)
            except Exception:  # transports raise many kinds of errors
                constants.HF_HUB_OFFLINE = True
        yield not constants.HF_HUB_OFFLINE
    finally:
        constants.HF_HUB_OFFLINE = before
