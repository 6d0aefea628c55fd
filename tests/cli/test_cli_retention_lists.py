"""``gradprobe retention`` with lists: one open model for all questions, and rows that say what they are of."""

import json

import pytest

import gradprobe.tasks
import gradprobe.vlm.task

ASKED = ["retention", "--op", "vpnoise", "--op", "scale", "--images", "4", "--batch-size", "2", "--steps", "1"]
SMALL = [*ASKED, "--scorer", "mlp:width=4", "--k", "5,20", "--json"]


@pytest.fixture
def loads(monkeypatch):
    """Names of the models that are opened, one entry each time."""
    opened = []

    def counted(load):
        def call(name, *arguments, **options):
            opened.append(name)
            return load(name, *arguments, **options)

        return call

    for module, name in ((gradprobe.tasks, "load_backbone"), (gradprobe.vlm.task, "open_vlm")):
        monkeypatch.setattr(module, name, counted(getattr(module, name)))
    return opened


def test_operators_budgets_seeds_and_rankings_share_one_open_model(run, loads):
    rows = json.loads(run(*SMALL, "--seeds", "0,1,2")[1])["rows"]
    assert len(rows) == 2 * (3 + 6) and all(len(row["paths"]) == 3 for row in rows)
    assert loads == ["scenes"]


def test_a_vision_language_model_is_opened_once(run, loads):
    rows = json.loads(run(*SMALL, "--seeds", "0,1", "--task", "scenes-vlm")[1])["rows"]
    assert len(rows) == 2 * (3 + 6) and loads == ["scenes-vlm"]


def test_random_weights_are_made_once_a_seed(run, loads):
    rows = json.loads(run(*SMALL, "--seeds", "3,4", "--weights", "none")[1])["rows"]
    assert len(rows) == 2 * (3 + 6) and loads == ["scenes"] * 2


def test_every_recipe_has_rows_of_its_own_and_is_compared_with_the_same_one(run):
    one = [*ASKED[:3], *ASKED[5:-2], "--scorer", "mlp:width=4", "--seeds", "1", "--rankings", "norm"]
    lists = [*one, "--steps", "1,2", "--tau", "2.0:0.1,own"]
    answer = json.loads(run(*lists, "--json")[1])
    rows = answer["rows"]
    recipes = [(1, 2.0), (1, None), (2, 2.0), (2, None)]
    assert [(row["steps"], row["tau_start"]) for row in rows[:-1]] == 2 * recipes
    assert not {"steps", "tau_start", "tau_end"} & answer["settings"].keys() and answer["settings"]["seeds"] == [1]
    assert [row["op"] for row in rows] == 4 * ["gumbel-ste+gather"] + 4 * ["lapsum+vpnoise"] + ["ranked:norm"]
    for base, row in zip(rows[:4], rows[4:8], strict=True):
        assert base["difference"] is None and row["difference"] == row["retention"] - base["retention"]
    assert rows[-1]["difference"] is None  # of which of four baselines?
    (alone,) = (
        row for row in json.loads(run(*one, "--steps", "2", "--tau", "own", "--json")[1])["rows"]
        if row["op"] == "lapsum+vpnoise"
    )  # fmt: skip
    assert alone == {name: value for name, value in rows[7].items() if name not in ("tau_start", "tau_end")}
    code, out, _ = run(*lists, "--figure", "f.svg")
    words = " ".join(out.split())
    assert code == 0 and out.count("from the store") == 9
    assert "lapsum+vpnoise (steps = 2, tau_start = 2.0, tau_end = 0.1) at K = 20" in words
    assert "lapsum+vpnoise (steps = 1) at K = 20: retention" in words and "by norm" in words
