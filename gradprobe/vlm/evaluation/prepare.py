"""Conversion of a benchmark's published files to a folder that lmms-eval reads offline."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from gradprobe.errors import GradprobeError, UsageError, brief
from gradprobe.files import open_regular
from gradprobe.vlm.evaluation.benchmarks import Benchmark
from gradprobe.vlm.evaluation.files import READERS
from gradprobe.vlm.evaluation.files.source import ANSWERS, NUMBER, TEXT, TEXTS, Document
from gradprobe.vlm.evaluation.installed import datasets_module
from gradprobe.vlm.evaluation.prepared import Prepared, write_task

NAMED = 3  # unreadable samples that an error names
EVERY = 100  # samples between two reports of progress
Progress = Callable[[str, int, int], None]


@dataclass
class _Checked:
    """Documents with pictures that can be read; what is wrong with the others is noted."""

    documents: Sequence[Document]
    report: Callable[[int], None]
    digest: Any = field(default_factory=lambda: hashlib.sha256(b"gradprobe benchmark 1\n"))
    unreadable: list[tuple[int, str, str]] = field(default_factory=list)
    units: list[int] = field(default_factory=list)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the fields of each document with the bytes of its picture."""
        faults: dict[str, str] = {}  # by name of the picture, many of which are asked about more than once
        for number, document in enumerate(self.documents):
            raw, fault = _bytes_of(document)
            if not fault and document.name not in faults:
                faults[document.name] = _fault(raw)
            if fault := fault or faults[document.name]:
                self.unreadable.append((number, document.name, fault))
            else:
                row = {**document.fields, "unit": document.unit}
                self.digest.update(json.dumps(row, sort_keys=True).encode() + hashlib.sha256(raw).digest())
                self.units.append(document.unit)
                yield row | {"image": {"bytes": raw, "path": None}}
            if number % EVERY == EVERY - 1 or number + 1 == len(self.documents):
                self.report(number + 1)

    def ends(self) -> tuple[int, ...]:
        """Return the numbers of documents at which a unit ends; () where each is its own."""
        units = self.units
        if len(set(units)) == len(units):
            return ()
        return tuple(i + 1 for i in range(len(units)) if i + 1 == len(units) or units[i + 1] != units[i])


def documents_of(benchmark: Benchmark, source: Path) -> list[Document]:
    """Return the documents of a benchmark's published files.

    Raises:
        UsageError: The folder or one of the files is not there.
        GradprobeError: A file cannot be read, or lacks something.
    """
    if not source.is_dir():
        raise UsageError(f"--from {source} is no folder; {benchmark.name} is made of {benchmark.expects}")
    reader, _ = READERS[benchmark.name]
    try:
        documents = reader(source)
    except UsageError as error:
        raise UsageError(f"{error}; {benchmark.name} is made of {benchmark.expects}") from None
    except (ValueError, TypeError, AttributeError) as error:  # of a file that is none of the published ones
        raise GradprobeError(
            f"a file in {source} is not as published ({brief(error)}); {benchmark.name} is made of {benchmark.expects}"
        ) from None
    if not documents:
        raise GradprobeError(f"{source} has no question of {benchmark.name}; it is made of {benchmark.expects}")
    return documents


def prepare(
    benchmark: Benchmark,
    source: Path,
    data: Path,
    *,
    skip_unreadable: bool = False,
    replace: bool = False,
    progress: Progress = lambda description, done, total: None,
) -> Prepared:
    """Convert the published files of a benchmark to ``DATA/NAME``, which is there whole or not at all.

    Args:
        benchmark: The benchmark.
        source: Folder of its published files.
        data: Folder of prepared benchmarks, made if need be.
        skip_unreadable: Leave samples out whose picture cannot be read, instead of refusing.
        replace: Replace a benchmark that is there.
        progress: Called with (description, done, of how many).

    Raises:
        UsageError: Files are missing, or the benchmark is there already.
        GradprobeError: The package datasets is missing, a file cannot be read or written, or pictures cannot be read.
    """
    target = data / benchmark.name
    if target.exists() and not replace:
        raise UsageError(f"{target} is there already; --force makes it anew, or give another --out")
    datasets = datasets_module()
    documents = documents_of(benchmark, source)
    description = f"{benchmark.name}: samples"
    checked = _Checked(documents, lambda done: progress(description, done, len(documents)))
    try:
        data.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{benchmark.name}.", dir=data) as scratch:
            made = Path(scratch) / benchmark.name
            _write(datasets, checked, READERS[benchmark.name][1], made)
            if checked.unreadable and not skip_unreadable:
                raise GradprobeError(_told(benchmark, checked))
            record = Prepared(
                benchmark.name, len(checked.units), checked.ends(), tuple(checked.unreadable),
                f"sha256:{checked.digest.hexdigest()[:16]}",
            )  # fmt: skip
            record.save(made)
            if target.exists():
                shutil.rmtree(target)
            made.rename(target)
        write_task(data, benchmark)
    except OSError as error:
        raise GradprobeError(f"cannot write to {data}: {error.strerror or error}; give another --out") from None
    return record


def _write(datasets: Any, checked: _Checked, kinds: Mapping[str, str], made: Path) -> None:
    """Write the data set with its one split, ``test``.

    Raises:
        GradprobeError: No sample can be read.
    """
    text, number = datasets.Value("string"), datasets.Value("int64")
    answer = {"answer": text, "answer_confidence": text, "answer_id": number}
    types = {TEXT: text, NUMBER: number, TEXTS: [text], ANSWERS: [answer]}
    features = datasets.Features(
        {name: types[kind] for name, kind in kinds.items()} | {"unit": number, "image": datasets.Image()}
    )
    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        with datasets.arrow_writer.ArrowWriter(path=str(made.with_suffix(".arrow")), features=features) as writer:
            for row in checked.rows():
                writer.write(features.encode_example(row))
            if not checked.units:
                raise GradprobeError(f"no picture can be read: {checked.unreadable[0][1]} {checked.unreadable[0][2]}")
            writer.finalize()
        whole = datasets.Dataset.from_file(str(made.with_suffix(".arrow")))
        datasets.DatasetDict(test=whole).save_to_disk(str(made))
    except (ValueError, TypeError, OverflowError) as error:  # those of pyarrow are some
        raise GradprobeError(f"a field of a sample is not of the type that it should be: {brief(error)}") from None
    finally:
        if shown:
            datasets.enable_progress_bars()


def _told(benchmark: Benchmark, checked: _Checked) -> str:
    some = ", ".join(f"sample {number} ({name} {fault})" for number, name, fault in checked.unreadable[:NAMED])
    more = f" and {len(checked.unreadable) - NAMED} more" if len(checked.unreadable) > NAMED else ""
    total = f"{len(checked.unreadable)} of {len(checked.documents)} samples"
    return (
        f"{total} of {benchmark.name} have a picture that cannot be read: {some}{more}; mend the files, or leave "
        "these samples out with --skip-unreadable"
    )


def _bytes_of(document: Document) -> tuple[bytes, str]:
    """Return the bytes of a picture, and what is wrong with its file."""
    if isinstance(document.picture, bytes):
        return document.picture, "" if document.picture else "is empty or no base64"
    if document.picture is None:
        return b"", "is missing"
    try:
        with open_regular(document.picture) as file:
            return file.read(), ""
    except FileNotFoundError:
        return b"", "is missing"
    except OSError as error:
        return b"", error.strerror or "cannot be opened"


def _fault(raw: bytes) -> str:
    """Return what is wrong with a picture; empty if it can be read."""
    try:
        with Image.open(BytesIO(raw)) as picture:
            picture.convert("RGB")
    except UnidentifiedImageError:
        return "is no picture"
    except Exception as error:  # Pillow raises errors of many kinds
        return f"is broken: {brief(error)}"
    return ""
