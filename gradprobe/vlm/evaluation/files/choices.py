"""ScienceQA with pictures, and the pictures of SEED-Bench: multiple choice."""

from pathlib import Path

from gradprobe.errors import GradprobeError
from gradprobe.vlm.evaluation.files.source import NUMBER, TEXT, TEXTS, Document, found, loaded, pictures_of, taken

LETTERS = ("A", "B", "C", "D")
CHOICES = tuple(f"choice_{letter.lower()}" for letter in LETTERS)
SCIENCEQA_FIELDS = {"id": TEXT, "question": TEXT, "choices": TEXTS, "answer": NUMBER, "hint": TEXT}
SEEDBENCH_FIELDS = {"question_id": TEXT, "question": TEXT, **dict.fromkeys(CHOICES, TEXT), "answer": TEXT}
SEEDBENCH_FIELDS |= {"data_type": TEXT, "data_id": TEXT}


def scienceqa_img(folder: Path) -> list[Document]:
    """Return the test questions of ScienceQA that have a picture.

    Args:
        folder: With ``problems.json``, ``pid_splits.json`` and ``test/<id>/image.png``.
    """
    path = found(folder, ["problems.json"])
    problems = loaded(path, dict)
    documents: list[Document] = []
    pictures = None
    for name in map(str, loaded(found(folder, ["pid_splits.json"]), list, "test")):
        (entry,) = taken(problems, (name,), path, name)
        question, choices, answer = taken(entry, ("question", "choices", "answer"), path, name)
        image = entry.get("image")
        if not image:
            continue
        if not (isinstance(choices, list) and isinstance(answer, int) and 0 <= answer < len(choices)):
            raise GradprobeError(f"{path}: the answer of sample {name} is none of its choices")
        file = f"{name}/{image}"
        pictures = pictures or pictures_of(folder, ("test", "images/test", "images"), file)
        fields = {"id": name, "question": question, "choices": choices, "answer": answer}
        fields["hint"] = entry.get("hint") or ""
        documents.append(Document(fields, pictures / file, file, len(documents)))
    return documents


def seedbench_img(folder: Path) -> list[Document]:
    """Return the questions of SEED-Bench that are about one picture.

    Args:
        folder: With ``SEED-Bench.json`` and ``SEED-Bench-image/``.
    """
    path = found(folder, ["SEED-Bench.json"])
    documents: list[Document] = []
    pictures = None
    for number, entry in enumerate(loaded(path, list, "questions")):
        named = ("question_id", "question", *CHOICES, "answer", "data_type", "data_id")
        values = dict(zip(named, map(str, taken(entry, named, path, number)), strict=True))
        if values["data_type"] != "image":
            continue
        if values["answer"] not in LETTERS:
            raise GradprobeError(f"{path}: the answer of sample {number} is {values['answer']!r}, none of A, B, C, D")
        file = values["data_id"]
        pictures = pictures or pictures_of(folder, ("SEED-Bench-image", "images"), file)
        documents.append(Document(values, pictures / file, file, len(documents)))
    return documents
