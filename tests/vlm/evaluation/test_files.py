"""Readers of published files: documents as lmms-eval's functions read them, and what is refused."""

import json

import pytest
from published import PEOPLE, PUBLISHED, picture, published, written

from gradprobe.errors import GradprobeError, UsageError
from gradprobe.vlm.evaluation.benchmarks import BENCHMARKS, MME_CATEGORIES, benchmark_of
from gradprobe.vlm.evaluation.files import READERS
from gradprobe.vlm.evaluation.prepare import documents_of

FIRST = {  # some fields of the first document, and the number of documents and units
    "gqa": ({"question": "What colour is wall 0?", "answer": "red", "imageId": "n0"}, 3, 3),
    "mmbench_en": ({"index": 5, "question": 'Which "colour"\nis it?', "hint": "Look\twell.", "C": None}, 3, 2),
    "mmbench_cn": ({"index": 5, "question": "它是什么颜色？", "answer": "B", "L2-category": "perception"}, 3, 2),
    "mme": ({"question_id": "existence/000.jpg", "question": "Is it red? Please answer yes or no."}, 30, 15),
    "pope": ({"question": "Is there a adversarial?", "answer": "yes", "category": "adversarial"}, 6, 6),
    "scienceqa_img": ({"choices": ["iron", "wood", "air"], "answer": 1, "hint": "It floats."}, 2, 2),
    "vqav2": ({"question_id": 10, "question": "How many 0?", "answer": "2"}, 2, 2),
    "textvqa": ({"question_id": 34602, "answers": ["stop"] * PEOPLE}, 2, 2),
    "seedbench_img": ({"answer": "C", "choice_b": "b!", "data_type": "image", "question_id": "0"}, 2, 2),
    "vizwiz": ({"question_id": "VizWiz_val_00000000", "answers": ["unanswerable"] * PEOPLE}, 2, 2),
}
each_benchmark = pytest.mark.parametrize("name", PUBLISHED)


@each_benchmark
def test_documents_of_the_published_format(name, tmp_path):
    documents = documents_of(benchmark_of(name), published(name, tmp_path))
    fields, count, units = FIRST[name]
    assert {key: documents[0].fields[key] for key in fields} == fields
    assert (len(documents), len({each.unit for each in documents})) == (count, units)
    assert [each.unit for each in documents] == sorted(each.unit for each in documents)  # those of a unit together
    for each in documents:
        assert set(each.fields) == set(READERS[name][1])
        assert isinstance(each.picture, bytes) or each.picture.is_file()


@each_benchmark
def test_files_below_another_folder_are_found(name, tmp_path):
    published(name, tmp_path / "release" / "v1")
    documents = documents_of(benchmark_of(name), tmp_path)
    assert len(documents) == FIRST[name][1]
    assert all(isinstance(each.picture, bytes) or each.picture.is_file() for each in documents)


@each_benchmark
def test_a_folder_without_the_files_is_told_which_they_are(name, tmp_path):
    with pytest.raises(UsageError) as told:
        documents_of(benchmark_of(name), tmp_path)
    assert BENCHMARKS[name].expects in str(told.value)
    with pytest.raises(UsageError, match="is no folder"):
        documents_of(benchmark_of(name), tmp_path / "nowhere")


def test_circular_questions_share_a_unit_and_a_picture(tmp_path):
    first, turned, other = documents_of(benchmark_of("mmbench_en"), published("mmbench_en", tmp_path))
    assert (first.fields["index"], turned.fields["index"]) == (5, 1_000_005)
    assert first.unit == turned.unit != other.unit
    assert first.picture == turned.picture == picture(1)


def test_people_of_vqav2_stay_apart(tmp_path):
    """lmms-eval leaves each person out in turn, and knows them by their number."""
    (first, _) = documents_of(benchmark_of("vqav2"), published("vqav2", tmp_path))
    assert [each["answer_id"] for each in first.fields["answers"]] == list(range(PEOPLE))


def test_all_categories_of_mme_in_both_layouts(tmp_path):
    documents = documents_of(benchmark_of("mme"), published("mme", tmp_path))
    assert list(dict.fromkeys(each.fields["category"] for each in documents)) == list(MME_CATEGORIES)
    assert {each.fields["answer"] for each in documents} == {"Yes", "No"}


@pytest.mark.parametrize(
    ("name", "file", "content", "message"),
    [
        ("gqa", "testdev_balanced_questions.json", "[]", "holds no dict"),
        ("gqa", "testdev_balanced_questions.json", '{"1": {"imageId": "n0"}}', "sample 1 has no question, answer"),
        ("gqa", "testdev_balanced_questions.json", "{", "is no JSON"),
        ("gqa", "testdev_balanced_questions.json", "{}", "has no question of gqa"),
        ("mmbench_en", "MMBench_DEV_EN.tsv", "index\tquestion\n1\twhy?\n", "sample 0 has no answer, image"),
        ("mme", "MME_Benchmark/existence/000.txt", "Is it?\tYes\n", "has 1 questions"),
        ("mme", "MME_Benchmark/existence/000.txt", "Is it?\tYes\nIs it?\tperhaps\n", "question 2 does not end in"),
        ("pope", "coco_pope_random.json", '{"question_id": 1, "image": "a", "text": "?", "label": "maybe"}', "'maybe'"),
        ("pope", "coco_pope_popular.json", "[", "sample 0 is no JSON"),
        ("scienceqa_img", "pid_splits.json", '{"test": ["77"]}', "sample 77 has no 77"),
        ("vqav2", "v2_mscoco_val2014_annotations.json", '{"annotations": []}', "no answers for question 10, sample 0"),
        ("textvqa", "TextVQA_0.5.1_val.json", '{"data": 3}', "holds no list data"),
        ("vizwiz", "val.json", '[{"image": "a.jpg", "question": "?"}]', "sample 0 has no answers"),
        ("vizwiz", "val.json", '[{"image": "a.jpg", "question": "?", "answers": 3}]', "is not as published"),
    ],
)
def test_a_sample_that_lacks_something_is_named(name, file, content, message, tmp_path):
    published(name, tmp_path)
    written(tmp_path / file, content)
    with pytest.raises(GradprobeError, match=message):
        documents_of(benchmark_of(name), tmp_path)


def test_a_choice_that_is_none_is_refused(tmp_path):
    published("seedbench_img", tmp_path)
    path = tmp_path / "SEED-Bench.json"
    held = json.loads(path.read_text())
    held["questions"][2]["answer"] = "E"
    written(path, json.dumps(held))
    with pytest.raises(GradprobeError, match="sample 2 is 'E'"):
        documents_of(benchmark_of("seedbench_img"), tmp_path)
