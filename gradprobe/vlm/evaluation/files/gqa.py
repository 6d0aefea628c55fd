"""GQA's balanced test-dev questions."""

from pathlib import Path

from gradprobe.vlm.evaluation.files.source import TEXT, Document, found, loaded, pictures_of, taken

FIELDS = {"id": TEXT, "imageId": TEXT, "question": TEXT, "answer": TEXT}


def gqa(folder: Path) -> list[Document]:
    """Return its documents.

    Args:
        folder: With ``testdev_balanced_questions.json`` and ``images/``.
    """
    path = found(folder, ["testdev_balanced_questions.json"])
    documents: list[Document] = []
    pictures = None
    for number, (name, entry) in enumerate(loaded(path, dict).items()):
        image, question, answer = taken(entry, ("imageId", "question", "answer"), path, name)
        file = f"{image}.jpg"
        pictures = pictures or pictures_of(folder, ("images", "testdev_balanced_images"), file)
        fields = {"id": name, "imageId": str(image), "question": question, "answer": answer}
        documents.append(Document(fields, pictures / file, file, number))
    return documents
