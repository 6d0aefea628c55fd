"""Plans in files: read back as they were, refused in another model, and no code runs that is not trusted."""

import json

import pytest
from any_plans import possible, quick, write_mine
from hypothesis import given
from hypothesis import strategies as st

from gradprobe.errors import GradprobeError, UsageError
from gradprobe.selectors.plan import MadeFor, Plan, load_plan, plan_of, save_plan


@quick
@given(possible(), st.sampled_from(["keep", "compact"]))
def test_a_saved_plan_is_read_back(tmp_path_factory, case, positions):
    plan, (n, layers), _ = case
    plan = Plan(plan.stages, positions)
    file = save_plan(plan, tmp_path_factory.mktemp("a") / "new" / "plan.json", model="m", layers=layers, tokens=n)
    read = load_plan(file)
    assert read == plan_of(file) == plan_of(str(file)) == Plan(plan.stages, positions, MadeFor("m", layers, n))
    assert [each.name for each in file.parent.iterdir()] == ["plan.json"]  # nothing is left of the writing
    assert plan_of(file, positions="keep").positions == "keep"


def test_layers_by_default_are_saved_as_the_models_own(tmp_path):
    file = save_plan(plan_of("pyramiddrop"), tmp_path / "p.json", layers=4)
    assert plan_of(file).label == "pyramiddrop@1,2,3"
    with pytest.raises(UsageError, match="layers=32"):
        save_plan(plan_of("pyramiddrop"), file)


@pytest.mark.parametrize(
    ("n", "layers", "words"),
    [
        (576, 28, "made for theirs with 32 layers, and here are 28 layers"),
        (100, 32, "with 576 visual tokens, and here are 100 visual tokens"),
        (576, None, "with 32 layers, and here are no layers"),
    ],
)
def test_a_plan_of_another_model_is_refused(tmp_path, n, layers, words):
    plan = load_plan(save_plan(plan_of("fastv@2"), tmp_path / "p.json", model="theirs", layers=32, tokens=576))
    assert plan.counts(576, 32, k=9).last == 9
    with pytest.raises(UsageError, match=words):
        plan.counts(n, layers, k=9)


def test_a_plan_for_any_model_fits_any(tmp_path):
    plan = load_plan(save_plan(plan_of("fastv@2"), tmp_path / "p.json"))
    assert plan.counts(576, 32, k=9).last == plan.counts(100, 4, k=9).last == 9


@pytest.mark.parametrize(
    ("plan", "name", "words"),
    [
        ("fastv@2", "plan.txt", "must end in .json"),
        ("fastv@40", "plan.json", "layers 0 to 31"),
        ("fastv@2:k=600", "plan.json", "600 of the 576 tokens"),
        (lambda view, k: None, "plan.json", "no name that a file could hold"),
    ],
)
def test_what_cannot_be_saved(tmp_path, plan, name, words):
    with pytest.raises(UsageError, match=words):
        save_plan(plan_of(plan), tmp_path / name, layers=32, tokens=576)
    assert not list(tmp_path.iterdir())


def entries(**changes):
    stage = {"selector": "fastv", "layer": 2, "keep": 98}
    whole = {"format": 1, "model": None, "layers": 32, "tokens": 576, "positions": "keep", "stages": [stage]}
    return {name: value for name, value in (whole | changes).items() if value != "left out"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "no plan that can be read"),
        (b"\xff\xfe", "no plan that can be read"),
        ([1], r"it is \[1\]; it must be an object"),
        (entries(format=2), "format is 2; this version of gradprobe reads format 1"),
        (entries(format=True), "format is True; it must be a whole number"),
        (entries(stages="left out"), "stages is missing"),
        (entries(stages={}), "stages is {}; it must be a list"),
        (entries(stages=[]), "without a stage"),
        (entries(stages=["fastv"]), r"stages\[0\] is 'fastv'; it must be an object"),
        (entries(stages=[{"selector": "fastv", "layer": 2}]), r"stages\[0\].keep is missing"),
        (entries(stages=[{"selector": "fastv", "layer": "2", "keep": 1}]), r"stages\[0\].layer is '2'; it must be"),
        (entries(stages=[{"selector": "fastv", "layer": 2, "keep": "9"}]), r"stages\[0\].keep is '9'"),
        (entries(stages=[{"selector": "fastv", "layer": 2, "keep": True}]), r"stages\[0\].keep is True"),
        (entries(stages=[{"selector": "fastv", "layer": 2, "keep": 1.5}]), r"stages\[0\]: fastv cannot keep 1.5"),
        (entries(stages=[{"selector": "fastvv", "layer": 2, "keep": 9}]), r"stages\[0\]: unknown selector 'fastvv'"),
        (entries(stages=[{"selector": "fastv", "layer": None, "keep": 9}]), r"stages\[0\]: fastv is asked inside"),
        (entries(stages=[{"selector": "fastv", "layer": 32, "keep": 9}]), "layers 0 to 31"),
        (entries(layers=0), "layers is 0; it must be at least 1"),
        (entries(tokens=2.5), "tokens is 2.5; it must be a whole number or null"),
        (entries(positions="packed"), "--positions packed is not possible"),
        (entries(kind="plan"), "it has an entry kind; "),
    ],
)  # fmt: skip
def test_a_file_that_is_no_plan_names_the_entry(tmp_path, content, words):
    path = tmp_path / "p.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode() if isinstance(content, str)
                     else json.dumps(content).encode())  # fmt: skip
    with pytest.raises(GradprobeError, match=words) as error:
        load_plan(path)
    assert "\n" not in str(error.value)


def test_a_plan_that_names_code_runs_it_only_if_that_is_trusted(tmp_path):
    path, mark = write_mine(tmp_path)
    stage = {"selector": f"{path}:Mine:width=3", "layer": 2, "keep": None}
    (tmp_path / "p.json").write_text(json.dumps(entries(stages=[stage])))
    with pytest.raises(UsageError, match="--trust"):
        plan_of(tmp_path / "p.json")
    assert not mark.exists()
    assert plan_of(tmp_path / "p.json", trust=[path]).stages[0].selector.width == 3
    assert mark.exists()
