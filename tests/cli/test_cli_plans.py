"""Selectors and plans on the command line: retention, compare, equivalence, generate and show say what layers read."""

import json

import pytest
from PIL import Image

SMALL = ["--task", "scenes-vlm", "--op", "vpnoise", "--baseline", "none", "--steps", "1", "--batch-size", "2"]
SMALL += ["--images", "6", "--seeds", "1", "--scorer", "mlp:width=4"]


@pytest.fixture
def picture(tmp_path):
    Image.effect_noise((80, 80), 80).convert("RGB").save(tmp_path / "x.png")
    return str(tmp_path / "x.png")


def test_retention_says_what_each_layer_reads_and_ranks_at_equal_averages(run):
    code, out, err = run(
        "retention", *SMALL, "--k", "11", "--rankings", "divprune,fastv@2,visionzip:query=mean", "--json"
    )
    assert code == 0, err
    rows = {row["op"]: row for row in json.loads(out)["rows"]}
    assert rows["ranked:fastv@2"]["layers"] == [100, 100, 11, 11] and rows["ranked:fastv@2"]["average"] == 55.5
    assert rows["ranked:divprune"]["average"] == 11 == rows["lapsum+vpnoise"]["average"]
    assert rows["ranked:divprune"]["prefill_share"] < rows["ranked:fastv@2"]["prefill_share"] < 1
    assert rows["ranked:fastv@2"]["auc"] is None and rows["ranked:divprune"]["auc"] is not None
    code, out, err = run("retention", *SMALL, "--average", "40", "--rankings", "fastv@1,norm")
    assert code == 0 and "tokens x layers 100 x1, 20 x3" in out and "rank methods at equal averages" in out


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (["--rankings", "fastv@9"], "layers 0 to 3"),
        (["--rankings", "fastw"], "did you mean 'fastv'"),
        (["--average", "30", "--rankings", "fastv@2"], "the least is"),
        (["--average", "30", "--k", "5"], "give one of --k, --keep and --average"),
        (["--rankings", "divprune;fastv@2"], "needs a budget of its own"),
        (["--rankings", "scored"], "--pruner"),
    ],
)
def test_wrong_plans_are_one_line(run, asked, words):
    code, _, err = run("retention", *SMALL, *([] if "--average" in asked else ["--k", "11"]), *asked)
    assert code == 2 and words in err and "Traceback" not in err


def test_positions_are_part_of_a_plans_question_and_of_no_training(run):
    asked = ["retention", *SMALL, "--k", "11", "--rankings", "norm", "--json"]
    keep, compact = (json.loads(run(*asked, "--positions", each)[1])["rows"] for each in ("keep", "compact"))
    assert keep[0]["paths"] == compact[0]["paths"] and keep[1]["paths"] != compact[1]["paths"]


def test_equivalence_takes_the_scores_of_a_selector(run):
    asked = ["equivalence", "--op", "hard+zero", "--k", "20", "--images", "8", "--json"]
    drawn, chosen = (json.loads(run(*asked, *more)[1])["rows"] for more in ([], ["--scores", "divprune"]))
    assert drawn[0]["op"] == chosen[0]["op"] == "hard+gather" and drawn[0]["path"] != chosen[0]["path"]
    code, _, err = run(*asked, "--scores", "fastv@2")
    assert code == 2 and "without @LAYER" in err
    code, _, err = run(*asked, "--scores", "zoo")
    assert code == 2 and "projector" in err


def test_compare_takes_plans_beside_the_usual_rankings(run):
    asked = ["compare", "--op", "vpnoise", "--baseline", "none", "--size", "tiny", "--task", "scenes-vlm", "--k", "11"]
    code, _, err = run(*asked, "--select", "fastv@7")
    assert code == 2 and "layers 0 to 3" in err


def test_generate_answers_from_the_tokens_that_a_plan_leaves(run, picture):
    asked = ["vlm", "generate", "--image", picture, "--prompt", "is there a red seven ?", "--model", "scenes-vlm"]
    asked += ["--max-new-tokens", "2"]
    code, out, err = run(*asked, "--select", "divprune:k=40;fastv@2", "--k", "5", "--json")
    answer = json.loads(out)
    assert (
        code == 0 and answer["layers"] == [40, 40, 5, 5] and len(answer["kept"][0]) == 40 and len(answer["left"]) == 5
    )
    assert set(answer["left"]) <= set(answer["kept"][0]) and 0 < answer["prefill_share"] < 1
    code, out, err = run(*asked, "--select", "fastv@1", "--average", "40")
    assert (
        code == 0
        and "tokens x layers: 100 x1, 20 x3; average 40.0 of 100 a layer" in err
        and "% of the unpruned" in err
    )
    for more, words in (
        ([], "give --pruner DIR"),
        (["--select", "scored", "--k", "3"], "--pruner DIR"),
        (["--select", "norm"], "does not say how many tokens are left"),
        (["--select", "norm", "--k", "300"], ""),
        (["--select", "norm", "--k", "3", "--positions", "near"], "keep"),
    ):
        code, _, err = run(*asked, *more)
        assert (code == 2 and words in err) or not words


def test_show_draws_what_a_plan_keeps(run, tmp_path):
    asked = ["vlm", "show", "--picture", "3", "--k", "5", "--model", "scenes-vlm", "--figure", str(tmp_path / "f.png")]
    for plan in ("divprune", "fastv@2", "visionzip:query=mean"):
        code, out, err = run(*asked, "--select", plan, "--json")
        answer = json.loads(out)
        assert code == 0 and len(answer["top"]) == 5 and answer["settings"]["ranked_by"] == plan, err
