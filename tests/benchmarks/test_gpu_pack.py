"""Assets that are packed for a machine without a network."""

import gpu_pack
import numpy as np
import pytest
from gpu_steps.step import SAMPLE, TEST, TRAIN, WEIGHTS
from PIL import Image

from gradprobe.data.images import ImageFolder
from gradprobe.errors import UsageError


@pytest.fixture
def originals(tmp_path):
    """Small weights, and pictures of three classes in each folder."""
    root = tmp_path / "assets"
    (root / WEIGHTS).parent.mkdir(parents=True)
    (root / WEIGHTS).write_bytes(bytes(range(256)))
    random = np.random.default_rng(0)
    for folder in (SAMPLE, TRAIN, TEST):
        for wnid in ("n01440764", "n02102040", "n03000684"):
            (root / folder / wnid).mkdir(parents=True)
            for number, size in enumerate(((300, 400), (248, 248), (100, 120))):
                pixels = random.integers(0, 256, (*size, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / folder / wnid / f"{number}.JPEG", "JPEG")
    return root


def test_pictures_keep_their_classes_and_order(originals, tmp_path):
    out = tmp_path / "packed"
    lines = list(gpu_pack.pack(originals, out, 2))
    assert (out / WEIGHTS).read_bytes() == (originals / WEIGHTS).read_bytes()
    for folder in (SAMPLE, TRAIN, TEST):
        ours, theirs = (ImageFolder.open(root / folder, np.asarray, 1000) for root in (out, originals))
        assert len(ours) == 9
        assert ours.labels == theirs.labels
        assert [f.split(".")[0] for f in ours.files] == [f.split(".")[0] for f in theirs.files]
        with Image.open(out / folder / "n01440764" / "0.webp") as picture:
            assert picture.size == (248, 248)
        with Image.open(out / folder / "n01440764" / "2.webp") as picture:
            assert picture.size == (100, 100)  # no picture is made larger
        assert any(line.startswith(f"{folder}: 9 pictures") for line in lines)


def test_the_folder_is_no_larger_than_asked(originals, tmp_path):
    out, sizes, qualities = tmp_path / "packed", [], []
    for mib in (1.0, 0.6):
        lines = list(gpu_pack.pack(originals, out, mib))
        sizes.append(sum(path.stat().st_size for path in out.rglob("*") if path.is_file()))
        qualities.append(int(lines[1].rsplit(" ", 1)[1]))
        assert sizes[-1] <= mib * gpu_pack.MIB
    assert qualities[1] < qualities[0]
    with pytest.raises(UsageError, match="give a larger --mib"):
        list(gpu_pack.pack(originals, out, 0.01))
    assert (out / WEIGHTS).is_file()  # what was there stays


def test_a_picture_that_cannot_be_read_is_left_out_and_told(originals, tmp_path):
    (originals / TRAIN / "n01440764" / "0.JPEG").write_bytes(b"no picture")
    lines = list(gpu_pack.pack(originals, tmp_path / "packed", 2))
    assert any("0.JPEG: cannot be read, left out" in line for line in lines)
    assert any(line.startswith(f"{TRAIN}: 8 pictures") for line in lines)


def test_other_folders_are_not_overwritten(originals, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="not a folder of packed assets"):
        list(gpu_pack.pack(originals, tmp_path / "mine", 2))
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_without_assets_it_says_what_is_missing(originals, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("GRADPROBE_ASSETS", raising=False)
    assert gpu_pack.main(["--out", str(tmp_path / "x")]) == 2
    assert "GRADPROBE_ASSETS" in capsys.readouterr().err
    with pytest.raises(UsageError, match=r"holds no .*model\.safetensors"):
        list(gpu_pack.pack(tmp_path, tmp_path / "x", 2))
    monkeypatch.setenv("GRADPROBE_ASSETS", str(originals))
    assert gpu_pack.main(["--out", str(tmp_path / "x"), "--mib", "2"]) == 0
    assert "MiB of at most 2" in capsys.readouterr().out
