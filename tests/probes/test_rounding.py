"""The cost of bfloat16 is measured against float32, stored with the answer, and told."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from probe_contract import small
from toy import Toy

import gradprobe as gp
from gradprobe.core import Noise
from gradprobe.operators import registry
from gradprobe.probes import probe_of
from gradprobe.probes.contract import Resources, Subject
from gradprobe.probes.curvature import hessian
from gradprobe.probes.gradients import score_gradient
from gradprobe.probes.rounding import in_float32, rounding_of
from gradprobe.store.results import Store

RESULTS = Path(__file__).parents[2] / "results"
SIZES = {"curvature": {"images": 1, "eigenvalues": 1, "samples": 2, "tolerance": 0.1}, "fidelity": {"images": 3}}


@pytest.fixture(scope="module")
def scenes():
    """The scenes behind a layer, with a small scorer, by precision."""
    return {
        dtype: gp.classification("scenes", layer=2, scorer="mlp:width=8", dtype=dtype)
        for dtype in ("float32", "bfloat16")
    }


def measured(probe, task, operator="vpnoise"):
    declared = probe_of(probe)
    return declared.part("measure")(
        Subject(task, registry.build(operator), 58), small(declared, **SIZES[probe]), Resources(workers=1)
    )


@pytest.mark.parametrize("spec", ["vpnoise", "gumbel", "hard"])
def test_errors_are_relative_to_the_same_gradient_without_autocast(scenes, spec):
    task, operator = scenes["bfloat16"], registry.build(spec)
    (batch,) = task.batches(1, 4, 0)
    scores, noise = task.scorer(batch.tokens.patches).detach(), Noise(0, batch.ids)
    errors = rounding_of(Subject(task, operator, 58), batch, scores, noise)
    exact = replace(task, backbone=replace(task.backbone, autocast=False))
    rough, fine = (score_gradient(t, operator, 58, batch, scores, noise, spec) for t in (task, exact))
    wanted = {"images": 4, "loss": float((rough.losses - fine.losses).norm() / fine.losses.norm())}
    if spec != "hard":
        wanted["gradient"] = float((rough.u - fine.u).norm() / fine.u.norm())
    assert errors == pytest.approx(wanted, rel=1e-5)
    assert all(1e-5 < error < 0.2 for name, error in errors.items() if name != "images")


def test_a_task_without_autocast_has_no_such_errors(scenes):
    for task in (scenes["float32"], Toy()):
        assert in_float32(task) is None
        (batch,) = task.batches(1, 2, 0)
        scores = task.scorer(batch.tokens.patches).detach()
        assert rounding_of(Subject(task, registry.build("scale"), 4), batch, scores, Noise(0, batch.ids)) == {}


@pytest.mark.parametrize("probe", ["curvature", "fidelity"])
def test_a_probe_states_them_in_its_row_and_in_a_sentence(scenes, probe, tmp_path):
    view = probe_of(probe).part("view")
    result = measured(probe, scenes["bfloat16"])
    row = result.row()
    names = ["images", "loss", "gradient", *(["hessian"] if probe == "curvature" else [])]
    assert [name for name in row if name.startswith("rounding")] == [f"rounding_{name}" for name in names]
    assert row["rounding_images"] == SIZES[probe]["images"]
    assert all(0 < row[f"rounding_{name}"] < 0.1 for name in names[1:])
    (sentence,) = [line for line in view.lines([row], None) if "bfloat16" in line]
    assert f"{100 * row['rounding_gradient']:.2g} %" in sentence and "float32" in sentence
    store = Store(tmp_path)
    assert store.load(store.save(result)).row() == row
    plain = measured(probe, scenes["float32"]).row()
    assert set(row) - set(plain) == {f"rounding_{name}" for name in names}
    assert not any("bfloat16" in line for line in view.lines([plain], None))


def test_curvature_in_bfloat16_is_near_that_in_float32(scenes):
    rough, fine = (measured("curvature", scenes[dtype]) for dtype in ("bfloat16", "float32"))
    assert rough.reason == fine.reason == ""
    assert rough.eigenvalues == pytest.approx(fine.eigenvalues, rel=0.1)
    assert rough.checks["hessian_error"] == pytest.approx(fine.checks["hessian_error"], rel=0.2, abs=1e-4)


def test_there_is_no_hessian_in_bfloat16_where_its_products_are_too_coarse(scenes, monkeypatch):
    monkeypatch.setitem(hessian.AGREE, torch.float32, 1e-6)
    result = measured("curvature", scenes["bfloat16"])
    assert result.reason.startswith("bfloat16 is too coarse for it: products with it are off by")
    assert "give float32" in result.reason and len(result.eigenvalues) == 0
    assert 1e-6 < result.row()["rounding_hessian"] < 0.1
    assert "surrogate" in measured("curvature", scenes["bfloat16"], "gumbel").reason


@pytest.mark.parametrize("probe", ["curvature", "fidelity"])
def test_answers_that_were_stored_without_them_load_and_have_none(probe):
    store = Store(RESULTS)
    paths = [path for label, path in store.paths().items() if label.startswith(f"{probe}/")]
    assert paths
    for path in paths[:3]:
        result = store.load(path)
        assert result.rounding == {} and not any(name.startswith("rounding") for name in result.row())
