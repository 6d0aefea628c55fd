"""Results, shown the same way whatever their kind: in a line, in a notebook, as a figure, as a data frame, in a file.

A kind of result names the module that knows its numbers; nothing of that module is imported before it is needed.
"""

import importlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar

from gradprobe.errors import GradprobeError, UsageError
from gradprobe.files import atomic_write, check_place

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

FIGURES = (".png", ".svg", ".pdf")  # suffixes of `gradprobe.plotting.style`, which imports matplotlib
DOTS = 100  # an inch of a figure in a notebook; its file has three times as many
Writer = Callable[[Path], object]


class Shown:
    """Base of all results: a short ``repr``, a table in notebooks, `plot`, `to_frame` and `save`.

    A class names in ``_shown_by`` the module of its parts: ``facts(result)``, few and cheap, by name, for the ``repr``;
    ``rows(result)``, plain numbers, ready for JSON; ``tables(result)``, what rich prints, and lines of text;
    ``figure(result)``; ``content(result)``, all of it in JSON types; ``writers(result)``, its other files by suffix.
    """

    _shown_by: ClassVar[str]

    def __repr__(self) -> str:
        facts = ", ".join(f"{name}={value!r}" for name, value in self._parts.facts(self).items())
        return f"{type(self).__name__}({facts})"

    def _repr_html_(self) -> str:
        """Return the tables of the terminal as HTML, for notebooks; the ``repr`` where there is none."""
        from gradprobe.plotting.html_tables import html_of  # rich, which a result alone does without

        try:
            parts: Sequence[Any] = self._parts.tables(self)
        except GradprobeError as error:
            parts = [str(error)]
        return "\n".join(html_of(part) for part in (repr(self), *parts))

    def plot(self) -> "Figure":
        """Draw the figure of the result.

        Returns:
            A matplotlib figure that belongs to no window; a notebook shows it, ``figure.savefig`` or `save` writes it.

        Raises:
            UsageError: there is nothing to draw.
        """
        figure = self._parts.figure(self)
        figure._repr_png_ = lambda: _png(figure)  # else a notebook shows it only after pyplot was imported
        return figure

    def to_frame(self) -> "DataFrame":
        """Return the numbers as a pandas data frame, a row for each row of the table; undefined ones are None or NaN.

        Raises:
            GradprobeError: pandas is not installed.
        """
        try:
            pandas = importlib.import_module("pandas")
        except ImportError:
            raise GradprobeError("a data frame needs pandas; type: pip install pandas") from None
        return pandas.DataFrame(self._parts.rows(self))

    def save(self, path: Path | str) -> Path:
        """Write the result into a file, by suffix; missing folders are created.

        Args:
            path: ``.json`` for all numbers, ``.png``, ``.svg`` or ``.pdf`` for the figure. Results of probes have
                ``.npz`` as well, the answer as a store holds it, which ``gp.Store().load(path)`` reads; comparisons and
                advices have ``.html``, their page.

        Returns:
            The path.

        Raises:
            UsageError: The suffix is not possible, or no file can be written there.
            GradprobeError: The file cannot be written.
        """
        path = Path(path)
        writers: dict[str, Writer] = {**self._parts.writers(self), ".json": self._write_json}
        writers |= dict.fromkeys(FIGURES, self._write_figure)
        write = writers.get(path.suffix.lower())
        if write is None:
            raise UsageError(
                f"cannot save {path}: {path.suffix or 'no suffix'} is not a known kind of file; use one of "
                f"{', '.join(writers)}"
            )
        check_place(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path)
        except OSError as error:
            reason = error.strerror or error
            raise GradprobeError(
                f"cannot write {path}: {reason}; name a file in a folder that can be written"
            ) from None
        return path

    @property
    def _parts(self) -> Any:
        return importlib.import_module(self._shown_by)

    def _write_json(self, path: Path) -> None:
        text = json.dumps(_finite(self._parts.content(self)), indent=2)
        atomic_write(path, f"{text}\n".encode())

    def _write_figure(self, path: Path) -> None:
        from gradprobe.plotting.style import save_figure

        save_figure(self.plot(), path)


def _finite(value: Any) -> Any:
    """Return the value with None for every number that JSON cannot hold."""
    if isinstance(value, Mapping):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _png(figure: "Figure") -> tuple[bytes, Mapping[str, int]]:
    """Return a figure as PNG with its width in a notebook."""
    from gradprobe.plotting.style import save_figure

    with TemporaryDirectory() as folder:
        content = save_figure(figure, Path(folder) / "figure.png").read_bytes()
    return content, {"width": round(DOTS * figure.get_figwidth())}
