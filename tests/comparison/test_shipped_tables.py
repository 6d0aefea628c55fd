"""The shipped Tables 1 to 3: quoted numbers agree with each other, and questions are those of Table 5."""

import re
from pathlib import Path

import numpy as np
import pytest

from gradprobe.comparison.experiments import load_experiment
from gradprobe.selectors.plan import plan_of
from gradprobe.settings import RANKED
from gradprobe.store.results import key_of

TREE = Path(__file__).parents[2]
TABLES = ("table1_llava15", "table2_llavanext", "table3_qwen")


@pytest.mark.parametrize("name", TABLES)
def test_quoted_averages_are_those_of_the_quoted_scores(name):
    head, *rows = load_experiment(TREE / "experiments" / f"{name}.toml").paper
    checked = 0
    for row in rows:
        for printed_, scores in zip(row.get("retention", []), row.get("scores", []), strict=True):
            shares = [100 * a / b for a, b in zip(scores, head["unpruned"], strict=True) if a == a]
            assert np.mean(shares) == pytest.approx(printed_, abs=0.1), row["method"]
            checked += 1
    assert checked == {"table1_llava15": 21, "table2_llavanext": 6, "table3_qwen": 9}[name]
    (fastv,) = [row for row in rows if row["method"] == "FastV"]
    assert "Gumpest/SparseVLMs#12" in fastv["contested"]


@pytest.mark.parametrize("name", TABLES)
def test_shipped_presets_name_plans_as_answers_do_and_share_the_questions_of_table_5(name):
    experiment = load_experiment(TREE / "experiments" / f"{name}.toml")
    for op in {run.question["op"] for run in experiment.runs if run.question["op"].startswith(RANKED)}:
        assert plan_of(op.removeprefix(RANKED)).label == op.removeprefix(RANKED)
    ablation = {key_of(run.question) for run in load_experiment(TREE / "experiments" / "table5_ablation.toml").runs}
    shared = [run for run in experiment.runs if key_of(run.question) in ablation]
    trained = [run for run in experiment.runs if not run.question["op"].startswith(RANKED)]
    assert all(run in shared for run in trained) and {r.question["seed"] for r in trained} == {1, 2, 3, 4, 5}
    ranks = {run.question["op"] for run in shared} - {run.question["op"] for run in trained}
    assert ranks >= {f"{RANKED}{each}" for each in ("random", "norm", "mean-attention", "divprune", "zoo")}
    asked = {re.sub(r"[:,](keep|k)=[0-9.,]*[0-9]", "", run.question["op"]) for run in experiment.runs}
    named = []
    for row in experiment.paper[1:]:
        own = [row["op"]] if isinstance(row.get("op"), str) else row.get("op", [])
        assert asked & set(own) or row.get("rerun") is False, row["method"]  # every method that is implemented is asked
        named += own
    assert len(named) == len(set(named))
