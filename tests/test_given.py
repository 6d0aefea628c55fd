"""Operators and budgets as Python callers give them: the same answers as from names and K, and errors in one line."""

import functools
import json
from dataclasses import InitVar, dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from toy import Toy

import gradprobe as gp
from gradprobe.operators import registry
from gradprobe.probes.retention import RetentionSettings
from gradprobe.probes.retention.measure import ranked
from gradprobe.settings import asked

CALLS = {
    "coherence": lambda task, op, **budget: gp.coherence(task, op, **budget, batches=3, batch_size=2),
    "landscape": lambda task, op, **budget: gp.landscape(task, op, **budget, grid="3", images=2),
    "curvature": lambda task, op, **budget: gp.curvature(task, op, **budget, images=2, eigenvalues=1, samples=2),
    "equivalence": lambda task, op, **budget: gp.equivalence(task, op, **budget, images=4),
    "retention": lambda task, op, **budget: gp.retention(task, op, **budget, recipe=gp.Recipe(2, 4), images=4),
    "cost": lambda task, op, **budget: gp.cost(task, op, **budget, images=1, rounds=6),
    "fidelity": lambda task, op, **budget: gp.fidelity(task, op, small_reference(task, **budget)),
}


def small_reference(task, **budget):
    return gp.reference(task, **budget, draws=32, images=3, held_out=3)


@dataclass(frozen=True)
class SoftMask:
    """All tokens, each scaled by the sigmoid of its score."""

    slope: float = 4.0
    about = gp.About("x_i sigmoid(slope s_i)", "exact")

    def __call__(self, patches, scores, k, noise):
        weights = (self.slope * scores).sigmoid() if k < scores.shape[1] else torch.ones_like(scores)
        return gp.Selection(patches * weights[..., None], weights)


def soft_mask(patches, scores, k, noise):
    return SoftMask()(patches, scores, k, noise)


def half(scores, k, noise):
    return scores.sigmoid()


def throttle(patches, weights, k, noise):
    return gp.Selection(patches * weights[..., None], weights)


@pytest.mark.parametrize("probe", CALLS)
def test_a_name_and_a_share_ask_the_same_question_as_an_operator_and_k(probe):
    by_name, by_object = (
        CALLS[probe](Toy(), op, **budget)
        for op, budget in (("vpnoise", {"keep": 0.4}), (gp.build("vpnoise"), {"k": 4}))
    )
    assert by_name.question == by_object.question
    assert (by_name.question["k"], by_name.question["op"]) == (4, "lapsum+vpnoise")


@pytest.mark.parametrize("probe", CALLS)
def test_a_class_an_object_and_a_function_are_operators(probe):
    questions = [CALLS[probe](Toy(), op, k=4).question for op in (SoftMask, SoftMask(), soft_mask)]
    assert questions[0] == questions[1]
    assert [q["op"].rpartition(":")[2] for q in questions] == ["SoftMask", "SoftMask", "soft_mask"]


@pytest.mark.parametrize("probe", [*CALLS, "reference"])
@pytest.mark.parametrize(
    ("budget", "words"),
    [
        ({}, "give either --k"),
        ({"k": 4, "keep": 0.4}, "give either --k"),
        ({"keep": 0.0}, r"share in \(0, 1\]"),
        ({"keep": 1.5}, r"share in \(0, 1\]"),
        ({"keep": "0.3"}, r"share in \(0, 1\]"),
        ({"k": 0}, "k=0 asks for 0 of 10 tokens"),
        ({"k": 11}, "k=11 asks for 11 of 10 tokens"),
        ({"k": "4"}, "k='4' is not possible; give a whole number, 1 to 10"),
        ({"k": 4.0}, "k=4.0 is not possible"),
    ],
)
def test_exactly_one_possible_budget_is_taken(probe, budget, words):
    call = CALLS.get(probe, lambda task, op, **budget: gp.reference(task, **budget))
    with pytest.raises(gp.UsageError, match=words):
        call(Toy(), "vpnoise", **budget)


@pytest.mark.parametrize("probe", CALLS)
def test_numbers_of_numpy_are_numbers(probe):
    """A loop over ``np.arange`` or ``np.linspace`` gives them."""
    seed = {} if probe in ("cost", "fidelity", "retention") else {"seed": 3}  # which have it elsewhere, or none
    theirs = {name: np.int32(number) for name, number in seed.items()}
    for name, number, kind in (("k", 4, np.int64), ("keep", 0.5, np.float64), ("keep", 0.5, np.float32)):
        one = CALLS[probe](Toy(), "vpnoise", **{name: number}, **seed)
        other = CALLS[probe](Toy(), "vpnoise", **{name: kind(number)}, **theirs)
        assert json.dumps(one.question) == json.dumps(other.question)


def test_numbers_of_numpy_are_numbers_in_recipes_and_budgets():
    assert repr(gp.Recipe(np.int64(4), learning_rate=np.float64(0.5))) == repr(gp.Recipe(4, learning_rate=0.5))
    assert repr(gp.vlm.Budget(k=np.int64(4))) == repr(gp.vlm.Budget(k=4))


def test_fidelity_makes_the_reference_that_nobody_gave(monkeypatch):
    from gradprobe.probes.fidelity import measure as fidelity

    small = functools.partial(fidelity.FidelitySettings, draws=32, images=3, held_out=3)
    monkeypatch.setattr(fidelity, "FidelitySettings", small)
    made = gp.fidelity(Toy(), "vpnoise", keep=0.4)
    assert made.question == gp.fidelity(Toy(), "vpnoise", small_reference(Toy(), k=4)).question
    with pytest.raises(gp.UsageError, match="a reference says its K"):
        gp.fidelity(Toy(), "vpnoise", small_reference(Toy(), k=4), k=4)
    with pytest.raises(gp.UsageError, match=r"4 is no reference; .*k=58"):
        gp.fidelity(Toy(), "vpnoise", 4)


def test_retention_without_a_recipe_trains_as_the_command_does():
    question = gp.retention(Toy(), "vpnoise", k=4, images=4).question
    assert asked(RetentionSettings(images=4)).items() <= question.items()
    assert (question["steps"], question["batch_size"], question["tau_start"]) == (100, 32, 2.0)
    assert ranked(Toy(), "norm", keep=0.4, images=4).question["k"] == 4


@pytest.mark.parametrize(
    ("op", "words"),
    [
        ("vpnose", "did you mean 'vpnoise'"),
        (None, "cannot be called; give the name of an operator"),
        (58, "cannot be called; give the name of an operator"),
        (half, r"half is a relaxation alone; join it with a throttle: \S+half\+gather"),
        (throttle, r"throttle is a throttle alone; join it with a relaxation: lapsum\+"),
        (gp.build("vpnoise").relaxation, r"lapsum is a relaxation alone.*lapsum\+gather"),
        (type(gp.build("vpnoise").throttle), r"vpnoise is a throttle alone.*lapsum\+vpnoise"),
        (gp.Operator, "give every field that has no default"),
        (gp.About("x", "exact", source="y" * 100), "^a About cannot be called"),
        (lambda patches, scores, k: scores, r"cannot be called with .* the noise comes by that name"),
        (lambda patches, scores, k, generator: scores, r"cannot be called with .* the noise comes by that name"),
        (gp.classification, r"classification cannot be called with \(patches, scores, k, noise\)"),
    ],
)
def test_what_is_no_operator_is_one_line_that_says_what_to_give(op, words):
    for call in (gp.build, gp.check_operator, lambda op: gp.coherence(Toy(), op, k=4)):
        with pytest.raises(gp.UsageError, match=words) as caught:
            call(op)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: gp.coherence("scenes", "vpnoise", k=58), "'scenes' is no task; make one with gradprobe.classif"),
        (lambda: gp.coherence("vpnoise", Toy(), k=4), "a Toy cannot be called"),
        (lambda: gp.retention(Toy(), "vpnoise", k=4, recipe=5), r"recipe=5 is no recipe; give gradprobe.Recipe\("),
        (lambda: gp.landscape(Toy(), "vpnoise", k=4, grid=2), "--grid 2 has no steps to compare"),
        (lambda: gp.compare("vpnoise", k=58, budget="10m"), "budget='10m' is not possible; give seconds"),
        (lambda: gp.classification("scenes", scorer=torch.nn.Linear(2, 1)), "is not the name of a scorer"),
        (lambda: gp.classification("scenes", denoiser=3), "3 is not the name of a denoiser"),
        (lambda: gp.classification("scenes", data=5), "data=5 is not possible; give the path"),
        (
            lambda: gp.classification("scenes", seed="a"),
            "--seed 'a' is not possible; give a whole number of at least 0",
        ),
        (lambda: gp.classification("scenes", seed=-1), "--seed -1 is not possible; give a whole number of at least 0"),
        (lambda: gp.classification("scenes", seed=2**64), "--seed 18446744073709551616 is not possible"),
        (lambda: gp.equivalence(Toy(), "vpnoise", k=True), "k=True is not possible; give a whole number, 1 to"),
        (lambda: gp.classification("scenes", loss=None), "--loss None is not possible; Known: ce, kl"),
        (lambda: gp.classification("scenes", dtype=torch.float32), "did you mean 'float32'"),
        (lambda: gp.Backbone.of(5), "5 is no model; give a torch.nn.Module"),
        (lambda: gp.vlm.captioning(5), "5 is no name of a model"),
        (
            lambda: gp.coherence(Toy(), k=4),
            "coherence: missing a required argument: 'operator'; call it as",
        ),
        (lambda: gp.coherence(Toy(), "vpnoise", 4, None, 3), r"too many .*; call it as coherence\(task, operator"),
        (lambda: gp.coherence(Toy(), op="vpnoise", k=4), "takes no op=; .*Known: .*operator"),
    ],
)
def test_a_wrong_call_is_one_line(call, words):
    with pytest.raises(gp.UsageError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_an_operator_comes_back_as_it_was_given_and_is_found_by_its_name():
    op = SoftMask(2.0)
    assert gp.build(op) is op
    assert gp.build(soft_mask) is soft_mask
    assert gp.build(SoftMask) == SoftMask()
    assert gp.build(registry.label(op)) is op
    assert registry.label(op).endswith(":SoftMask:slope=2")
    joined = gp.Operator(half, gp.build("scale").throttle)
    assert gp.build(registry.label(gp.build(joined))) is joined
    assert gp.build("vpnoise") == gp.build(gp.build("vpnoise"))


def test_a_name_of_a_file_is_looked_up_where_the_user_is_now(tmp_path, monkeypatch):
    """A probe that was given a name leaves nothing behind that stands for the same name elsewhere."""
    for slope in (1, 2):
        (tmp_path / str(slope)).mkdir()
        code = f"from test_given import SoftMask\n\n\nclass Mine(SoftMask):\n    by = {slope}\n"
        (tmp_path / str(slope) / "mine.py").write_text(code)
        monkeypatch.chdir(tmp_path / str(slope))
        gp.coherence(Toy(), "mine.py:Mine", k=4, batches=3, batch_size=2)
        assert gp.build("mine.py:Mine").by == slope


def test_check_takes_a_class_and_a_function():
    gp.check_operator(SoftMask)
    gp.check_operator(soft_mask)


CALL = "    def __call__(self, patches, scores, k, noise):\n        return scores * {}\n"


class Plain:
    """An operator whose setting is no part of its name."""

    def __init__(self, slope):
        self.slope = slope

    def __call__(self, patches, scores, k, noise):
        return SoftMask(self.slope)(patches, scores, k, noise)


def closing(slope):
    def act(patches, scores, k, noise):
        return SoftMask(slope)(patches, scores, k, noise)

    return act


def local(slope):
    class Local:
        def __call__(self, patches, scores, k, noise):
            return SoftMask(slope)(patches, scores, k, noise)

    return Local()


def partly(slope):
    return functools.partial(with_slope, slope=slope)


def with_slope(patches, scores, k, noise, slope):
    return SoftMask(slope)(patches, scores, k, noise)


@pytest.mark.parametrize("make", [Plain, closing, local, partly])
def test_settings_that_are_not_in_the_name_are_in_the_question(make):
    """So an answer of one never stands for the other's."""
    one, same, other = (gp.coherence(Toy(), make(x), k=4, batches=3, batch_size=2).question for x in (1.0, 1.0, 5.0))
    assert one == same
    assert one != other


def test_two_lambdas_are_two_questions():
    first, second = (
        lambda patches, scores, k, noise: SoftMask(1.0)(patches, scores, k, noise),
        lambda patches, scores, k, noise: SoftMask(5.0)(patches, scores, k, noise),
    )
    assert registry.code_of(first) != registry.code_of(second)


CELLS = {
    "a default of a field": "@dataclass(frozen=True)\nclass Op:\n    slope: float = {0}\n" + CALL.format("self.slope"),
    "a class attribute": "class Op:\n    slope = {0}\n" + CALL.format("self.slope"),
    "a static method": "class Op:\n    @staticmethod\n    def f(x):\n        return x * {0}\n"
    + CALL.format("self.f(1)"),
    "a property": "class Op:\n    @property\n    def f(self):\n        return {0}\n" + CALL.format("self.f"),
    "a default": "def Op(patches, scores, k, noise, slope={0}):\n    return scores * slope",
    "a default by name": "def Op(patches, scores, k, noise, *, slope={0}):\n    return scores * slope",
    "a lambda's default": "Op = lambda patches, scores, k, noise, slope={0}: scores * slope",
    "a constant of the notebook": "SLOPE = {0}\ndef Op(patches, scores, k, noise):\n    return scores * SLOPE",
    "a tensor of the notebook": "T = torch.tensor({0})\ndef Op(patches, scores, k, noise):\n    return scores * T",
    "a function of the notebook": "def f():\n    return {0}\ndef Op(patches, scores, k, noise):\n    return f()",
    "a function of a function": "def g():\n    return {0}\ndef f():\n    return g()\n"
    "def Op(patches, scores, k, noise):\n    return [f() for _ in scores]",
    "a class of the notebook": "class F:\n    by = {0}\ndef Op(patches, scores, k, noise):\n    return F.by",
    "functions that call each other": "def f(n):\n    return g(n)\ndef g(n):\n    return f(n) * {0}\n"
    "def Op(patches, scores, k, noise):\n    return f(3)",
    "what is no field": "@dataclass\nclass Op:\n    a: InitVar[float] = 0.0\n    def __post_init__(self, a):\n"
    "        self.b = {0}\n" + CALL.format("self.b"),
    "a slot": "class Op:\n    __slots__ = ('b',)\n    def __init__(self):\n        self.b = float('{0}')\n"
    + CALL.format("self.b"),
    "a parameter": "class Op(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n"
    "        self.p = torch.nn.Parameter(torch.tensor(float('{0}')))\n" + CALL.format("self.p"),
}


def in_notebook(cell):
    """Return the operator of a cell as a kernel that has just been started has it."""
    space = {"__name__": "a_notebook", "torch": torch, "dataclass": dataclass, "InitVar": InitVar}
    exec(compile(cell, "<cell>", "exec"), space)
    return space["Op"]() if isinstance(space["Op"], type) else space["Op"]


@pytest.mark.parametrize("what", CELLS)
def test_a_cell_that_is_changed_makes_its_answers_stale_and_one_that_is_run_again_does_not(what):
    one, same, other = (registry.code_of(in_notebook(CELLS[what].replace("{0}", x))) for x in ("4.0", "4.0", "8.0"))
    assert one == same != other


def test_what_is_cached_or_counted_leaves_the_key_as_it_was():
    counting = "COUNT = []\ndef Op(patches, scores, k, noise):\n    COUNT.append(1)\n    return scores"
    caching = "import functools\nclass Op:\n    @functools.cached_property\n    def f(self):\n        return 3\n"
    for cell in (counting, caching + CALL.format("self.f")):
        op = in_notebook(cell)
        before = registry.code_of(op)
        op(1, 2, 3, 4)
        assert registry.code_of(op) == before


def test_an_operator_typed_at_a_prompt_is_measured():
    space = {"gp": gp, "torch": torch, "__name__": "__main__"}
    source = Path(__file__).read_text(encoding="utf-8")
    body = source[source.index("class Plain:") : source.index("def closing(")]
    exec(compile(body, "<stdin>", "exec"), space | {"SoftMask": SoftMask}, space)
    found = gp.coherence(Toy(), space["Plain"](2.0), k=4, batches=3, batch_size=2).question
    assert found["op"] == "__main__:Plain"
    assert len(found["op_code"]) == 16


def test_compare_takes_one_operator_objects_and_a_share(tmp_path, monkeypatch):
    from compared_sizes import shrink

    shrink(monkeypatch)
    found = gp.compare(SoftMask(2.0), keep=0.3, baselines="none", size="tiny", results=tmp_path, workers=1)
    assert found.settings["k"] == 59
    assert found.focus.endswith(":SoftMask:slope=2")
    assert set(found.results) == {"coherence", "landscape", "fidelity", "equivalence", "retention", "cost"}
    assert not [told for told in found.missing if "class-attention" not in told]


def test_compare_refuses_what_it_cannot_tell_apart_or_open():
    with pytest.raises(gp.UsageError, match=r"two operators are called .*Plain; make it a frozen dataclass"):
        gp.compare([Plain(1.0), Plain(2.0)], k=58)
    with pytest.raises(gp.UsageError, match="give either --k"):
        gp.compare("vpnoise")
    with pytest.raises(gp.UsageError, match="opens its model by name"):
        gp.compare("vpnoise", k=58, backbone=torch.nn.Linear(2, 2))
