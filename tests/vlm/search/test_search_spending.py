"""The budget's polynomial is what torch counts, and whole counts spend a budget up to a token a layer."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from masked_layers import LAYERS, deep, noise_of, read
from tiny_vlms import ATTENDING, over

from gradprobe.errors import UsageError
from gradprobe.probes.cost.measure import counted
from gradprobe.selectors.random import Random
from gradprobe.view import Drop
from gradprobe.vlm.inside import dropping
from gradprobe.vlm.search.repair import repaired
from gradprobe.vlm.search.spending import Spending

SPENDING = Spending((500, 700, 700, 500, 600), 64, 40, 7)


@over(ATTENDING)
def test_equals_what_torch_counts_where_tokens_are_dropped(family):
    vlm = deep(family)
    sequence, last = read(vlm, [[0]])
    total = int((sequence.slot >= 0).sum())
    spending = Spending.of(vlm, total, sequence.slot.shape[1] - total)
    counts = [total, total - 2, total - 2, 3, 1]

    def flops(drops):
        language = vlm.family.language(vlm.model)
        inputs = {"attention_mask": sequence.attention_mask, "position_ids": sequence.positions}
        opened = dropping(vlm, sequence.slot, sequence.attention_mask, last, drops, noise_of(sequence))
        with torch.no_grad(), opened, counted() as counter:
            language(inputs_embeds=sequence.embeds, **inputs, use_cache=False)
        return counter.get_total_flops()

    drops = [Drop(layer, Random(), counts[layer]) for layer in (1, 3, 4)]
    whole = spending.flops([total] * LAYERS)
    assert flops([]) - flops(drops) == whole - spending.flops(counts) > 0
    assert flops([]) >= whole  # and a product of the rotation


@given(st.lists(st.integers(1, 40), min_size=4, max_size=4))
def test_shares_are_differentiable_in_the_counts(rest):
    counts = torch.tensor([40, *rest], dtype=torch.float64, requires_grad=True)
    assert SPENDING.share(counts).item() == pytest.approx(SPENDING.share([40, *rest]))
    assert torch.autograd.gradcheck(SPENDING.share, (counts,))
    assert SPENDING.share([0] * 5) == 0 and SPENDING.share([40] * 5) == 1


def test_budgets_that_no_schedule_has_are_refused():
    for wrong in (0, -1, 1.5, float("nan"), float("inf"), True):
        with pytest.raises(UsageError, match=r"share in \(0, 1\]"):
            SPENDING.check(wrong)
    with pytest.raises(UsageError, match=f"{SPENDING.least:.4f}"):
        SPENDING.check(SPENDING.least - 1e-6)
    SPENDING.check(SPENDING.least)
    SPENDING.check(1)


some_shares = st.sampled_from([0.0, 1e-6, 0.2, 0.2, 0.5, 0.9, 1.0]) | st.floats(0, 1)


@given(st.lists(some_shares, min_size=4, max_size=4), st.floats(SPENDING.least, 1))
def test_whole_counts_are_within_the_budget_and_no_run_could_read_a_token_more(shares, budget):
    shares = [1.0, *sorted(shares, reverse=True)]
    counts = repaired(shares, SPENDING, budget)
    if counts is None:
        ones = [40 if share > 1 - 1e-2 else 1 for share in shares]
        assert SPENDING.share(ones) > budget
        return
    assert counts[0] == 40 and min(counts) >= 1
    assert all(after <= before for before, after in pairwise(counts))
    assert SPENDING.share(counts) <= budget
    runs = [i for i in range(1, 5) if i == 1 or shares[i] != shares[i - 1]]
    for first, end in zip(runs, [*runs[1:], 5], strict=True):
        assert len(set(counts[first:end])) == 1
        larger = [*counts[:first], *(count + 1 for count in counts[first:end]), *counts[end:]]
        assert counts[first] == counts[first - 1] or SPENDING.share(larger) > budget


def test_a_budget_of_1_is_all_tokens_whatever_the_shares():
    assert repaired([1, 0.9, 0.5, 0.1, 0.01], SPENDING, 1.0) == (40,) * 5
