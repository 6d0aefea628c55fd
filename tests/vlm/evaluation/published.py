"""Benchmarks of a few samples, in the formats in which they are published."""

import base64
import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from gradprobe.vlm.evaluation.benchmarks import MME_CATEGORIES

COLOURS = ("red", "green", "blue", "white", "black")
PEOPLE = 10  # that answer a question


def picture(number: int = 0, kind: str = "JPEG") -> bytes:
    """A picture of one colour."""
    out = io.BytesIO()
    Image.new("RGB", (24, 20 + number), COLOURS[number % len(COLOURS)]).save(out, kind)
    return out.getvalue()


def written(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def gqa(folder: Path) -> None:
    entries = {
        f"2{i}": {"imageId": f"n{i % 2}", "question": f"What colour is wall {i}?", "answer": COLOURS[i], "types": {}}
        for i in range(3)
    }
    written(folder / "testdev_balanced_questions.json", json.dumps(entries))
    for i in range(2):
        written(folder / "images" / f"n{i}.jpg", picture(i))


def _mmbench(folder: Path, name: str, question: str) -> None:
    columns = ("index", "question", "hint", "A", "B", "C", "D", "answer", "category", "image", "l2-category")
    held = base64.b64encode(picture(1)).decode()
    rows = [
        (5, question, "Look\twell.", "red", "green", "", "", "B", "colour", held, "perception"),
        (9, question, "", "blue", "red", "white", "black", "A", "colour", base64.b64encode(picture(2)).decode(), "x"),
        (1_000_005, question, "Look\twell.", "green", "red", "", "", "A", "colour", "5", "perception"),
    ]
    out = io.StringIO()
    csv.writer(out, delimiter="\t").writerows([columns, *rows])
    written(folder / name, out.getvalue())


def mmbench_en(folder: Path) -> None:
    _mmbench(folder, "MMBench_DEV_EN.tsv", 'Which "colour"\nis it?')


def mmbench_cn(folder: Path) -> None:
    _mmbench(folder, "mmbench_dev_cn_20231003.tsv", "它是什么颜色？")


def mme(folder: Path) -> None:
    for number, category in enumerate(MME_CATEGORIES):
        home = folder / "MME_Benchmark" / category
        texts, pictures = (home / "questions_answers_YN", home / "images") if number % 2 else (home, home)
        lines = "Is it red? Please answer yes or no.\tYes\nIs it blue? Please answer yes or no.\tNo\n"
        for i in range(2 if category == "count" else 1):
            written(texts / f"{i:03}.txt", lines)
            written(pictures / f"{i:03}.{'png' if number % 3 else 'jpg'}", picture(i))


def pope(folder: Path) -> None:
    for split in ("random", "popular", "adversarial"):
        entries = [
            {"question_id": i + 1, "image": f"COCO_val2014_{i:012}.jpg", "text": f"Is there a {split}?", "label": label}
            for i, label in enumerate(("yes", "no"))
        ]
        written(folder / f"coco_pope_{split}.json", "\n".join(json.dumps(each) for each in entries))
    for i in range(2):
        written(folder / "val2014" / f"COCO_val2014_{i:012}.jpg", picture(i))


def scienceqa_img(folder: Path) -> None:
    same = {"question": "Which?", "choices": ["iron", "wood", "air"], "hint": "It floats."}
    problems = {
        "7": same | {"answer": 1, "image": "image.png"},
        "8": same | {"answer": 0, "image": None},
        "9": same | {"answer": 2, "image": "image.png", "hint": ""},
    }
    written(folder / "problems.json", json.dumps(problems))
    written(folder / "pid_splits.json", json.dumps({"train": [], "test": ["7", "8", "9"]}))
    for name in ("7", "9"):
        written(folder / "test" / name / "image.png", picture(int(name), "PNG"))


def vqav2(folder: Path) -> None:
    questions = [{"question_id": 10 + i, "image_id": 3, "question": f"How many {i}?"} for i in range(2)]
    people = [{"answer": "two" if i < 7 else "3", "answer_confidence": "yes", "answer_id": i} for i in range(PEOPLE)]
    annotations = [
        {"question_id": 10 + i, "image_id": 3, "answers": people, "multiple_choice_answer": "2"} for i in range(2)
    ]
    written(folder / "v2_OpenEnded_mscoco_val2014_questions.json", json.dumps({"questions": questions}))
    written(folder / "v2_mscoco_val2014_annotations.json", json.dumps({"annotations": annotations[::-1]}))
    written(folder / "val2014" / "COCO_val2014_000000000003.jpg", picture(3))


def textvqa(folder: Path) -> None:
    entries = [
        {"question_id": 34602 + i, "image_id": f"00{i}", "question": "what is written?", "answers": ["stop"] * PEOPLE}
        for i in range(2)
    ]
    written(folder / "TextVQA_0.5.1_val.json", json.dumps({"dataset_type": "val", "data": entries}))
    for i in range(2):
        written(folder / "train_images" / f"00{i}.jpg", picture(i))


def seedbench_img(folder: Path) -> None:
    same = {f"choice_{letter}": f"{letter}!" for letter in "abcd"}
    entries = [
        same | {"question": f"Which {i}?", "question_id": str(i), "answer": "C", "data_type": kind, "data_id": f"{i}_7"}
        for i, kind in enumerate(("image", "video", "image"))
    ]
    written(folder / "SEED-Bench.json", json.dumps({"questions": entries, "question_type": {}}))
    for i in (0, 2):
        written(folder / "SEED-Bench-image" / f"{i}_7", picture(i))


def vizwiz(folder: Path) -> None:
    people = [{"answer": "unanswerable", "answer_confidence": "yes"}] * PEOPLE
    entries = [
        {"image": f"VizWiz_val_{i:08}.jpg", "question": "what is this?", "answers": people, "answerable": 0}
        for i in range(2)
    ]
    written(folder / "val.json", json.dumps(entries))
    for i in range(2):
        written(folder / "val" / f"VizWiz_val_{i:08}.jpg", picture(i))


PUBLISHED: dict[str, Callable[[Path], None]] = {
    each.__name__: each
    for each in (gqa, mmbench_en, mmbench_cn, mme, pope, scienceqa_img, vqav2, textvqa, seedbench_img, vizwiz)
}


def published(name: str, folder: Path) -> Path:
    """The folder of a benchmark's published files."""
    PUBLISHED[name](folder)
    return folder
