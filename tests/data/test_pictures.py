"""Pictures for the embedded vision-language model: what is drawn, and whether what is said about it is true."""

import re
from collections import Counter

import numpy as np
import pytest
from sklearn.datasets import load_digits

from gradprobe.data.pictures import (
    _RGB,
    GRID,
    LEAST,
    MEAN,
    MOST,
    NO_COLOUR,
    NO_DIGIT,
    PATCH,
    STD,
    Object,
    as_bytes,
    objects_of,
    pictures,
    samples_of,
)
from gradprobe.data.pictures import COLOURS as HUES
from gradprobe.data.pictures import DIGITS as NAMES
from gradprobe.data.pictures_text import (
    COLUMNS,
    COUNTS,
    KINDS,
    LETTERS,
    ROWS,
    WORDS,
    caption,
    captions,
    prompt_of_caption,
    prompt_of_question,
    question,
    questions,
)
from gradprobe.data.scenes import split_samples
from gradprobe.errors import UsageError

SPLITS = ("train", "heldout")


@pytest.fixture(scope="module", params=SPLITS)
def batch(request):
    return pictures(request.param, range(64))


@pytest.fixture(scope="module", params=SPLITS)
def asked(request):
    ids = range(4000)
    return list(zip(objects_of(request.param, ids), questions(request.param, ids), strict=True))


@pytest.mark.parametrize("split", SPLITS)
def test_a_picture_depends_on_its_split_and_id_only(split):
    together, apart = pictures(split, [5, 10**9, 7]), pictures(split, np.array([7, 5]))
    for name in ("images", "relevant", "digit_of", "colour_of"):
        assert np.array_equal(getattr(together, name)[[2, 0]], getattr(apart, name))
    assert (together.objects[2], together.objects[0]) == apart.objects == objects_of(split, [7, 5])
    assert questions(split, [7, 5]) == (questions(split, range(9))[7], questions(split, range(9))[5])


def test_splits_and_ids_give_other_pictures_from_other_samples():
    one, two = (pictures(split, range(20)) for split in SPLITS)
    assert len({image.tobytes() for image in np.concatenate([one.images, two.images])}) == 40
    assert not set(one.objects) & set(two.objects)
    target = load_digits().target
    for split in SPLITS:
        samples = target[split_samples(split)]
        assert all((samples[rows] == digit).all() for digit, rows in enumerate(samples_of(split).of_digit))
        assert len(samples_of(split).ink) == len(samples)


def test_objects_have_three_to_five_distinct_digits_that_do_not_overlap():
    counts = Counter()
    for found in objects_of("train", range(2000)):
        counts[len(found)] += 1
        assert list(found) == sorted(found)
        assert len({o.digit for o in found}) == len(found)
        covered = [(o.row + i, o.column + j) for o in found for i in (0, 1) for j in (0, 1)]
        assert len(set(covered)) == len(covered)
        assert all(0 <= place < GRID for pair in covered for place in pair)
    assert set(counts) == set(range(LEAST, MOST + 1))
    assert min(counts.values()) > 0.8 * 2000 / 3


def test_labels_are_those_of_the_objects(batch):
    for row, found in enumerate(batch.objects):
        digit, colour = np.full((GRID, GRID), NO_DIGIT), np.full((GRID, GRID), NO_COLOUR)
        for o in found:
            for i in (0, 1):
                for j in (0, 1):
                    digit[o.row + i, o.column + j], colour[o.row + i, o.column + j] = o.digit, o.colour
        assert np.array_equal(batch.digit_of[row], digit.ravel())
        assert np.array_equal(batch.colour_of[row], colour.ravel())
        assert np.array_equal(batch.relevant[row], digit.ravel() != NO_DIGIT)


def test_colours_tell_objects_from_clutter(batch):
    patches = (batch.images * STD + MEAN).reshape(len(batch.images), 3, GRID, PATCH, GRID, PATCH)
    pixels = patches.transpose(0, 2, 4, 1, 3, 5).reshape(len(batch.images), GRID * GRID, 3, PATCH * PATCH)
    brightest = pixels.sum(axis=2).argmax(axis=2)[..., None, None]
    light = np.take_along_axis(pixels, brightest, axis=3)[..., 0]
    unit = _RGB / np.linalg.norm(_RGB, axis=1, keepdims=True)
    nearest = (light @ unit.T / np.linalg.norm(light, axis=2, keepdims=True)).argmax(axis=2)
    inked = light.sum(axis=2) > 0.6
    objects, clutter = inked & batch.relevant, inked & ~batch.relevant
    assert (nearest[objects] == batch.colour_of[objects]).mean() > 0.99
    assert (nearest[clutter] >= len(HUES)).mean() > 0.99
    assert 0.2 < inked[~batch.relevant].mean() < 0.5  # there is clutter, and there is room


def test_images_are_whole_bytes_and_about_normalised(batch):
    assert batch.images.dtype == np.float32
    raw = as_bytes(batch.images)
    again = (raw.transpose(0, 3, 1, 2) / 255 - MEAN) / STD
    assert np.abs(again - batch.images).max() < 1e-5
    assert abs(batch.images.mean()) < 0.1
    assert 0.7 < batch.images.std() < 1.1


def test_a_caption_says_all_that_is_there():
    for found, said in zip(objects_of("heldout", range(200)), captions("heldout", range(200)), strict=True):
        read = [
            Object(ROWS.index(row), COLUMNS.index(column), NAMES.index(digit), HUES.index(colour))
            for colour, digit, row, column in (part.split() for part in said.removesuffix(" .").split(" , "))
        ]
        assert read == list(found)
        assert caption(found[::-1]) == said


def truth(found, text):
    """The answer, worked out from the words alone."""
    by_digit = {NAMES[o.digit]: o for o in found}
    by_name = {f"{HUES[o.colour]} {NAMES[o.digit]}": o for o in found}
    if match := re.fullmatch(r"is the (\w+ \w+) (left of|right of|above|below) the (\w+ \w+) \?", text):
        one, two = by_name[match[1]], by_name[match[3]]
        across, down = one.column - two.column, one.row - two.row
        distance = {"left of": -across, "right of": across, "above": -down, "below": down}[match[2]]
        assert abs(distance) >= 2, "overlapping along this axis"
        return "yes" if distance > 0 else "no"
    if match := re.fullmatch(r"is there a (\w+ \w+) \?", text):
        return "yes" if match[1] in by_name else "no"
    if match := re.fullmatch(r"is the colour of the (\w+) (\w+) \?", text):
        return "yes" if HUES[by_digit[match[1]].colour] == match[2] else "no"
    if match := re.fullmatch(r"does (\w+) occur (\w+) \?", text):
        count = sum(HUES[o.colour] == match[1] for o in found)
        return "yes" if count == COUNTS.index(match[2]) else "no"
    match = re.fullmatch(
        r"which (?:digit is (\w+)|colour is the (\w+)) \? A : (\w+) B : (\w+) C : (\w+) D : (\w+)", text
    )
    options = match.groups()[2:]
    assert len(set(options)) == 4
    if match[1]:
        (right,) = (NAMES[o.digit] for o in found if HUES[o.colour] == match[1])
    else:
        right = HUES[by_digit[match[2]].colour]
    return LETTERS[options.index(right)]


def test_every_answer_is_true(asked):
    assert all(truth(found, q.text) == q.answer for found, q in asked)


def test_kinds_alternate_and_answers_are_balanced(asked):
    assert [q.kind for _, q in asked[:8]] == [0, 1, 2, 3, 0, 1, 2, 3]
    for kind, name in enumerate(KINDS):
        counts = Counter(q.answer for _, q in asked if q.kind == kind)
        assert set(counts) == (set(LETTERS) if name == "choice" else {"yes", "no"})
        assert max(counts.values()) / sum(counts.values()) < (0.3 if name == "choice" else 0.55)


def test_the_words_of_a_question_alone_hardly_help(asked):
    """The best guess for each text's shape (names of digits and colours left out), fitted on these very questions."""
    shapes = [
        (q.kind, re.sub(rf"\b({'|'.join((*NAMES, *HUES))})\b", "_", q.text), q.answer) for _, q in asked if q.kind < 3
    ]
    tally = Counter(shapes)
    best = {}
    for (kind, shape, _), count in tally.items():
        best[kind, shape] = max(best.get((kind, shape), 0), count)
    for kind in range(3):
        total = sum(count for (k, _, _), count in tally.items() if k == kind)
        assert sum(count for (k, _), count in best.items() if k == kind) / total < 0.6


def test_all_is_said_in_the_vocabulary(asked):
    known = {*WORDS, "<image>"}
    assert len(WORDS) == len(set(WORDS))
    said = " ".join(f"{caption(found)} {prompt_of_question(q.text)} {q.answer}" for found, q in asked)
    assert set(f"{said} {prompt_of_caption()}".split()) == known


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pictures("test", [0]), "no split of the scenes is called 'test'"),
        (lambda: pictures("train", [3, -1]), "picture id -1 is negative"),
        (lambda: question(objects_of("train", [0])[0], "relation", np.random.default_rng(0)), "relations"),
    ],
)
def test_bad_input_says_what_is_possible(call, message):
    with pytest.raises(UsageError, match=message):
        call()
