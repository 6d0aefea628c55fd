"""Prepared benchmarks read back as they were published; run only where the package datasets is (extra lmms)."""

import io
import json
import warnings

import pytest
from PIL import Image
from published import PUBLISHED, picture, published, written

from gradprobe.errors import GradprobeError, UsageError
from gradprobe.vlm.evaluation.benchmarks import benchmark_of
from gradprobe.vlm.evaluation.prepare import documents_of, prepare
from gradprobe.vlm.evaluation.prepared import prepared
from gradprobe.vlm.evaluation.task_functions import picture as picture_of

pytest.importorskip("datasets", reason='no datasets; type: pip install "gradprobe[lmms]"')
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def read(folder):
    from datasets import load_from_disk

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_from_disk(str(folder))["test"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_documents_read_back_as_they_were_published(name, tmp_path):
    benchmark, source, data = benchmark_of(name), published(name, tmp_path / "source"), tmp_path / "data"
    told = []
    record = prepare(benchmark, source, data, progress=lambda *each: told.append(each))
    documents, rows = documents_of(benchmark, source), read(data / name)
    assert len(rows) == len(documents) == record.samples and told[-1][1:] == (len(rows), len(rows))
    for row, document in zip(rows, documents, strict=True):
        fields = dict(document.fields)
        assert {key: row[key] for key in fields} == fields and row["unit"] == document.unit
        raw = document.picture if isinstance(document.picture, bytes) else document.picture.read_bytes()
        (shown,) = picture_of(row)
        assert shown.tobytes() == Image.open(io.BytesIO(raw)).convert("RGB").tobytes()
    assert prepared(data, benchmark) == record
    task = (data / "tasks" / f"{benchmark.task}.yaml").read_text()
    assert str(data / name) in task and f"{benchmark.task}.yaml" in task


def test_the_fingerprint_is_that_of_the_content(tmp_path):
    gqa = benchmark_of("gqa")
    first = prepare(gqa, published("gqa", tmp_path / "a"), tmp_path / "one").fingerprint
    assert prepare(gqa, published("gqa", tmp_path / "b"), tmp_path / "two").fingerprint == first
    written(tmp_path / "b" / "images" / "n1.jpg", picture(3))
    assert prepare(gqa, tmp_path / "b", tmp_path / "two", replace=True).fingerprint != first


def test_unreadable_samples_are_named_or_left_out_and_counted(tmp_path, run):
    source = published("mme", tmp_path / "source")
    home = source / "MME_Benchmark"
    written(home / "existence" / "000.jpg", b"no picture")
    written(home / "position" / "000.png", picture(2, "PNG")[:60])
    (home / "posters" / "000.png").unlink(missing_ok=True)
    next((home / "color" / "images").glob("*")).unlink()
    command = ["vlm", "benchmark", "prepare", "mme", "--from", source, "--out", tmp_path / "data"]
    code, _, err = run(*command)
    assert code == 1 and "8 of 30 samples" in err and "sample 0 (existence/000.jpg is no picture)" in err
    assert "--skip-unreadable" in err and not (tmp_path / "data" / "mme").exists()
    code, out, _ = run(*command, "--skip-unreadable", "--json")
    told = json.loads(out)
    assert code == 0 and told["samples"] == 22 and len(told["skipped"]) == 8
    assert "is missing" in {each["reason"] for each in told["skipped"]}
    rows = read(tmp_path / "data" / "mme")
    assert len(rows) == 22 and all(rows["unit"].count(unit) == 2 for unit in rows["unit"])
    assert [path.name for path in (tmp_path / "data").iterdir() if path.name.startswith(".")] == []


def test_what_is_there_is_not_overwritten_unasked(tmp_path):
    gqa, source = benchmark_of("gqa"), published("gqa", tmp_path / "source")
    prepare(gqa, source, tmp_path / "data")
    with pytest.raises(UsageError, match="is there already; --force"):
        prepare(gqa, source, tmp_path / "data")
    written(source / "images" / "n0.jpg", b"broken")
    with pytest.raises(GradprobeError, match="sample 0"):
        prepare(gqa, source, tmp_path / "data", replace=True)
    assert len(read(tmp_path / "data" / "gqa")) == 3  # the older one


def test_a_field_of_another_type_is_told(tmp_path):
    source = published("textvqa", tmp_path / "source")
    path = source / "TextVQA_0.5.1_val.json"
    written(path, path.read_text().replace("34602", '"one"'))
    with pytest.raises(GradprobeError, match="of the type"):
        prepare(benchmark_of("textvqa"), source, tmp_path / "data")
