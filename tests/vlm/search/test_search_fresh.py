"""The probe ``schedule``: fresh images choose nothing, the grid's answer is the best, stopped answers go on."""

from dataclasses import replace
from itertools import combinations_with_replacement

import numpy as np
import pytest
from probe_contract import check_same
from searched import shared, task

from gradprobe.errors import UsageError
from gradprobe.operators.registry import build
from gradprobe.probes import names, probe_of
from gradprobe.probes.ask import ask
from gradprobe.probes.contract import Ranking, Resources, Subject, question_of
from gradprobe.settings import settings_from
from gradprobe.store.results import Store
from gradprobe.vlm.schedule import GRID, PROBE, ScheduleSettings
from gradprobe.vlm.schedule import measure as measuring
from gradprobe.vlm.schedule.measure import fresh, measure, search_of
from gradprobe.vlm.search.deployed import deployed

FEW = ScheduleSettings(kernel="free", budget=0.6, outer=2, inner=2, batch_size=3, validation=4, images=3)


class Stopped(Exception):
    pass


@pytest.fixture(scope="module")
def subject():
    return Subject(task(count=16, held_out=8), Ranking("fastv"), shared().n_tokens)


@pytest.fixture(autouse=True)
def nothing_remembered(monkeypatch):
    monkeypatch.setattr(measuring, "_measured", type(measuring._measured)())


def test_fresh_images_neither_are_searched_with_nor_choose(subject):
    asked = search_of(subject, FEW)
    judging = {i for group in fresh(asked, FEW.images) for i in group.ids}
    choosing = {i for group in asked.groups for i in group.ids}
    searching = {i for step in range(FEW.inner) for i in asked.training(step).ids}
    assert len(judging) == FEW.images and len(choosing) == FEW.validation and len(searching) > 0
    assert not judging & choosing and not judging & searching and not choosing & searching


def test_the_same_for_the_pictures_of_an_embedded_model():
    from gradprobe.vlm.picture_source import PictureSource

    source = PictureSource(on_photos=True)
    choosing, judging = source.probe(0, 8, 3), source.probe(8, 8, 3)
    searching = source.train(0, 8, 3)
    ids = [{each.id for each in some} for some in (choosing, judging, searching)]
    assert len(set.union(*ids)) == 24


def test_fresh_images_are_the_same_for_all_kernels_budgets_and_selectors(subject):
    each = [
        fresh(search_of(replace(subject, operator=Ranking(name)), replace(FEW, kernel=kernel, budget=budget)), 3)
        for name in ("fastv", "pyramiddrop") for kernel in ("step", GRID) for budget in (0.5, 0.8)
    ]  # fmt: skip
    assert len({tuple(i for group in groups for i in group.ids) for groups in each}) == 1


@pytest.mark.parametrize("kernel", ["step", "free", GRID])
def test_the_answer_is_the_deployed_loss_of_the_schedule_within_its_budget(kernel, subject):
    settings = replace(FEW, kernel=kernel)
    result, asked = measure(subject, settings, Resources()), search_of(subject, settings)
    counts = tuple(result.counts.tolist())
    again = deployed(subject.task, asked.selector, counts, fresh(asked, FEW.images), 0)
    assert result.losses.astype(float).mean() == pytest.approx(again.loss, rel=1e-6)
    assert len(result.right) == (0 if again.right is None else FEW.images) and result.right.sum() == (again.right or 0)
    assert result.chosen_loss == deployed(subject.task, asked.selector, counts, asked.groups, 0).loss
    assert result.share == asked.spending.share(counts) <= FEW.budget
    whole = deployed(subject.task, asked.selector, (asked.spending.tokens,) * 4, fresh(asked, FEW.images), 0)
    assert result.whole_losses.astype(float).mean() == pytest.approx(whole.loss, rel=1e-6)
    assert len(result.violations) == (0 if kernel == GRID else FEW.outer)


def test_the_grid_is_the_best_of_all_its_schedules(subject):
    """By brute force over all non-increasing schedules of N and 50, 25, 11 and 3 % of it."""
    result, asked = measure(subject, replace(FEW, kernel=GRID), Resources()), search_of(subject, FEW)
    n = asked.spending.tokens
    counts = sorted({max(1, round(share * n)) for share in (1, 0.5, 0.25, 0.11, 0.03)}, reverse=True)
    every = [(n, *rest) for rest in combinations_with_replacement(counts, 3)]
    fitting = [each for each in every if asked.spending.share(each) <= FEW.budget]
    losses = {each: deployed(subject.task, asked.selector, each, asked.groups, 0).loss for each in fitting}
    assert tuple(result.counts.tolist()) == min(losses, key=losses.get)
    assert dict(zip(map(tuple, result.grid.tolist()), result.grid_losses, strict=True)) == losses


def test_budgets_share_the_schedules_that_were_measured(subject, monkeypatch):
    measured, settings = [], replace(FEW, kernel=GRID)
    whole = [measure(subject, replace(settings, budget=budget), Resources()) for budget in (0.5, 0.7)]
    monkeypatch.setattr(measuring, "_measured", type(measuring._measured)())
    from gradprobe.vlm.search import grid

    monkeypatch.setattr(grid, "deployed", lambda *args: measured.append(args[2]) or deployed(*args))
    for budget, other in zip((0.7, 0.5), whole[::-1], strict=True):
        check_same(measure(subject, replace(settings, budget=budget), Resources()), other)
    assert len(measured) == len(set(measured)) == len(whole[1].grid) > len(whole[0].grid)


@pytest.mark.parametrize("kernel", ["free", GRID])
def test_a_stopped_answer_goes_on_to_the_same_bytes(kernel, subject, tmp_path, monkeypatch):
    settings, calls = replace(FEW, kernel=kernel), []
    whole = measure(subject, settings, Resources())
    monkeypatch.setattr(measuring, "_measured", type(measuring._measured)())

    def stop(description, done, total):
        calls.append(done)
        if len(calls) == 4:
            raise Stopped

    stores = [Store(tmp_path)]
    with pytest.raises(Stopped):
        ask(PROBE, subject, settings, stores, Resources(progress=stop))
    monkeypatch.setattr(measuring, "_measured", type(measuring._measured)())
    answer = ask(PROBE, subject, settings, stores)
    check_same(answer.result, whole)
    assert Store(tmp_path).load(answer.path).row() == answer.result.row()
    assert not ask(PROBE, subject, settings, stores).computed


@pytest.mark.parametrize("kernel", ["step", "steps:m=2", GRID])
def test_a_question_comes_back_from_its_settings(kernel, subject):
    settings = replace(FEW, kernel=kernel)
    question = question_of(PROBE, subject, settings)
    assert question_of(PROBE, subject, settings_from(ScheduleSettings, question)) == question
    assert question["op"] == "ranked:fastv" and "scorer" not in question
    assert ("outer" in question) is (kernel != GRID)


def test_what_is_not_possible_is_refused(subject):
    assert "schedule" in names() and probe_of("schedule") is PROBE
    for change, words in (
        ({"kernel": "steps:m=4"}, "steps:m=3"), ({"budget": 0.01}, "layer 0 reads all"), ({"budget": 1.5}, "share in"),
        ({"images": 5}, "such as 4 images"), ({"outer": 0}, "--outer 0"), ({"constraint": "none"}, "at-most"),
        ({"softness": 2.0}, "2.0|not possible"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=words):
            measure(subject, replace(FEW, **change), Resources())
    for other, words in (
        (replace(subject, operator=build("vpnoise")), "no selector inside"),
        (replace(subject, operator=Ranking("fastv@1")), "selector alone"),
        (replace(subject, k=2), "layer 0 reads all"),
    ):
        with pytest.raises(UsageError, match=words):
            measure(other, FEW, Resources())


def test_it_draws_itself(subject):
    result = measure(subject, replace(FEW, kernel=GRID), Resources())
    figure = result.plot()
    assert len(figure.axes) == 2 and "free" not in repr(result)
    assert np.isfinite(result.row()["loss"])
