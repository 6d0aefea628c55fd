"""VisionZip, HoloV, PruneSID, HiRED and CDPruner against their rules written out, one image and one token at a time."""

import math
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from views import HEADS, images, tiled

from gradprobe.operators import registry
from gradprobe.selectors.cdpruner import CDPruner, greedy_subset
from gradprobe.selectors.farthest import directions_of
from gradprobe.selectors.hired import HiRED
from gradprobe.selectors.holov import HoloV
from gradprobe.selectors.prunesid import PruneSID, component_of
from gradprobe.selectors.visionzip import VisionZip
from gradprobe.view import View, Words

MADE = [images(n=24, dtype=torch.float64, seed=seed) for seed in range(3)] + [images(n=37, b=2, dtype=torch.float64)]
BUDGETS = (1, 2, 3, 5, 8, 13, 17, 21, 23)


def attention(queries, keys, query):
    """Attention of one picture to its patches, queries and keys ``(1 + R, width)``."""
    total = np.zeros(len(keys) - 1)
    width = keys.shape[1] // HEADS
    rows = [0] if query == "class" else range(1, len(keys))
    for head in range(HEADS):
        q, k = (x[:, head * width : (head + 1) * width] for x in (queries, keys))
        for row in rows:
            weights = np.exp(q[row] @ k.T / math.sqrt(width))
            total += (weights / weights.sum())[1:]
    return total


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def ranked(scores, members):
    """Members by descending score, of equal ones the first."""
    return sorted(members, key=lambda i: (-scores[i], i))


def given_out(k, shares, rooms):
    """Whole shares, then one at a time to the largest remainder among those with room."""
    give = [min(int(share), room) for share, room in zip(shares, rooms, strict=True)]
    while sum(give) < k:
        give[max((g for g in range(len(give)) if give[g] < rooms[g]), key=lambda g: shares[g] - give[g])] += 1
    return give


def each(made, selector, k):
    """Yield each image's tokens, projected tokens, its pictures' queries and keys, and what was kept."""
    with torch.no_grad():
        kept, view = selector(made.view(), k), made.view()
        for i in range(len(made.tokens)):
            tower = [x[i].numpy() for x in made.tower]
            tokens = None if kept.tokens is None else kept.tokens[i].numpy()
            yield view.features[i].numpy(), view.projected[i].numpy(), tower, kept.index[i].tolist(), tokens


@pytest.mark.parametrize("spec", ["visionzip", "visionzip:query=mean,context=0.4"])
@pytest.mark.parametrize("made", MADE)
def test_visionzip(made, spec):
    selector = registry.part("selector", spec)
    for k in BUDGETS:
        for x, _, (queries, keys, *_), index, tokens in each(made, selector, k):
            n, c = len(x), 0 if k == 1 else min(k - 1, max(1, round(selector.context * k)))
            order = ranked(attention(queries[0], keys[0], selector.query), range(n))
            rest = sorted(order[k - c :])
            if k == 1:
                assert index == order[:1] and tokens is None
                continue
            targets = [rest[t * (len(rest) // c)] for t in range(c)]
            metric = unit(sum(np.split(keys[0][1:], HEADS, axis=1)) / HEADS)
            joined = {t: [] for t in targets}
            for i in rest:
                if i not in joined:
                    cosine = np.round([metric[i] @ metric[t] for t in targets], 10)  # of equal ones the first
                    joined[targets[int(np.argmax(cosine))]].append(i)
            assert index == sorted([*order[: k - c], *targets])
            for i, token in zip(index, tokens, strict=True):
                own = x[i] + (np.mean([x[j] for j in joined[i]], axis=0) if joined.get(i) else 0)
                np.testing.assert_allclose(token, own, rtol=1e-12)


@pytest.mark.parametrize("spec", ["holov", "holov:crops=5,variety=1", "holov:crops=3,query=mean,variety=0.3"])
@pytest.mark.parametrize("made", MADE)
def test_holov(made, spec):
    selector = registry.part("selector", spec)
    for k in BUDGETS:
        for _, z, (queries, keys, *_), index, _ in each(made, selector, k):
            a = attention(queries[0], keys[0], selector.query)
            crops = [list(crop) for crop in np.array_split(np.arange(len(z)), selector.crops)]
            cosine, h = unit(z) @ unit(z).T, a.copy()
            for crop in crops if selector.variety else []:
                v = np.array([np.var([cosine[i, j] for j in crop if j != i]) for i in crop])
                h[crop] = a[crop] + selector.variety * v * a[crop].mean() / v.mean()
            means = np.array([h[crop].mean() for crop in crops])
            give = given_out(k, k * means / means.sum(), [len(crop) for crop in crops])
            expected = [i for crop, count in zip(crops, give, strict=True) for i in ranked(h, crop)[:count]]
            assert index == sorted(expected)


def test_the_share_of_a_crop_does_not_depend_on_the_variety_of_its_tokens():
    for made in MADE:
        crop = torch.arange(made.tokens.shape[1]) * 4 // made.tokens.shape[1]
        shares = []
        for variety in (0, 1, 30):
            index = HoloV(crops=4, variety=variety)(made.view(), 11).index
            shares.append(torch.nn.functional.one_hot(crop[index], 4).sum(1))
        assert torch.equal(shares[0], shares[1]) and torch.equal(shares[0], shares[2])


def uneven():
    """Every second token lies near one line: a component with more survivors than its upper bound."""
    made = images(n=80, b=1, dtype=torch.float64)
    tokens = 0.5 * made.tokens + 3
    tokens[:, ::2] += 0.5 * made.tokens[:, ::2, :1] * torch.tensor([1.0, -1.0]).repeat(6)
    return replace(made, tokens=tokens)


@pytest.mark.parametrize("query", ["class", "mean"])
@pytest.mark.parametrize("made", [*MADE, uneven()])
def test_prunesid(made, query):
    for k in (*BUDGETS, *((36, 41, 46) if made.tokens.shape[1] == 80 else ())):
        for x, _, (queries, keys, *_), index, _ in each(made, PruneSID(query), k):
            n, q = len(x), max(1, k // 4)
            scores = attention(queries[0], keys[0], query)
            matrix = (1 / (1 + np.exp(-x))).T  # features by tokens
            v = np.linalg.svd(matrix - matrix.mean(0), full_matrices=False)[2][:q]
            group = np.abs(v).argmax(0)
            cosine = unit(x) @ unit(x).T
            limit = k / 32 * np.mean([cosine[i, j] for i, j in combinations(range(n), 2)])
            members, alive = [], []
            for g in range(q):
                left, dead = [], []
                for i in ranked(scores, np.flatnonzero(group == g)):
                    (dead if any(cosine[i, j] > limit for j in left) else left).append(i)
                members.append(left + dead)
                alive.append(len(left))
            present = [g for g in range(q) if members[g]]
            shares = [(k - len(present)) * alive[g] / sum(alive) + 1 if members[g] else 0 for g in range(q)]
            give, bounds = [0] * q, [min(alive[g], 5 * math.ceil(k / 64)) for g in range(q)]
            while sum(give) < k:
                room = [g for g in range(q) if give[g] < min(bounds[g], len(members[g]))]
                if room:
                    give[max(room, key=lambda g: shares[g] - give[g])] += 1
                else:
                    bounds = [bound + 1 for bound in bounds]
            assert all(give[g] >= 1 for g in present)
            assert index == sorted(int(i) for g in range(q) for i in members[g][: give[g]])


def test_components_are_the_same_from_either_matrix():
    """With N = D both matrices have the eigenvalues; one more token of zeros changes no component."""
    tokens = torch.rand(2, 9, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    more = torch.cat([tokens, torch.zeros(2, 1, 9, dtype=torch.float64)], 1)
    assert torch.equal(component_of(tokens, 4), component_of(more, 4)[:, :9])


def test_no_token_belongs_to_a_component_of_nothing():
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(2, 20, 2, generator=generator, dtype=torch.float64)
    tokens = weights @ torch.randn(2, 7, generator=generator, dtype=torch.float64)
    assert component_of(tokens, 5).unique().tolist() == [0, 1]
    assert component_of(tokens[..., :1].expand(-1, -1, 7), 5).unique().tolist() == [0]


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_hired(alpha, seed):
    made = tiled(b=2, dtype=torch.float64, seed=seed)
    shown = {  # tile of each token of the overview: the mosaic lost a line of four at its top and one at its bottom
        (row, column): 1 + 2 * (row >= 2) + (column >= 2) for row in range(4) for column in range(4)
    }  # fmt: skip
    for k in (1, 2, 9, 20, 33, 60, 63):
        for x, _, tower, index, _ in each(made, HiRED(alpha), k):
            picture = (made.rows // 16).tolist()
            last = np.concatenate([attention(tower[0][p], tower[1][p], "class") for p in range(5)])[made.rows]
            content = attention(tower[2][0], tower[3][0], "class")
            top = ranked(content, range(16))[: max(1, int((1 - alpha) * 16))]
            first = min(int(k * alpha), 16)
            counts = [sum(shown[divmod(i, 4)] == p for i in top) for p in range(1, 5)]
            shares = [first, *((k - first) * count / len(top) for count in counts)]
            members = [[i for i in range(len(x)) if picture[i] == p] for p in range(5)]
            give = given_out(k, shares, [len(m) for m in members])
            expected = [i for m, count in zip(members, give, strict=True) for i in ranked(last, m)[:count]]
            assert index == sorted(expected)


def kernel_of(made, i):
    """L of one image, and its relevance, from the words of the view."""
    view = made.view()
    with torch.no_grad():
        z, words = unit(view.projected[i].numpy()), view.words
    text = unit(words.states[i][words.mask[i]].numpy())
    r = -(z @ text.T).mean(1)
    r = (r - r.min()) / (r.max() - r.min())
    return r[:, None] * (z @ z.T) * r, r


@pytest.mark.parametrize("made", [images(n=9, dtype=torch.float64, seed=seed) for seed in range(3)])
def test_cdpruner_takes_the_token_of_the_largest_determinant(made):
    with torch.no_grad():
        for i in range(len(made.tokens)):
            kernel, _ = kernel_of(made, i)
            chosen = []
            for k in range(1, 8):
                left = [j for j in range(9) if j not in chosen]
                value = {j: np.linalg.det(kernel[np.ix_([*chosen, j], [*chosen, j])]) for j in left}
                chosen.append(max(value, key=value.get))
                assert CDPruner()(made.view(), k).index[i].tolist() == sorted(chosen)


def test_once_the_rank_is_exhausted_relevance_decides():
    z = directions_of(torch.randn(1, 12, 3, generator=torch.Generator().manual_seed(0)))
    relevance = torch.linspace(0.2, 1, 12, dtype=torch.float64)[None]
    order = greedy_subset(z, relevance, 12)[0].tolist()
    assert np.linalg.matrix_rank(z[0, order[:3]].numpy()) == 3
    assert order[3:] == sorted(order[3:], reverse=True)
    assert greedy_subset(z, torch.ones_like(relevance), 12)[0, 3:].tolist() == sorted(
        set(range(12)) - set(greedy_subset(z, torch.ones_like(relevance), 3)[0].tolist())
    )


def test_cdpruner_turns_away_from_the_words_and_from_padding_not_at_all():
    generator = torch.Generator().manual_seed(0)
    tokens, word = torch.randn(1, 20, 6, generator=generator), torch.randn(1, 1, 6, generator=generator)
    far = int(torch.nn.functional.cosine_similarity(tokens, word, dim=-1).argmin())

    def first(words, mask):
        view = View(MADE[0].view().noise, tokens, make_words=lambda: Words(words, torch.tensor([mask])))
        return CDPruner()(view, 1).index.item()

    assert first(word, [True]) == far
    assert first(torch.cat([word, -9 * word], 1), [True, False]) == far
    assert first(word, [False]) == 0  # without a word all are equally relevant


@pytest.mark.parametrize("k", BUDGETS)
def test_visionzip_loses_no_token(k):
    """The tokens kept are a weighted sum of all: each is dominant, a target, or within the mean of its target."""
    n = 24
    made = MADE[0]
    kept = VisionZip(context=0.4)(made.view(given=torch.eye(n, dtype=torch.float64).expand(3, n, n)), k)
    if k > 1:
        assert (kept.tokens.sum(1) > 0).all()
        assert (kept.tokens.sum(-1) <= 2 + 1e-12).all()
