"""MME and POPE: questions with the answers yes and no."""

import json
from pathlib import Path

from gradprobe.errors import GradprobeError, UsageError
from gradprobe.vlm.evaluation.benchmarks import MME_CATEGORIES
from gradprobe.vlm.evaluation.files.source import TEXT, Document, content, found, pictures_of, taken

FIELDS = {"question_id": TEXT, "question": TEXT, "answer": TEXT, "category": TEXT}
SUFFIXES = (".jpg", ".png", ".jpeg")
TEXTS, PICTURES = "questions_answers_YN", "images"
SPLITS = ("adversarial", "popular", "random")
ANSWERS = ("yes", "no")


def mme(folder: Path) -> list[Document]:
    """Return the documents of MME, two of each picture.

    Args:
        folder: With a folder for each category, or one of ``MME_Benchmark`` in it.
    """
    homes = [path.parent for path in sorted(folder.rglob(MME_CATEGORIES[0])) if path.is_dir()]
    if not homes:
        raise UsageError(f"{folder} has no folder {MME_CATEGORIES[0]}/, the first of MME's categories")
    if lacking := [name for name in MME_CATEGORIES if not (homes[0] / name).is_dir()]:
        raise UsageError(f"{homes[0]} has no folder {', '.join(f'{name}/' for name in lacking)}")
    documents: list[Document] = []
    for category in MME_CATEGORIES:
        for path in sorted((homes[0] / category).rglob("*.txt")):
            documents += _of_picture(path, category, len(documents) // 2)
    return documents


def _of_picture(path: Path, category: str, unit: int) -> list[Document]:
    home = path.parent.parent / PICTURES if path.parent.name == TEXTS else path.parent
    files = [home / f"{path.stem}{suffix}" for suffix in SUFFIXES]
    picture = next((file for file in files if file.is_file()), files[0])
    lines = [line for line in content(path).splitlines() if line.strip()]
    if len(lines) != 2:
        raise GradprobeError(f"{path} has {len(lines)} questions; a picture of MME has two")
    documents = []
    for number, line in enumerate(lines):
        question, _, answer = line.rpartition("\t")
        if not question or answer.strip().lower() not in ANSWERS:
            raise GradprobeError(f"{path}: question {number + 1} does not end in a tab and Yes or No")
        name = f"{category}/{picture.name}"
        fields = {"question_id": name, "question": question, "answer": answer.strip(), "category": category}
        documents.append(Document(fields, picture, name, unit))
    return documents


def pope(folder: Path) -> list[Document]:
    """Return the documents of POPE on COCO, its three ways of choosing what is asked for one after another.

    Args:
        folder: With ``coco_pope_random.json``, ``coco_pope_popular.json``, ``coco_pope_adversarial.json`` (JSON lines)
            and ``val2014/``.
    """
    documents: list[Document] = []
    pictures = None
    for split in SPLITS:
        path = found(folder, [f"coco_pope_{split}.json"])
        for number, line in enumerate(content(path).splitlines()):
            try:
                entry = json.loads(line)
            except ValueError as error:
                raise GradprobeError(f"{path}: sample {number} is no JSON: {error}") from None
            name, image, question, answer = taken(entry, ("question_id", "image", "text", "label"), path, number)
            if answer not in ANSWERS:
                raise GradprobeError(f"{path}: the label of sample {number} is {answer!r}, neither yes nor no")
            pictures = pictures or pictures_of(folder, ("val2014", "images"), image)
            fields = {"question_id": str(name), "question": question, "answer": answer, "category": split}
            documents.append(Document(fields, pictures / image, image, len(documents)))
    return documents
