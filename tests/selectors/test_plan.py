"""Plans: what is typed, and the numbers of tokens that follow from it."""

import subprocess
import sys
from statistics import fmean

import pytest
from any_plans import models, possible, quick, replace_keep, texts, write_mine
from hypothesis import given
from hypothesis import strategies as st

from gradprobe.errors import UsageError
from gradprobe.selectors.plan import Counts, Plan, Stage, plan_of, split_plans
from gradprobe.selectors.pyramiddrop import PyramidDrop
from gradprobe.selectors.random import Random

# --- counts ---


@quick
@given(possible())
def test_counts_never_grow_end_in_k_and_have_the_mean_that_they_state(case):
    plan, (n, layers), k = case
    counts = plan.counts(n, layers, k)
    each = counts.layers
    assert len(each) == layers and counts.average == pytest.approx(fmean(each))
    assert list(each) == sorted(each, reverse=True) and n >= each[0] and each[-1] >= 1
    assert counts.last == each[-1] == (plan.stages[-1].keep if k is None else k)
    assert counts.outside == (n if plan.outside is None else plan.stages[0].keep or k)
    for stage, (layer, left) in zip(plan.inside, counts.inside, strict=True):
        assert layer == stage.layer and each[layer] == left and left == (stage.keep or left)
    falls = {layer for layer in range(1, layers) if each[layer] < each[layer - 1]}
    assert falls <= dict(counts.inside).keys() and (0 in dict(counts.inside) or each[0] == counts.outside)
    runs = [run.split(" x") for run in counts.text.split(", ")]
    assert [int(count) for count, length in runs for _ in range(int(length))] == list(each)


@quick
@given(possible(), st.floats(0.5, 600))
def test_an_average_has_the_nearest_budget_or_an_error_that_says_what_is_possible(case, average):
    plan, (n, layers), _ = case
    plan = Plan((*plan.stages[:-1], replace_keep(plan.stages[-1], None)))
    average = min(average, n)
    means = {}
    for k in range(1, n + 1):
        try:
            means[k] = plan.counts(n, layers, k).average
        except UsageError:  # more than the stage before leaves
            break
    near = [mean for mean in means.values() if mean - average <= 0.5]
    if not near:
        with pytest.raises(UsageError, match=f"the least is {means[1]:g}"):
            plan.counts(n, layers, average=average)
    elif average - max(means.values()) > 0.5:
        with pytest.raises(UsageError, match=f"the most is {max(means.values()):g}"):
            plan.counts(n, layers, average=average)
    else:
        counts = plan.counts(n, layers, average=average)
        assert abs(counts.average - average) == pytest.approx(min(abs(mean - average) for mean in near))
        assert counts == plan.counts(n, layers, counts.last)


@pytest.mark.parametrize(("average", "k"), [(192, 166), (128, 98), (64, 30)])
def test_fastv_at_layer_2_of_llava_has_the_budgets_of_the_field(average, k):
    counts = plan_of("fastv@2").counts(576, 32, average=average)
    assert counts.inside == ((2, k),) and counts.text == f"576 x2, {k} x30"
    assert plan_of("divprune").counts(576, 32, average=average) == Counts(average, (), (average,) * 32, float(average))


@quick
@given(models(), st.data())
def test_one_stage_inside_solves_the_budget_in_closed_form(model, data):
    n, layers = model
    layer = data.draw(st.integers(0, layers - 1))
    average = data.draw(st.integers(1, n))
    exact = (layers * average - layer * n) / (layers - layer)
    if exact >= 1 and exact % 1 != 0.5:
        assert plan_of(f"random@{layer}").counts(n, layers, average=average).last == round(exact)


def test_layers_of_one_method_go_down_in_equal_ratios():
    assert plan_of("pyramiddrop").counts(576, 32, k=72).text == "576 x8, 288 x8, 144 x8, 72 x8"
    assert plan_of("pyramiddrop:keep=0.5,0.25,0.125").counts(576, 32) == plan_of("pyramiddrop:k=72").counts(576, 32)
    assert plan_of("pyramiddrop").counts(100, 4, k=11).layers == (100, 48, 23, 11)  # 47.9 and 23.0
    mixed = plan_of("divprune:k=400;fastv@4,8:k=100;dart@10,20")
    assert mixed.counts(576, 32, k=4).inside == ((4, 200), (8, 100), (10, 20), (20, 4))


@quick
@given(st.integers(4, 200))
def test_layers_by_default_keep_their_order_in_any_model(layers):
    places = [stage.layer for stage in plan_of("fastv;pyramiddrop").at(layers + 1).inside]
    assert places == sorted(set(places)) and places[0] >= 1 and places[-1] <= layers
    if layers + 1 >= 32:  # so deep that none moves for another
        assert places == [round(layer * (layers + 1) / 32) for layer in (2, 8, 16, 24)]


def test_a_vit_has_stages_outside_only():
    counts = plan_of("norm").counts(196, None, k=20)
    assert counts == Counts(20, (), (), 20.0) and counts.text == "20"
    assert plan_of("norm").counts(196, None, average=20) == counts


# --- text ---


@quick
@given(texts())
def test_a_label_parses_back_to_the_same_plan(text):
    plan = plan_of(text)
    assert plan_of(plan.label) == plan
    assert plan_of(plan.label).label == plan.label
    assert plan_of(plan) == plan


@quick
@given(st.lists(texts().filter(lambda text: "," in text or len(text) < 12), min_size=1, max_size=6))
def test_a_list_of_plans_splits_at_the_plans(plans):
    assert split_plans(",".join(plans)) == plans
    assert split_plans(", ".join(plans)) == plans


@pytest.mark.parametrize(
    ("text", "plans"),
    [
        ("random,pyramiddrop@8,16,24:keep=0.5,0.25,0.125,fastv@2,zoo:draws=8,exact",
         ["random", "pyramiddrop@8,16,24:keep=0.5,0.25,0.125", "fastv@2", "zoo:draws=8,exact"]),
        ("divprune:k=3;fastv@8,16:keep=2,1,plans/a.json,my.py:Mine@3:width=2,norm",
         ["divprune:k=3;fastv@8,16:keep=2,1", "plans/a.json", "my.py:Mine@3:width=2", "norm"]),
        ("zoo:exact,fastvv@2,zooo:exact", ["zoo:exact", "fastvv@2", "zooo:exact"]),  # each is told by its own name
        ("norm,randm", ["norm", "randm"]),
    ],
)  # fmt: skip
def test_commas_within_a_plan_stay(text, plans):
    assert split_plans(text) == plans


def test_stages_are_what_was_typed(tmp_path):
    path, _ = write_mine(tmp_path)
    plan = plan_of(f"divprune:k=9;{path}:Mine@3:width=2,keep=0.25", positions="compact")
    (outside, inside) = plan.stages
    assert (outside.name, outside.layer, outside.keep) == ("divprune", None, 9)
    assert (inside.selector.width, inside.layer, inside.keep) == (2, 3, 0.25)
    assert plan.outside is outside and plan.inside == (inside,) and plan.positions == "compact"
    assert [stage.layer for stage in plan_of(f"{path}:Mine").at(16).inside] == [2, 10]  # its own two, of 32 layers
    assert plan_of(f"{path}:Mine").label == f"{path}:Mine"


def test_objects_and_classes_are_plans():
    assert plan_of(Random()) == plan_of(Random) == plan_of("random")
    assert plan_of(PyramidDrop()) == plan_of("pyramiddrop")
    assert plan_of(plan_of("random"), positions="compact") == plan_of("random", positions="compact")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has an empty stage"),
        ("divprune;", "has an empty stage"),
        ("@2", "has an empty stage"),
        ("rndom", "did you mean 'random'"),
        ("fastv@", "layers are whole numbers"),
        ("fastv@-1", "layers are whole numbers"),
        ("fastv@2.5", "layers are whole numbers"),
        ("pyramiddrop@8,8", "layers rise"),
        ("pyramiddrop@16,8", "layers rise"),
        ("fastv@8;dart@4", "dart at layer 4 comes after fastv at layer 8"),
        ("fastv@8;divprune", "divprune is asked outside the language model and comes after fastv@8"),
        ("divprune:k=9;norm:k=3", "one selector stands outside"),
        ("pyramiddrop@8,16,24:keep=0.5,0.25", "keep= has 2 numbers; give one for each of its 3 layers"),
        ("pyramiddrop:keep=0.5", "one for each of its 3 layers"),
        ("divprune:keep=0.5,0.25", "keep= has 2 numbers; give one"),
        ("divprune:k=0.5", "a share is keep=0.5"),
        ("divprune:k=9,keep=9", "both k= and keep="),
        ("divprune:keep=9,exact=1,keep=9", "keep= twice"),
        ("divprune:keep=half", "shares of all of them, keep=0.5; got 'half'"),
        ("divprune:keep=", "got ''"),
        ("divprune:keep=1.5", "cannot keep 1.5"),
        ("divprune:keep=0", "cannot keep 0"),
        ("divprune:keep=nan", "cannot keep nan"),
        ("divprune:wdth=3", "no field 'wdth'"),
        ("nowhere.py:Mine", "no such file"),
        ("nowhere.json", "there is no plan nowhere.json"),
    ],
)
def test_a_text_that_is_no_plan_says_what_can_be_typed(text, words):
    with pytest.raises(UsageError, match=words):
        plan_of(text)


@pytest.mark.parametrize(
    ("text", "model", "budget", "words"),
    [
        ("divprune", (576, 32), {}, "--k 64 or --average 64, or type divprune:k=64"),
        ("zoo:exact", (576, 32), {}, "type zoo:exact,k=64"),
        ("divprune", (576, 32), {"k": 577}, "--k 577 is not possible with 576 visual tokens"),
        ("divprune", (576, 32), {"k": 0}, "--k 0 is not possible"),
        ("divprune", (576, 32), {"k": 3, "average": 3}, "either --k 3"),
        ("divprune", (576, 32), {"average": 577}, "--average 577 is not possible with 576"),
        ("divprune", (576, 32), {"average": float("nan")}, "--average nan"),
        ("divprune", (576, 32), {"average": 0.2}, "in 32 layers: the least is 1; give at least that"),
        ("divprune:k=577", (576, 32), {}, "divprune:k=577 would keep 577 of the 576 tokens of the image"),
        ("fastv@2:k=3", (576, 32), {"k": 4}, "leaves 3 tokens, not 4"),
        ("fastv@2:k=166", (576, 32), {"average": 128}, "has 191.625 tokens a layer on average, not 128"),
        ("divprune:k=128;fastv@8:k=129", (576, 32), {}, "129 of the 128 tokens that divprune:k=128 leaves"),
        ("divprune:k=128;fastv@8", (576, 32), {"k": 129}, "129 of the 128 tokens"),
        ("divprune;fastv@8", (576, 32), {"k": 9}, r"needs a budget of its own, as in divprune:k=288;fastv@8"),
        ("divprune;fastv@8", (576, 32), {"average": 9}, "divprune is not the last stage"),
        ("fastv@2;dart@8", (576, 32), {"k": 9}, "fastv@2 is not the last stage"),
        ("fastv@32", (576, 32), {"k": 9}, "fastv@32 is not possible: this language model has layers 0 to 31"),
        ("fastv@9;pyramiddrop", (576, 32), {"k": 9}, "pyramiddrop at layer 8 comes after fastv at layer 9"),
        ("pyramiddrop", (576, 3), {"k": 9}, "3 layers after the first, .* has 3 in all; name fewer, as in "
         "pyramiddrop@1,2, or a selector outside"),
        ("pyramiddrop", (576, 1), {"k": 9}, "has 1 in all; name a selector outside"),
        ("fastv@2", (196, None), {"k": 9}, "there is no language model here"),
        ("fastv", (196, None), {"k": 9}, "there is no language model here"),
        ("fastv@2", (576, 32), {"average": 30}, "in 32 layers: the least is 36.9375; drop no later than fastv@1"),
        ("pyramiddrop", (576, 32), {"average": 64}, r"the least is 163.5; drop no later than pyramiddrop@3,6,9"),
        ("fastv@1", (576, 32), {"average": 9}, "or outside the language model"),
        ("divprune:k=100;fastv@2", (576, 32), {"average": 200}, "the most is 100"),
    ],
)  # fmt: skip
def test_counts_that_cannot_be_had_say_which_can(text, model, budget, words):
    with pytest.raises(UsageError, match=words):
        plan_of(text).counts(*model, **budget)


def test_layers_that_an_error_names_do_have_the_average():
    assert plan_of("pyramiddrop@3,6,9").counts(576, 32, average=64).average <= 64.5
    with pytest.raises(UsageError):
        plan_of("pyramiddrop@4,8,12").counts(576, 32, average=64)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: plan_of(3), "3 is no plan"),
        (lambda: Plan(()), "without a stage"),
        (lambda: Stage("divprune"), "is no selector"),
        (lambda: Stage(Random(), -1), "layers count from 0"),
        (lambda: Stage(Random(), None, True), "cannot keep True"),
        (lambda: Stage(PyramidDrop()), "asked inside the language model; name a layer: pyramiddrop@8"),
        (lambda: plan_of("random", positions="packed"), "--positions packed is not possible"),
    ],
)
def test_objects_that_are_no_plan_say_what_is_wrong(make, words):
    with pytest.raises(UsageError, match=words):
        make()


def test_plans_are_made_without_torch():
    code = (
        "import sys, gradprobe.selectors.plan as p; p.split_plans('norm,zoo:exact'); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
