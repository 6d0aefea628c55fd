"""VQAv2, TextVQA and VizWiz: questions with ten answers of people each."""

from pathlib import Path
from typing import Any

from gradprobe.errors import GradprobeError
from gradprobe.vlm.evaluation.files.source import (
    ANSWERS,
    NUMBER,
    TEXT,
    TEXTS,
    Document,
    found,
    loaded,
    pictures_of,
    taken,
)

VQAV2_FIELDS = {"question_id": NUMBER, "question": TEXT, "answers": ANSWERS, "answer": TEXT}
TEXTVQA_FIELDS = {"question_id": NUMBER, "question": TEXT, "answers": TEXTS, "answer": TEXT}
VIZWIZ_FIELDS = {"question_id": TEXT, "question": TEXT, "answers": TEXTS, "answer": TEXT}


def vqav2(folder: Path) -> list[Document]:
    """Return the validation questions of VQAv2.

    Args:
        folder: With questions and annotations of ``v2_..._val2014_...json`` and ``val2014/``.
    """
    path = found(folder, ["v2_OpenEnded_mscoco_val2014_questions.json"])
    answered = found(folder, ["v2_mscoco_val2014_annotations.json"])
    annotations = {}
    for number, each in enumerate(loaded(answered, list, "annotations")):
        name, answers = taken(each, ("question_id", "answers"), answered, number)
        said = [taken(one, ("answer", "answer_id"), answered, number) for one in answers]
        whole = [
            {"answer": text, "answer_id": person, "answer_confidence": str(one.get("answer_confidence", ""))}
            for one, (text, person) in zip(answers, said, strict=True)
        ]
        annotations[name] = whole, str(each.get("multiple_choice_answer") or _usual([text for text, _ in said]))
    documents: list[Document] = []
    pictures = None
    for number, entry in enumerate(loaded(path, list, "questions")):
        name, image, question = taken(entry, ("question_id", "image_id", "question"), path, number)
        if name not in annotations:
            raise GradprobeError(f"{answered} has no answers for question {name}, sample {number} of {path.name}")
        answers, usual = annotations[name]
        file = f"COCO_val2014_{int(image):012d}.jpg"
        pictures = pictures or pictures_of(folder, ("val2014", "images"), file)
        fields = {"question_id": name, "question": question, "answers": answers, "answer": usual}
        documents.append(Document(fields, pictures / file, file, number))
    return documents


def textvqa(folder: Path) -> list[Document]:
    """Return the validation questions of TextVQA.

    Args:
        folder: With ``TextVQA_0.5.1_val.json`` and ``train_images/``.
    """
    path = found(folder, ["TextVQA_0.5.1_val.json"])
    documents: list[Document] = []
    pictures = None
    for number, entry in enumerate(loaded(path, list, "data")):
        named = ("question_id", "image_id", "question", "answers")
        name, image, question, answers = taken(entry, named, path, number)
        file = f"{image}.jpg"
        pictures = pictures or pictures_of(folder, ("train_images", "train_val_images", "images"), file)
        fields = {"question_id": name, "question": question, "answers": answers, "answer": _usual(answers)}
        documents.append(Document(fields, pictures / file, file, number))
    return documents


def vizwiz(folder: Path) -> list[Document]:
    """Return the validation questions of VizWiz.

    Args:
        folder: With ``val.json`` and ``val/``.
    """
    path = found(folder, ["val.json"])
    documents: list[Document] = []
    pictures = None
    for number, entry in enumerate(loaded(path, list)):
        image, question, said = taken(entry, ("image", "question", "answers"), path, number)
        answers = [str(taken(each, ("answer",), path, number)[0]) for each in said]
        pictures = pictures or pictures_of(folder, ("val", "images"), image)
        fields = {"question_id": Path(image).stem, "question": question}
        fields |= {"answers": answers, "answer": _usual(answers)}
        documents.append(Document(fields, pictures / image, image, number))
    return documents


def _usual(answers: list[Any]) -> str:
    """Return the answer of most people, which is no part of a score."""
    return str(max(answers, key=answers.count)) if answers else ""
