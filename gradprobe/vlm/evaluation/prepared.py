"""Folders of prepared benchmarks: a data set that ``load_from_disk`` reads, and a record of what it holds."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gradprobe.errors import GradprobeError, UsageError
from gradprobe.files import atomic_write, open_regular
from gradprobe.vlm.evaluation.benchmarks import Benchmark

RECORD = "gradprobe.json"
TASKS = "tasks"  # folder of YAML files for lmms-eval's own command
YAMLS = Path(__file__).parent / "tasks"  # those that they include


@dataclass(frozen=True)
class Prepared:
    """Record of a prepared benchmark.

    Attributes:
        benchmark: Its name.
        samples: Number of questions.
        ends: Numbers of questions at which a unit ends, ascending; () where each question is its own.
        skipped: Number, name and reason of each sample that was left out, since its picture cannot be read.
        fingerprint: Hash of the questions, answers and pictures.
    """

    benchmark: str
    samples: int
    ends: tuple[int, ...]
    skipped: tuple[tuple[int, str, str], ...]
    fingerprint: str

    def whole(self, samples: int | None) -> int:
        """Return the least number of questions of whole units that is no less than one asked for.

        Example:
            >>> Prepared("mme", 6, (2, 4, 6), (), "").whole(3)
            4
        """
        if samples is None or samples >= self.samples:
            return self.samples
        return next((end for end in self.ends if end >= samples), samples)

    def save(self, folder: Path) -> None:
        """Write the record into the folder of the data set."""
        atomic_write(folder / RECORD, f"{json.dumps(asdict(self), indent=2)}\n".encode())


def prepared(data: Path, benchmark: Benchmark) -> Prepared:
    """Return the record of a benchmark in a folder of prepared ones.

    Raises:
        UsageError: It was not prepared there; the message says what to type.
        GradprobeError: Its record cannot be read.
    """
    folder = data / benchmark.name
    command = f"gradprobe vlm benchmark prepare {benchmark.name} --from FOLDER --out {data}"
    if not (folder / RECORD).is_file():
        raise UsageError(f"{benchmark.name} is not prepared in {data}; type: {command}")
    try:
        with open_regular(folder / RECORD) as file:
            values: dict[str, Any] = json.loads(file.read())
        record = Prepared(
            str(values["benchmark"]), int(values["samples"]), tuple(map(int, values["ends"])),
            tuple((int(n), str(name), str(reason)) for n, name, reason in values["skipped"]),
            str(values["fingerprint"]),
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise GradprobeError(f"{folder / RECORD} cannot be read ({error}); prepare it again: {command}") from None
    if record.benchmark != benchmark.name:
        raise GradprobeError(f"{folder} holds {record.benchmark}, not {benchmark.name}; prepare it again: {command}")
    return record


def write_task(data: Path, benchmark: Benchmark) -> Path:
    """Write a YAML file with which lmms-eval's own command finds the folder: ``--include_path DATA/tasks``."""
    (data / TASKS).mkdir(exist_ok=True)
    path = data / TASKS / f"{benchmark.task}.yaml"
    lines = (
        f"task: {benchmark.task}",
        f"include: {json.dumps(str(YAMLS / path.name))}",
        f"dataset_path: {json.dumps(str((data / benchmark.name).resolve()))}",
    )
    atomic_write(path, "".join(f"{line}\n" for line in lines).encode())
    return path
