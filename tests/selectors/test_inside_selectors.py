"""Selectors inside a language model against plain loops; exact K, equivariance, and a batch as its rows alone."""

import math
from dataclasses import dataclass, replace
from decimal import Decimal

import pytest
import torch
from torch import Tensor

from gradprobe.core import Noise
from gradprobe.errors import UsageError
from gradprobe.selectors.dart import DART
from gradprobe.selectors.fastv import FastV
from gradprobe.selectors.pyramiddrop import PyramidDrop
from gradprobe.selectors.sparsevlm import SparseVLM, merged_by_density, raters
from gradprobe.view import Unavailable, View, Words

M, D = 23, 6
SELECTORS = [
    FastV(),
    PyramidDrop(),
    SparseVLM(),
    SparseVLM(recycled=1, members=2),
    SparseVLM(recycled=0),
    DART(),
    DART(2, 9),
]
each_selector = pytest.mark.parametrize("selector", SELECTORS, ids=repr)


@dataclass(frozen=True, eq=False)
class Given:
    """States inside a language model, as numbers."""

    hidden: Tensor
    keys: Tensor
    words: Words
    word_keys: Tensor
    first: Tensor
    first_words: Words
    behind: Tensor
    heads: Tensor  # attention of each word and of the last token, in the layer before and in this one (B, 2, T + 1, M)
    layer: int = 2

    def attention(self, rows="last", layer=-1):
        table = self.heads[:, layer + 1]
        if isinstance(rows, str):
            return table[:, -1]
        weight = rows.to(table) / rows.sum(1, keepdim=True).clamp(min=1)
        return (table[:, :-1] * weight[..., None]).sum(1)


def given(b=3, m=M, t=9, seed=0) -> Given:
    """Row 0 has t words, the others one less each; the first two stand before the image."""
    g = torch.Generator().manual_seed(seed)
    mask = torch.arange(t) < t - torch.arange(b)[:, None]
    behind = mask & (torch.arange(t) >= 2)
    draw = lambda *shape: torch.randn(*shape, generator=g)  # noqa: E731
    words, first = Words(draw(b, t, D), mask), Words(draw(b, t, D), mask)
    heads = draw(b, 2, t + 1, m).softmax(-1)
    return Given(draw(b, m, D), draw(b, m, 4), words, draw(b, t, 4), draw(b, m, D), first, behind, heads)


def row_of(place: Given, row: int) -> Given:
    cut = {name: value[row : row + 1] for name, value in vars(place).items() if isinstance(value, Tensor)}
    both = {
        name: Words(*(x[row : row + 1] for x in vars(getattr(place, name)).values()))
        for name in ("words", "first_words")
    }
    return replace(place, **cut, **both)


def view_of(place: Given) -> View:
    return View(Noise(0, range(len(place.hidden))), None, place=place)


@each_selector
@pytest.mark.parametrize("k", [1, 2, 3, 11, M - 1, M])
def test_k_is_exact_and_ascending(selector, k):
    kept = selector(view_of(given()), k)
    assert kept.index.shape == (3, k)
    assert (kept.index[:, 1:] > kept.index[:, :-1]).all() and kept.index.min() >= 0 and kept.index.max() < M
    if kept.tokens is not None:
        assert kept.tokens.shape == (3, k, D) and kept.tokens.isfinite().all()


@each_selector
@pytest.mark.parametrize("m", [1, 2])
def test_one_and_two_tokens(selector, m):
    for k in range(1, m + 1):
        assert selector(view_of(given(m=m)), k).index.shape == (3, k)


@each_selector
def test_k_equal_to_n_keeps_all_as_they_are(selector):
    kept = selector(view_of(given()), M)
    assert kept.index.tolist() == [list(range(M))] * 3 and kept.tokens is None


@each_selector
@pytest.mark.parametrize("k", [2, 11])
def test_permuted_tokens_give_the_permuted_choice(selector, k):
    place = given()
    turn = torch.randperm(M, generator=torch.Generator().manual_seed(1))
    turned = replace(place, hidden=place.hidden[:, turn], keys=place.keys[:, turn], heads=place.heads[..., turn])
    kept, other = selector(view_of(place), k), selector(view_of(turned), k)
    index, order = turn[other.index].sort(1)
    assert torch.equal(index, kept.index)
    if kept.tokens is not None:
        tokens = other.tokens.gather(1, order[..., None].expand_as(other.tokens))
        torch.testing.assert_close(tokens, kept.tokens)


@each_selector
@pytest.mark.parametrize("k", [2, 11, 20])
def test_a_row_in_a_batch_is_the_row_alone(selector, k):
    place = given()
    together = selector(view_of(place), k)
    for row in range(3):
        alone = selector(view_of(row_of(place, row)), k)
        assert torch.equal(alone.index[0], together.index[row])
        if together.tokens is not None:
            torch.testing.assert_close(alone.tokens[0], together.tokens[row])


@each_selector
def test_words_that_are_padding_do_not_matter(selector):
    place = given()
    noisy = lambda words: Words(torch.where(words.mask[..., None], words.states, 99.0), words.mask)  # noqa: E731
    other = replace(place, words=noisy(place.words), first_words=noisy(place.first_words))
    other = replace(other, word_keys=torch.where(place.words.mask[..., None], place.word_keys, 99.0))
    assert torch.equal(selector(view_of(other), 7).index, selector(view_of(place), 7).index)


@each_selector
def test_constant_states_and_inputs_that_stay(selector):
    place = given()
    before = {name: value.clone() for name, value in vars(place).items() if isinstance(value, Tensor)}
    selector(view_of(place), 5)
    assert all(torch.equal(getattr(place, name), value) for name, value in before.items())
    flat = replace(place, hidden=torch.ones(3, M, D), keys=torch.ones(3, M, 4), heads=torch.full_like(place.heads, 0.1))
    kept = selector(view_of(flat), 5)
    assert kept.index.shape == (3, 5)
    assert kept.tokens is None or torch.equal(kept.tokens, torch.ones(3, 5, D))


@each_selector
def test_outside_a_language_model_it_says_where_to_ask(selector):
    with pytest.raises(Unavailable, match="fastv@2"):
        selector(View(Noise(0, (0,)), torch.zeros(1, 5, 2)), 2)


def test_fastv_reads_the_layer_before_and_pyramiddrop_the_one_to_come():
    place = given()
    for selector, layer in ((FastV(), 0), (PyramidDrop(), 1)):
        wanted = place.heads[:, layer, -1].topk(5).indices.sort(1).values
        assert torch.equal(selector(view_of(place), 5).index, wanted)
        assert torch.equal(selector.scores(view_of(place)), place.heads[:, layer, -1])


def test_raters_are_the_words_that_fit_better_than_the_average():
    place = given()
    found = raters(place)
    for row in range(3):
        behind = [t for t in range(9) if place.behind[row, t]]
        fit = dict.fromkeys(behind, 0.0)
        for x in place.first[row]:
            exps = {t: math.exp(float(x @ place.first_words.states[row, t])) for t in behind}
            for t in behind:
                fit[t] += exps[t] / sum(exps.values()) / M
        mean = sum(fit.values()) / len(fit)
        assert found[row].nonzero()[:, 0].tolist() == [t for t in behind if fit[t] > mean]
        assert 0 < int(found[row].sum()) < len(behind)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_raters_of_half_precision_are_those_of_the_same_numbers_in_float32(dtype):
    """Products of states of some hundreds overflow float16, and all words would rate."""
    place = given(b=8, t=20)
    fine = [(150 * x).to(dtype).float() for x in (place.first, place.first_words.states)]
    coarse = [x.to(dtype) for x in fine]
    found = [
        raters(replace(place, first=first, first_words=replace(place.first_words, states=states)))
        for first, states in (fine, coarse)
    ]
    assert torch.equal(*found)


def test_words_that_fit_alike_all_rate_and_without_words_the_last_token_does():
    place = given()
    alike = replace(place, first=torch.zeros(3, M, D))
    assert torch.equal(raters(alike), place.behind)
    none = replace(place, behind=torch.zeros_like(place.behind))
    kept = SparseVLM(recycled=0)(view_of(none), 5)
    assert torch.equal(kept.index, place.heads[:, 1, -1].topk(5).indices.sort(1).values)
    some = replace(place, behind=place.behind & (torch.arange(3) != 1)[:, None])
    mixed = SparseVLM(recycled=0)(view_of(some), 5).index
    assert torch.equal(mixed[1], kept.index[1])
    assert torch.equal(mixed[0], SparseVLM(recycled=0)(view_of(place), 5).index[0])


def density_peaks(x, count):
    """Centres and means of one row of tokens, written out."""
    n = len(x)
    d = [[float((a - b).norm()) / len(a) ** 0.5 for b in x] for a in x]
    rho = [Decimal(-sum(sorted(v * v for v in d[i])[:count]) / count).exp() for i in range(n)]
    score = []
    for i in range(n):
        denser = [j for j in range(n) if rho[j] > rho[i] or (rho[j] == rho[i] and j < i)]
        delta = min(d[i][j] for j in denser) if denser else max(map(max, d))
        score.append(rho[i] * Decimal(delta))
    centres = sorted(sorted(range(n), key=lambda i: -score[i])[:count])
    members = {c: [] for c in centres}
    for i in range(n):
        members[i if i in members else min(centres, key=lambda c: d[i][c])].append(i)
    return centres, [x[members[c]].mean(0) for c in centres]


@pytest.mark.parametrize("count", [1, 2, 4, 12])
def test_clusters_are_the_density_peaks_written_out(count):
    states = torch.randn(4, 12, D, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    peaks, means = merged_by_density(states, count)
    for row, x in enumerate(states):
        centres, averages = density_peaks(x, count)
        assert peaks[row].tolist() == centres
        torch.testing.assert_close(means[row], torch.stack(averages))


def test_densities_that_underflow_are_told_apart():
    states = 1e3 * torch.randn(1, 12, D, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    assert merged_by_density(states, 3)[0][0].tolist() == density_peaks(states[0], 3)[0]


@pytest.mark.parametrize("k", [2, 5, 12, 22])
def test_sparsevlm_is_ranking_and_merging_written_out(k):
    place, selector = given(), SparseVLM(recycled=0.6, members=4)
    kept = selector(view_of(place), k)
    scores = place.attention(raters(place), 0)
    recycled, centres = selector.split(M, k)
    merged = 0
    for row in range(3):
        order = sorted(range(M), key=lambda i: -float(scores[row, i]))
        ranked, rest = order[: k - centres], order[k - centres : k - centres + recycled]
        values = {i: place.hidden[row, i] for i in ranked}
        peaks, means = density_peaks(place.hidden[row, rest], centres)
        values |= {rest[peak]: mean for peak, mean in zip(peaks, means, strict=True)}
        assert kept.index[row].tolist() == sorted(values)
        torch.testing.assert_close(kept.tokens[row], torch.stack([values[i] for i in sorted(values)]))
        merged += int((kept.tokens[row] != place.hidden[row, kept.index[row]]).any(1).sum())
    assert merged or k == M - 1  # one recycled token is its own cluster


@pytest.mark.parametrize("m", [2, 3, 17, 82, 576])
def test_the_published_share_is_merged_wherever_it_fits_into_k(m):
    for k in range(1, m):
        recycled, centres = SparseVLM().split(m, k)
        ranked = k - centres
        assert ranked >= centres >= 0
        published = int((int(0.3 * (m - ranked)) + 1) / 10) + 1
        assert centres == published or (k - published < published and centres == k // 2)
        assert not centres or recycled == int(0.3 * (m - ranked)) + 1
    assert SparseVLM().split(m, m) == (0, 0)
    if m == 576:  # the code's first stage of its budget 64: 66 tokens and 16 centres
        assert SparseVLM().split(576, 66 + 16) == (154, 16)


@pytest.mark.parametrize("k", [1, 4, 5, 11, 22])
@pytest.mark.parametrize("selector", [DART(), DART(2, 9), DART(3, 0), DART(1, 1)], ids=repr)
def test_dart_is_its_loops_written_out(selector, k):
    place = given()
    kept = selector(view_of(place), k).index
    for row in range(3):
        length = place.keys[row].abs().sum(-1).tolist()
        images = sorted(range(M), key=lambda i: -length[i])[: min(selector.image, k)]
        behind = [t for t in range(9) if place.behind[row, t]]
        long = place.word_keys[row].abs().sum(-1).tolist()
        texts = sorted(behind, key=lambda t: -long[t])[: selector.text]
        pivots = [place.hidden[row, i] for i in images] + [place.words.states[row, t] for t in texts]
        free, taken = [i for i in range(M) if i not in images], list(images)
        share, more = divmod(k - len(images), len(pivots))
        for number, pivot in enumerate(pivots):
            cosine = {i: float(torch.cosine_similarity(place.hidden[row, i], pivot, 0)) for i in free}
            for i in sorted(free, key=cosine.get)[: share + (number < more)]:
                free.remove(i)
                taken.append(i)
        assert kept[row].tolist() == sorted(taken)


def test_wrong_fields_are_refused():
    for make, match in (
        (lambda: SparseVLM(recycled=1.5), "recycled=1.5: it must be from 0 to 1"),
        (lambda: SparseVLM(members=0), "members=0"),
        (lambda: DART(image=0), "image=0.*image=4,text=4"),
        (lambda: DART(text=-1), "text=-1"),
    ):
        with pytest.raises(UsageError, match=match):
            make()
