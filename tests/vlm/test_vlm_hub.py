"""Pruners on the hub: what is pushed is what is pulled, from the cache too, and what cannot be is said."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fake_hub import Repo, serving
from tiny_vlms import SPEC, made, pruner, shared

from gradprobe.errors import GradprobeError, Notice, UsageError
from gradprobe.vlm.budgets import Budget
from gradprobe.vlm.deploy import load
from gradprobe.vlm.hub import folder_of, hub_id, push
from gradprobe.vlm.pruner import Pruner

ROWS = [[1], [0, 2], []]


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with serving(monkeypatch, tmp_path / "cache") as hub:
        yield hub


@pytest.fixture
def named():
    """A pruner of random parameters whose scorer has a name."""
    return replace(pruner("llava"), metadata={"scorer": SPEC, "op": "vpnoise"})


def pushed(named: Pruner, **how) -> str:
    return named.push_to_hub("ada/keep-five", token="hf_writer", **how)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_pushed_is_what_is_pulled(hub, named, tmp_path):
    address = pushed(named)
    repo = hub.repos["ada/keep-five"]
    assert address == f"{hub.url}/ada/keep-five/commit/{repo.branches['main']}"
    stored = {name: content for name, content in repo.commits[repo.branches["main"]].items() if name[0] != "."}
    assert sorted(stored) == ["README.md", "scorer.json", "scorer.safetensors"]
    assert contents(folder_of("ada/keep-five")) == stored
    local = contents(named.save_pretrained(tmp_path / "local"))
    assert {**local, "README.md": b""} == {**stored, "README.md": b""}
    again = Pruner.from_pretrained("ada/keep-five", shared("llava"))
    assert (
        contents(again.save_pretrained(tmp_path / "again")).items()
        >= {name: content for name, content in stored.items() if name != "README.md"}.items()
    )
    inputs = made(shared("llava"), ROWS)
    assert torch.equal(again.logits(inputs), named.logits(inputs)) and again.budget == Budget(k=5)


def test_without_a_network_the_cache_is_read(hub, named, monkeypatch):
    from huggingface_hub import constants

    pushed(named)
    before = contents(folder_of("ada/keep-five"))
    hub.close()
    with pytest.warns(Notice, match=r"did not deliver ada/keep-five .* the snapshot in its cache is used"):
        assert contents(folder_of("ada/keep-five")) == before
    with pytest.raises(GradprobeError, match=r"no folder ada/other here.* did not answer .*cache.* has no ada/other;"):
        load("ada/other", shared("llava"))
    with pytest.raises(GradprobeError, match=r"cache .* has no ada/keep-five at v1; give a folder"):
        load("ada/keep-five", shared("llava"), revision="v1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert contents(folder_of("ada/keep-five")) == before
    with pytest.raises(GradprobeError, match=r"HF_HUB_OFFLINE is set, and the cache .* has no ada/other;.* unset"):
        load("ada/other", shared("llava"))


def test_a_hub_out_of_order_gives_the_cache_or_its_status(hub, named):
    pushed(named)
    before = contents(folder_of("ada/keep-five"))
    hub.fault = 500
    with pytest.warns(Notice, match=r"did not deliver ada/keep-five .*500"):
        assert contents(folder_of("ada/keep-five")) == before
    with pytest.raises(GradprobeError, match=r"did not answer .*500"):
        folder_of("ada/other")


def test_a_snapshot_that_lacks_a_file_is_completed_or_refused(hub, named):
    pushed(named)
    folder = folder_of("ada/keep-five")
    before = contents(folder)
    (folder / "scorer.safetensors").unlink()
    assert contents(folder_of("ada/keep-five")) == before
    (folder / "scorer.safetensors").unlink()
    hub.close()
    with pytest.raises(GradprobeError, match=r"did not answer .*cache .* has no ada/keep-five"):
        folder_of("ada/keep-five")


def test_revisions(hub, named):
    pushed(named)
    pushed(replace(named, budget=Budget(k=3)), branch="three")
    repo = hub.repos["ada/keep-five"]
    first = repo.branches["main"]
    repo.tags["v1"] = first
    pushed(replace(named, budget=Budget(ratio=0.5)))
    for name, revision, budget in (
        ("ada/keep-five", None, Budget(ratio=0.5)),
        ("ada/keep-five", "three", Budget(k=3)),
        ("ada/keep-five@three", None, Budget(k=3)),
        ("ada/keep-five", "v1", Budget(k=5)),
        ("ada/keep-five", first, Budget(k=5)),
        ("ada/keep-five@v1", "v1", Budget(k=5)),
    ):
        assert Pruner.from_pretrained(name, shared("llava"), revision=revision).budget == budget
    with pytest.raises(UsageError, match=r"has no revision v2; it has main, three, v1"):
        folder_of("ada/keep-five", "v2")
    with pytest.raises(UsageError, match="names the revision v1, and three is asked for"):
        folder_of("ada/keep-five@v1", "three")


def test_only_the_files_of_a_pruner_are_fetched(hub, named):
    pushed(named)
    repo = hub.repos["ada/keep-five"]
    files = repo.commits[repo.branches["main"]]
    repo.add("main", {**files, "evil.py": b"raise SystemExit", "checkpoint.safetensors": b"x", "a.json": b"{}"})
    assert sorted(contents(folder_of("ada/keep-five"))) == ["README.md", "scorer.json", "scorer.safetensors"]
    assert not any("evil" in path or "checkpoint" in path for _, path in hub.asked)


def test_nothing_that_is_pulled_runs(hub, named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pushed(named)
    repo = hub.repos["ada/keep-five"]
    files = repo.commits[repo.branches["main"]]
    code = b"from pathlib import Path\nPath('ran').touch()\n"
    named_code = json.loads(files["scorer.json"]) | {"scorer": "evil.py:Scorer"}
    repo.add("main", {**files, "scorer.json": json.dumps(named_code).encode(), "evil.py": code})
    with pytest.raises(UsageError, match=r"names evil\.py:Scorer, Python code that would run here"):
        load("ada/keep-five", shared("llava"))
    plan = {"format": 1, "model": None, "layers": None, "tokens": None, "positions": "keep"}
    plan["stages"] = [{"selector": "evil.py:Selector", "layer": None, "keep": 3}]
    repo.add("main", {"plan.json": json.dumps(plan).encode(), "evil.py": code})
    with pytest.raises(UsageError, match=r"names evil\.py:Selector, Python code that would run here"):
        load("ada/keep-five", shared("llava"))
    assert not (tmp_path / "ran").exists()


def test_a_push_replaces_the_pruner_and_leaves_other_files(hub, named):
    pushed(named)
    repo = hub.repos["ada/keep-five"]
    repo.add("main", {**repo.commits[repo.branches["main"]], "notes.txt": b"mine"})
    pushed(Pruner(shared("llava"), "divprune", Budget(k=4)))
    files = repo.commits[repo.branches["main"]]
    assert sorted(files) == [".gitattributes", "README.md", "budget.json", "notes.txt", "plan.json"]
    again = load("ada/keep-five", shared("llava"))
    assert again.plan.label == "divprune" and again.budget == Budget(k=4) and again.scorer is None


def test_what_the_hub_has_not_is_said(hub, named, monkeypatch):
    pushed(named)
    with pytest.raises(UsageError, match=r"no folder ada/other here and no repository ada/other on .*hf auth login"):
        folder_of("ada/other")
    hub.repos["ada/model"] = Repo()
    hub.repos["ada/model"].add("main", {"config.json": b"{}", "model.safetensors": b""})
    with pytest.raises(UsageError, match=r"is no pruner: .*but config\.json, model\.safetensors; .*--model"):
        folder_of("ada/model")
    hub.repos["ada/keep-five"].private = True
    with pytest.raises(UsageError, match=r"or it is private: type hf auth login, or set HF_TOKEN"):
        folder_of("ada/keep-five")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(UsageError, match=r"refuses to read ada/keep-five with your token \(401"):
        folder_of("ada/keep-five")
    monkeypatch.setenv("HF_TOKEN", "hf_reader")
    assert load("ada/keep-five", shared("llava")).budget == Budget(k=5)
    with pytest.raises(UsageError, match="or your token may not read it"):
        folder_of("ada/other")
    hub.repos["ada/gated"] = Repo(gated=True)
    with pytest.raises(UsageError, match=r"access to ada/gated is gated; ask for it on http.*/ada/gated"):
        folder_of("ada/gated")


def test_what_cannot_be_pushed_is_said(hub, named, tmp_path, monkeypatch):
    folder = named.save_pretrained(tmp_path / "pruner")
    with pytest.raises(UsageError, match=r"a token is needed; type hf auth login, or set HF_TOKEN"):
        named.push_to_hub("ada/keep-five")
    with pytest.raises(UsageError, match=r"may write it"):
        named.push_to_hub("ada/keep-five", token="hf_reader")
    for name in ("keep-five", "ada/keep/five", "ada/keep five", "ada/a--b", "./keep"):
        with pytest.raises(UsageError, match="is no name of a repository"):
            push(folder, name, token="hf_writer")
    with pytest.raises(UsageError, match="no pruner in"):
        push(tmp_path, "ada/keep-five", token="hf_writer")
    assert hub.repos == {}
    monkeypatch.setenv("HF_TOKEN", "hf_writer")
    push(folder, "ada/hidden", private=True)
    push(folder, "ada/hidden", private=True)
    assert hub.repos["ada/hidden"].private
    push(folder, "ada/open")
    count = len(hub.repos["ada/open"].commits)
    with pytest.raises(UsageError, match="ada/open is public already, and nothing was pushed"):
        push(folder, "ada/open", private=True)
    assert len(hub.repos["ada/open"].commits) == count
    hub.close()
    with pytest.raises(GradprobeError, match=r"ada/open could not be pushed to http.*is there a network"):
        push(folder, "ada/open")


def test_a_folder_is_taken_as_it_is(hub, named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    named.save_pretrained("ada/keep-five")
    assert folder_of("ada/keep-five") == Path("ada/keep-five") and hub_id("ada/keep-five") is None
    assert load("ada/keep-five", shared("llava")).budget == Budget(k=5) and hub.asked == []
    with pytest.raises(UsageError, match="is a folder here, which has no revision v1"):
        folder_of("ada/keep-five", "v1")
    for nothing in ("none", "./ada/none", "ada/two/three", Path("ada/other"), "ada/x@", "a\0b", "x" * 5000):
        with pytest.raises(UsageError, match="there is no pruner in"):
            folder_of(nothing)
    assert hub.asked == []
    shutil.rmtree("ada")
    assert hub_id("ada/keep-five") == "ada/keep-five"
