"""Writing of self-contained HTML pages."""

import importlib
from pathlib import Path

from gradprobe.errors import GradprobeError, UsageError
from gradprobe.files import check_place


def check_html(path: Path | str, needs: str = "", extra: str = "") -> Path:
    """Refuse a page that could not be written, before the work for the page is done.

    Args:
        path: Path of the page.
        needs: Optional package that draws it, empty for none.
        extra: Extra of gradprobe that installs the package.

    Raises:
        UsageError: The suffix is not .html, or no file can be written there.
        GradprobeError: The package is not installed.
    """
    path = Path(path)
    if path.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"cannot write the page {path}: {path.suffix or 'no suffix'} is not a page; use .html")
    check_place(path)
    if not needs:
        return path
    try:
        importlib.import_module(needs)
    except ImportError:
        raise GradprobeError(f'a page needs {needs}; type: pip install "gradprobe[{extra}]"') from None
    return path


def write_html(text: str, path: Path) -> Path:
    """Write a page; missing folders are created.

    Raises:
        GradprobeError: The file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")
    except OSError as error:
        reason = error.strerror or error
        raise GradprobeError(f"cannot write {path}: {reason}; name a file in a folder that can be written") from None
    return path
