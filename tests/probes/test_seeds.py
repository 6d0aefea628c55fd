"""Rows pooled over seeds: each number is the nested mean of the rows of its seeds, and nothing else changes."""

import json
from dataclasses import replace

import numpy as np
import pytest
from landscapes import bowl, landscape, rough
from retentions import retained
from stored import asked
from stored import result as coherence
from test_plotting_fidelity import rendered
from test_plotting_fidelity import result as fidelity

from gradprobe.errors import GradprobeError, UsageError
from gradprobe.probes import BUILT_IN, probe_of
from gradprobe.probes.retention import result as retention
from gradprobe.probes.seeds import Pooled, over_seeds, pools, row_of, table
from gradprobe.statistics.estimates import Estimate
from gradprobe.statistics.nested import nested

OURS, THEIRS = "lapsum+vpnoise", "gumbel-ste+gather"
FIVE = (1, 2, 3, 4, 5)


def coherences(op=OURS, signal=1.0, seeds=FIVE, gradient="yes", **fields):
    return [
        coherence(asked(op=op, seed=s, **fields), signal=signal * (1 + s / 10), seed=s, gradient=gradient)
        for s in seeds
    ]


def fidelities(op=OURS, cos=0.6, seeds=FIVE, fall=0.05):
    results = [fidelity(op, cos=cos + s / 50, seed=s, fall=fall + s / 500) for s in seeds]
    return [replace(r, question=r.question | {"seed": s}) for r, s in zip(results, seeds, strict=True)]


def landscapes(op=OURS, height=bowl, seeds=FIVE, **settings):
    return [
        landscape(lambda a, b, s=s: height(a, b) * (1 + s / 5), op=op, rows=1, seed=s, data="scenes", **settings)
        for s in seeds
    ]


MADE = {"coherence": coherences, "fidelity": fidelities, "landscape": landscapes}


@pytest.mark.parametrize("probe", MADE)
def test_every_number_is_the_nested_mean_of_its_seeds(probe):
    ours, theirs = MADE[probe](), MADE[probe](op=THEIRS)
    row = over_seeds(ours, theirs[::-1])
    rows = [a.row(baseline=b) for a, b in zip(ours, theirs, strict=True)]
    assert row["seeds"] == list(FIVE) and row["difference_seeds"] == 5 and row["op"] == OURS and "path" not in row
    checked = 0
    for number in probe_of(probe).part("compared").POOLED:
        if number.table or number.ends is None or number.name not in rows[0]:
            continue
        estimates = [Estimate(*(np.nan if r[n] is None else r[n] for n in (number.name, *number.ends))) for r in rows]
        mean = nested(estimates, number.scale, shared=probe == "fidelity", possible=number.possible)
        values = [np.nan if row[n] is None else row[n] for n in (number.name, *number.ends)]
        assert values == pytest.approx([mean.value, mean.low, mean.high], nan_ok=True), number.name
        assert row["by_seed"][number.name] == [r[number.name] for r in rows]
        checked += 1
    assert checked >= 4 or probe == "fidelity"
    assert json.loads(json.dumps(row, allow_nan=False)) == row


def test_every_declared_number_is_in_a_row_with_a_baseline():
    """A name that is misspelt would be pooled by nothing."""
    for probe, make in MADE.items():
        ours, theirs = make(seeds=(1,))[0], make(op=THEIRS, seeds=(1,))[0]
        if probe == "landscape":
            ours, theirs = (landscape(op=op, seed=1) for op in (OURS, THEIRS))
        row = ours.row(baseline=theirs)
        for number in probe_of(probe).part("compared").POOLED:
            if number.name.startswith("rounding"):
                continue
            tables = [row]
            for name in filter(None, number.table.split(".")):
                tables = [each for outer in tables for each in outer[name]]
            for field in (number.name, *(number.ends or ()), *filter(None, (number.uncut, number.reason))):
                assert all(field in each for each in tables), (probe, field)


def test_tables_in_a_row_are_pooled_line_by_line():
    row, rows = over_seeds(fidelities(), fidelities(op=THEIRS)), [r.row() for r in fidelities()]
    assert [at["sigma"] for at in row["sigmas"]] == [at["sigma"] for at in rows[0]["sigmas"]]
    for s, at in enumerate(row["sigmas"]):
        values = [r["sigmas"][s]["cosine"] for r in rows]
        assert at["by_seed"]["cosine"] == values and at["cosine"] == pytest.approx(np.mean(values))
        assert at["cosine_low"] < at["cosine"] < at["cosine_high"] <= 1 and at["cosine_uncut"] is None
        assert at["cosine_difference"] is not None and len(at["by_seed"]["cosine_difference"]) == 5
    for e, at in enumerate(row["ladder"]):
        assert at["step"] == rows[0]["ladder"][e]["step"]
        assert at["rate"] == pytest.approx(np.mean([r["ladder"][e]["rate"] for r in rows]))
        ceilings = [[c["rate"] for c in r["ladder"][e]["ceilings"]] for r in rows]
        assert [c["rate"] for c in at["ceilings"]] == pytest.approx(np.mean(ceilings, 0))


@pytest.mark.parametrize("probe", MADE)
def test_one_result_keeps_its_own_row(probe):
    (ours,), (theirs,) = MADE[probe](seeds=(3,)), MADE[probe](op=THEIRS, seeds=(3,))
    alone, row = ours.row(baseline=theirs), over_seeds([ours], [theirs])
    extra = {"seeds", "by_seed", "difference_seeds", "paths"}
    plain = {name: value for name, value in row.items() if name not in extra and name not in ("sigmas", "ladder")}
    assert plain == {name: alone[name] for name in plain} and row["seeds"] == [3]
    assert row_of([ours], [theirs], [], None) == alone
    assert row_of([ours], MADE[probe](op=THEIRS, seeds=(4,)), [], None) == ours.row()


@pytest.mark.parametrize("probe", MADE)
@pytest.mark.parametrize("count", [2, 4])
def test_fewer_than_five_seeds_have_values_and_no_interval(probe, count):
    row = over_seeds(MADE[probe](seeds=FIVE[:count]), MADE[probe](op=THEIRS, seeds=FIVE[:count]))
    cells = [metric.read(row) for metric in probe_of(probe).part("compared").METRICS]
    for cell in cells:
        assert cell["low"] is cell["high"] is cell["difference_low"] is None and len(cell["by_seed"]) == count
        assert (cell["verdict"], cell["seeds"]) == ("undecided", count) and cell["value"] is not None


def test_five_seeds_decide_and_say_so():
    row = over_seeds(coherences(), coherences(op=THEIRS, signal=0.2))
    cell = probe_of("coherence").part("compared").METRICS[0].read(row)
    assert (cell["verdict"], cell["seeds"]) == ("higher", 5) and cell["by_seed"] == row["by_seed"]["coherence"]


def test_differences_are_of_the_seeds_that_both_have():
    ours, theirs = coherences(), coherences(op=THEIRS, signal=0.5, seeds=(4, 5, 6))
    row = over_seeds(ours, theirs)
    pairs = [a.row(baseline=b)["difference"] for a, b in zip(ours[3:], theirs, strict=False)]
    assert row["difference_seeds"] == 2 and row["by_seed"]["difference"] == pairs
    assert row["difference"] == pytest.approx(np.mean(pairs)) and row["low"] is not None
    assert over_seeds(ours, theirs[2:])["difference"] is None


def test_an_undefined_seed_makes_a_number_undefined_and_is_counted():
    results = fidelities()
    results[1].aa[:, 0] *= 1e-9  # lost in the noise of draws
    at = over_seeds(results)["sigmas"][0]
    assert at["cosine"] is at["cosine_low"] is None and at["by_seed"]["cosine"][1] is None
    assert at["cosine_reason"].startswith("undefined: ") and at["cosine_reason"].endswith("(1 of 5 seeds)")
    assert at["cosine_ungated"] is not None


def test_cosines_beyond_one_are_pooled_before_they_are_cut():
    results = fidelities(cos=0.9)
    for i, factor in enumerate((2.0, 0.5, 0.6, 0.7, 0.8)):
        results[i].ab[0] *= factor
    at, rows = over_seeds(results)["sigmas"][0], [r.row()["sigmas"][0] for r in results]
    uncut = [at["cosine"] if at["cosine_uncut"] is None else at["cosine_uncut"] for at in rows]
    assert uncut[0] > 1 == rows[0]["cosine"]
    assert at["cosine"] == pytest.approx(np.mean(uncut)) and at["cosine_uncut"] is None and at["cosine_high"] <= 1
    for result in results:
        result.ab[0] *= 4
    at = over_seeds(results)["sigmas"][0]
    assert at["cosine"] == 1 < at["cosine_uncut"] and at["cosine_low"] < 1


def test_no_gradient_is_no_gradient_with_every_seed():
    row = over_seeds(coherences(op="hard+gather", gradient="none"), coherences())
    assert row["gradient"] == "none" and row["coherence"] is row["difference"] is None
    cell = probe_of("coherence").part("compared").METRICS[0].read(row)
    assert (cell["value"], cell["reason"]) == (None, "no gradient")


def test_images_that_seeds_share_widen_the_interval():
    own, shared = (over_seeds(coherences(data=data)) for data in ("scenes", "sha256:0123"))
    assert own["coherence"] == shared["coherence"]
    assert shared["high"] - shared["low"] > own["high"] - own["low"]


def test_a_ratio_over_seeds_is_geometric_and_undefined_beside_a_landscape_that_never_changes():
    row = over_seeds(landscapes(), landscapes(op=THEIRS, height=rough))
    ratios = row["by_seed"]["d2_ratio"]
    assert row["d2_ratio"] == pytest.approx(np.exp(np.mean(np.log(ratios)))) and 0 < row["d2_low"] < row["d2_high"]
    flat = landscapes(height=lambda a, b: 0 * a * b)
    for result in flat:
        result.losses[:] = result.losses[:, :1]
    assert over_seeds(flat)["d2_variation"] == 0 and over_seeds(flat)["d2_low"] is None


def test_retention_is_pooled_by_its_own_statistics():
    results, base = ([retained(20 + s, op=op, seed=s) for s in FIVE] for op in (OURS, THEIRS))
    assert over_seeds(results, base) == retention.over_seeds(results, base)


def test_what_cannot_be_pooled_is_refused():
    with pytest.raises(UsageError, match="one result a seed"):
        over_seeds([])
    with pytest.raises(GradprobeError, match="differ in more than their seeds"):
        over_seeds([*coherences(seeds=(1,)), *coherences(op=THEIRS, seeds=(2,))])
    with pytest.raises(GradprobeError, match="have a seed in common"):
        over_seeds(coherences(seeds=(1, 1)))
    from compared import cost

    with pytest.raises(
        UsageError, match="cost is not pooled over seeds; possible: coherence, landscape, fidelity, reten"
    ):
        over_seeds([cost(OURS)])
    assert [name for name in BUILT_IN if pools(probe_of(name))] == ["coherence", "landscape", "fidelity", "retention"]


def test_a_command_has_a_row_for_each_operator_and_setting_in_the_order_asked():
    every = [r for op in (THEIRS, OURS) for k in (29, 58) for r in coherences(op=op, seeds=(1, 2), k=k)]
    every = [replace(r, question=r.question | {"weights": f"random:{r.question['seed']}"}) for r in every]
    pooled = table(every, [None] * len(every), THEIRS)
    assert [(q["op"], q["k"]) for q, _ in pooled] == [(op, k) for op in (THEIRS, OURS) for k in (29, 58)]
    assert all("seed" not in question for question, _ in pooled)
    assert [row["difference_seeds"] for _, row in pooled] == [None, None, 2, 2]


@pytest.mark.parametrize("probe", MADE)
@pytest.mark.parametrize("count", [3, 5])
def test_tables_and_sentences_over_seeds_fit_80_columns_and_say_how_many(probe, count):
    seeds, view = FIVE[:count], probe_of(probe).part("view")
    bases = MADE[probe](op=THEIRS, seeds=seeds)
    rows = [over_seeds(bases), over_seeds(MADE[probe](seeds=seeds), bases)]
    text = rendered(view.table(rows))
    assert max(map(len, text.splitlines())) <= 80 and "…" not in text and "each seed" in text
    assert ("· (3 seeds)" in text) == (count == 3)
    told = " ".join([*view.lines(rows, THEIRS), view.meaning(rows)])
    assert "undecided, 3 seeds (5 decide)" in told if count == 3 else "over 5 seeds" in told
    assert ("no interval from fewer than 5" in told) == (count == 3)


@pytest.mark.parametrize("probe", ["coherence", "fidelity"])
@pytest.mark.parametrize("count", [2, 5])
def test_a_figure_of_pooled_rows_is_drawn_with_and_without_intervals(probe, count):
    results = MADE[probe](seeds=FIVE[:count])
    figure = probe_of(probe).part("figure")(results, [over_seeds(results)], "A model")
    figure.canvas.draw()
    assert figure.axes


def test_a_page_draws_the_lines_of_the_first_seed():
    results = [*landscapes(seeds=(4, 2)), *landscapes(op=THEIRS, height=rough, seeds=(4, 2))]
    figure = probe_of("landscape").part("compared").figure(results, [])
    words = " ".join(text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))
    assert "seed 4, the first of 2" in words and "seed 2" not in words


def test_a_number_has_no_interval_unless_it_is_declared():
    assert Pooled("grad_norm").ends is None
    row = over_seeds(coherences())
    assert row["grad_norm"] == pytest.approx(np.mean([r.row()["grad_norm"] for r in coherences()]))
    assert "grad_norm" not in row["by_seed"] and "grad_norm_low" not in row
