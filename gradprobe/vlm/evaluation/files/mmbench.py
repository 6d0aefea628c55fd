"""MMBench's development questions, English and Chinese: tab-separated values, with pictures in base64."""

import base64
import binascii
import csv
import io
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gradprobe.errors import GradprobeError
from gradprobe.vlm.evaluation.files.source import NUMBER, TEXT, Document, content, found

OPTIONS = ("A", "B", "C", "D")
OTHERS = ("hint", *OPTIONS, "category", "L2-category", "source", "split")  # None where the file has none
FIELDS = {"index": NUMBER, "question": TEXT, "answer": TEXT, **dict.fromkeys(OTHERS, TEXT)}
CIRCLE = 1_000_000  # an index plus a multiple of it is the same question with its options turned
SHORTEST = 64  # characters of a picture; fewer are the index of the row that holds it


def english(folder: Path) -> list[Document]:
    """Return the English documents.

    Args:
        folder: With ``MMBench_DEV_EN.tsv``, or its older names.
    """
    names = ["MMBench_DEV_EN.tsv", "mmbench_dev_en_20231003.tsv", "mmbench_dev_20230712.tsv"]
    return _documents(found(folder, names))


def chinese(folder: Path) -> list[Document]:
    """Return the Chinese documents.

    Args:
        folder: With ``MMBench_DEV_CN.tsv``, or its older name.
    """
    return _documents(found(folder, ["MMBench_DEV_CN.tsv", "mmbench_dev_cn_20231003.tsv"]))


def _documents(path: Path) -> list[Document]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    rows = list(csv.DictReader(io.StringIO(content(path), newline=""), delimiter="\t"))
    by_index: dict[int, Mapping[str, str]] = {}
    for number, row in enumerate(rows):
        lacking = [name for name in ("index", "question", "answer", "image") if not row.get(name)]
        if lacking or not str(row["index"]).isdigit():
            raise GradprobeError(f"{path}: sample {number} has no {', '.join(lacking) or 'index that is a number'}")
        by_index[int(row["index"])] = row
    together = sorted(by_index, key=lambda index: (index % CIRCLE, index))
    return [_document(index, by_index, path) for index in together]


def _document(index: int, rows: Mapping[int, Mapping[str, str]], path: Path) -> Document:
    row = rows[index]
    others = {name: row.get(name) or row.get(name.lower()) for name in OTHERS}
    fields: dict[str, Any] = {name: None if value in (None, "", "nan") else value for name, value in others.items()}
    fields |= {"index": index, "question": row["question"], "answer": row["answer"]}
    held = row["image"]
    if len(held) <= SHORTEST and held.isdigit() and int(held) in rows:
        held = rows[int(held)]["image"]
    try:
        picture = base64.b64decode(held, validate=True)
    except binascii.Error:
        picture = b""
    return Document(fields, picture, f"the picture of index {index} in {path.name}", index % CIRCLE)
