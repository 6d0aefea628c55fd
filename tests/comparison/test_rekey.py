"""Answers of earlier versions become one file each, and are named by contents once their older fingerprints agree."""

import json
import shutil
from dataclasses import replace

import pytest
from PIL import Image
from stored import array_bytes, asked, make_older, members_of, repack, result, run_of
from test_results import names_in, same
from test_store_kills import KILLER, run_python
from typer.testing import CliRunner

from gradprobe.cli import app
from gradprobe.comparison.rekey import (
    fingerprints,
    older_captions_fingerprint,
    older_data_fingerprint,
    older_model_fingerprint,
    rekey,
    rekey_presets,
)
from gradprobe.data.fingerprints import data_fingerprint, model_fingerprint
from gradprobe.embedded.vlms import VLMS
from gradprobe.errors import UsageError
from gradprobe.store.archive import read_files
from gradprobe.store.record import key_of
from gradprobe.store.results import Store
from gradprobe.vlm.caption_files import list_captions


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(3):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(folder / f"{i}.png")
    return folder


def older(store, photos, files=(), **fields):
    """An answer as it was stored first: a folder, under the older fingerprint, without a checksum of its record."""
    path = store.save(result(asked(data=older_data_fingerprint(photos), **fields)))
    repack(path, members_of(path) | dict(files))
    return make_older(path, record=False)


def test_answers_take_the_contents_name_and_keep_every_byte(tmp_path, photos):
    store, known = Store(tmp_path / "runs"), fingerprints([str(photos)], [])
    about = {"data": older_data_fingerprint(photos), "dim": 3}
    files = {"scorer.json": json.dumps(about).encode(), "scorer.safetensors": b"theta"}
    folders = [older(store, photos, files, k=10), older(store, photos, k=20)]
    contents = [array_bytes(folder / "arrays.npz") for folder in folders]
    before = [store.load(folder) for folder in folders]
    outcomes = list(rekey(tmp_path / "runs", known))
    assert sorted(outcome.reason for outcome in outcomes) == ["one file now"] * 2 + ["re-keyed"] * 2
    assert {outcome.before for outcome in outcomes[:2]} == {folder.name for folder in folders}
    assert [o.after for o in outcomes[:2]] == [o.before for o in outcomes[2:]]
    for one, arrays in zip(before, contents, strict=True):
        question = one.question | {"data": data_fingerprint(photos)}
        path = store.find(question)
        same(store.load(path), replace(one, question=question))
        assert list(store.load(path).question) == list(one.question)  # in the same order
        assert array_bytes(path) == arrays and "record" in run_of(path)
    kept = read_files(store.find(asked(k=10, data=data_fingerprint(photos))))
    assert json.loads(kept["scorer.json"]) == {"data": data_fingerprint(photos), "dim": 3}
    assert kept["scorer.safetensors"] == b"theta"
    again = list(rekey(tmp_path / "runs", known))
    assert [(o.before == o.after, o.reason) for o in again] == [(True, "as it is")] * 2
    assert len(names_in(tmp_path / "runs")) == 2 and len(list((tmp_path / "runs").iterdir())) == 1


def test_answers_about_other_files_and_bad_answers_are_left_alone(tmp_path, photos):
    store, known = Store(tmp_path / "runs"), fingerprints([str(photos)], [])
    scenes, broken = store.save(result()), store.save(result(asked(k=3)))
    folder, bad = older(store, photos), older(store, photos, k=4)
    with (photos / "1.png").open("ab") as file:
        file.write(b"x")  # of another size: no longer the files that were measured
    other = fingerprints([str(photos)], [])
    broken.write_bytes(b"")
    (bad / "arrays.npz").write_bytes(b"")
    outcomes = list(rekey(tmp_path / "runs", other))
    reasons = {outcome.before: outcome.reason for outcome in outcomes}
    label = f"coherence/{folder.name.partition('-')[2]}"
    assert reasons[folder.name] == "one file now"
    assert f"data {older_of(known)} is of none of the files given" in reasons[label]
    assert reasons[f"coherence/{scenes.stem}"] == "as it is"
    for name in (f"coherence/{broken.stem}", bad.name):
        assert "damaged" in reasons[name] and "left as it is" in reasons[name]
    assert bad.is_dir() and store.load(label).question["data"] == older_of(known)


def older_of(known):
    return next(value for value in known if value != older_model_fingerprint(VLMS["scenes-vlm"]))


def test_an_answer_that_is_there_already_is_not_overwritten(tmp_path, photos):
    store, known = Store(tmp_path / "runs"), fingerprints([str(photos)], [])
    older(store, photos)
    newer = store.save(result(asked(data=data_fingerprint(photos)), seed=5))
    reasons = [outcome.reason for outcome in rekey(tmp_path / "runs", known)]
    assert f"left as it is: coherence/{newer.stem} holds another answer already" in reasons
    assert len(store.entries()) == 2 and store.load(newer).gram.tobytes() == result(seed=5).gram.tobytes()


REKEYS = """
from gradprobe.comparison.rekey import rekey
n = 0
while True:
    n += 1
    root = Path(sys.argv[1]) / f"{n}"
    shutil.copytree(sys.argv[2], root)
    if not killed(lambda: list(rekey(root, {sys.argv[3]: sys.argv[4]})), n, str(root)):
        break
print(n - 1)
"""


def test_killed_at_any_step_nothing_is_lost_and_the_same_call_goes_on(tmp_path, photos):
    older(Store(tmp_path / "runs"), photos)
    names = older_data_fingerprint(photos), data_fingerprint(photos)
    points = int(run_python(KILLER + REKEYS, tmp_path, tmp_path / "runs", *names))
    assert points >= 15
    for n in range(1, points + 1):
        store = Store(tmp_path / f"{n}")
        whole = [entry for entry in store.entries() if not entry.problem]
        assert whole and all(store.load(e.path).gram.tobytes() == result().gram.tobytes() for e in whole)
        list(rekey(tmp_path / f"{n}", dict([names])))
        assert len([name for name in names_in(tmp_path / f"{n}") if "/." not in f"/{name}"]) == 1
        (entry,) = store.entries()
        assert entry.question["data"] == names[1] and store.load(entry.path)


def test_models_and_captions_too(tmp_path, photos):
    shutil.copytree(VLMS["scenes-vlm"], tmp_path / "model")
    (photos / "captions.jsonl").write_text('{"image": "1.png", "caption": "a cat"}\n')
    known = fingerprints([str(photos)], [str(tmp_path / "model")])
    listing = list_captions(photos)
    store = Store(tmp_path / "runs")
    older = older_model_fingerprint(VLMS["scenes-vlm"])
    question = asked(task="captioning", weights=older, data=f"{older_captions_fingerprint(listing)}:7")
    store.save(result(question))
    (outcome,) = rekey(tmp_path / "runs", known)
    newer = store.load(outcome.after).question
    assert newer["weights"] == model_fingerprint("scenes-vlm") == model_fingerprint(str(tmp_path / "model"))
    assert newer["data"] == f"{listing.fingerprint}:7"


def test_presets_are_brought_along(tmp_path, photos):
    preset = tmp_path / "fig.toml"
    preset.write_text(
        f'# why\ndata = "{older_data_fingerprint(photos)}"  # photos\nweights = "sha256:0af164d9dc507fd8"\n'
    )
    (tmp_path / "other.toml").write_text('data = "scenes"\n')
    known = fingerprints([str(photos)], [])
    assert [o.reason for o in rekey_presets(tmp_path, known)] == ["fingerprints of contents put in", "as it is"]
    assert (
        preset.read_text()
        == f'# why\ndata = "{data_fingerprint(photos)}"  # photos\nweights = "sha256:0af164d9dc507fd8"\n'
    )
    assert [o.reason for o in rekey_presets(tmp_path, known)] == ["as it is"] * 2


def test_the_size_that_a_budget_bought_stays_known(tmp_path, photos):
    import hashlib

    about = {"ops": ["a"], "k": 3, "budget": 60.0, "task": {"data": older_data_fingerprint(photos)}}
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:12]
    (tmp_path / f"compare-{key}.json").write_text(json.dumps({**about, "size": "tiny", "estimated_seconds": {}}))
    (outcome,) = rekey(tmp_path, fingerprints([str(photos)], []))
    about["task"]["data"] = data_fingerprint(photos)
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:12]
    assert outcome.after == f"compare-{key}.json"
    assert json.loads((tmp_path / outcome.after).read_text())["size"] == "tiny"
    assert [path.name for path in tmp_path.glob("compare-*")] == [outcome.after]


def test_the_command_says_a_line_for_each_answer(tmp_path, photos):
    folder = older(Store(tmp_path / "runs"), photos)
    arguments = ["rekey", "--results", str(tmp_path / "runs"), "--data", str(photos)]
    first, second = (CliRunner().invoke(app, arguments) for _ in range(2))
    name, before = f"coherence/{key_of(asked(data=data_fingerprint(photos)))}", folder.name.replace("-", "/")
    assert first.output.splitlines() == [
        f"{folder.name} -> {before}: one file now", f"{before} -> {name}: re-keyed", "1 one file now; 1 re-keyed"
    ]  # fmt: skip
    assert second.output.splitlines() == [f"{name}: as it is", "1 as it is"]
    for wrong in (["--results", str(tmp_path / "gone")], ["--data", str(tmp_path / "gone")], ["--model", "gone"]):
        assert CliRunner().invoke(app, ["rekey", "--results", str(tmp_path), *wrong]).exit_code != 0
    assert "rekey" not in CliRunner().invoke(app, ["--help"]).output


@pytest.mark.parametrize(
    "name, picture, options",
    [
        ("turned.jpg", Image.new("RGB", (8, 6)), {"exif": {0x0112: 6}}),
        ("clear.png", Image.new("RGBA", (8, 8), (0, 0, 0, 0)), {}),
        ("deep.png", Image.new("I;16", (8, 8), 40_000), {}),
        ("long.png", Image.new("RGB", (900, 1)), {}),
        ("10/a.png", Image.new("RGB", (8, 8)), {}),
    ],
)
def test_a_folder_that_was_read_otherwise_before_is_refused(tmp_path, name, picture, options):
    folder = tmp_path / "photos"
    (folder / name).parent.mkdir(parents=True)
    exif = Image.Exif()
    exif.update(options.pop("exif", {}))
    picture.save(folder / name, **({"exif": exif} if exif else {}))
    with pytest.raises(UsageError, match="by earlier versions; leave this folder out and measure again"):
        fingerprints([str(folder)], [])


def test_a_folder_of_plain_pictures_in_classes_is_taken(tmp_path):
    for kind in ("0", "1", "2"):
        (tmp_path / kind).mkdir()
        for mode in ("RGB", "L", "P"):
            Image.new(mode, (8, 8)).save(tmp_path / kind / f"{mode}.png")
    (tmp_path / "0" / "broken.png").write_bytes(b"no picture")
    assert older_data_fingerprint(tmp_path) in fingerprints([str(tmp_path)], [])
