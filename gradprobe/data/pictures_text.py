"""Captions of pictures, and four kinds of questions with one-word answers, in a vocabulary of 70 words.

The kinds follow the benchmarks of the paper's ablation: relations (GQA), existence (POPE), attributes and counts with
answers yes or no (MME), multiple choice (MMBench). Places, counts, digits and choices have separate words.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gradprobe.data.pictures import COLOURS, DIGITS, PLACES, SIDE, Object, objects_of
from gradprobe.errors import UsageError, nearest

KINDS = ("relations", "existence", "attributes", "choice")
ROWS = tuple(f"r{i + 1}" for i in range(PLACES))
COLUMNS = tuple(f"c{i + 1}" for i in range(PLACES))
COUNTS = ("never", "once", "twice", "thrice")
LETTERS = ("A", "B", "C", "D")
IMAGE = "<image>"
OTHERS = (
    *("yes", "no", "caption", "answer", ":", "?", ",", ".", "is", "the", "a", "of", "there", "colour", "digit"),
    *("left", "right", "above", "below", "does", "occur", "which"),
)
WORDS = (*DIGITS, *COLOURS, *ROWS, *COLUMNS, *COUNTS, *LETTERS, *OTHERS)
_SEED = {"train": 5, "heldout": 6}  # first word of a question's seed


@dataclass(frozen=True)
class Question:
    """Question about a picture.

    Attributes:
        kind: Index into ``KINDS``.
        text: Words, separated by spaces.
        answer: Answer, one word.
    """

    kind: int
    text: str
    answer: str


def caption(objects: Sequence[Object]) -> str:
    """Return the caption of a picture: each object's colour, digit, row and column, in raster order.

    Example:
        >>> caption([Object(2, 0, 7, 0), Object(0, 4, 3, 2)])
        'blue three r1 c5 , red seven r3 c1 .'
    """
    phrases = (f"{_name(o)} {ROWS[o.row]} {COLUMNS[o.column]}" for o in sorted(objects))
    return " , ".join(phrases) + " ."


def question(objects: Sequence[Object], kind: str, rng: np.random.Generator) -> tuple[str, str]:
    """Return a random question about a picture, and its one-word answer.

    Yes and no are equally likely answers, as are the four letters.

    Args:
        objects: Objects in the picture, at least two; no digit twice.
        kind: Kind of question, one of ``KINDS``.
        rng: Random number generator.

    Raises:
        UsageError: The kind is unknown.

    Example:
        >>> question([Object(2, 0, 7, 0), Object(0, 4, 3, 2)], "existence", np.random.default_rng(0))
        ('is there a blue three ?', 'yes')
    """
    if kind not in KINDS:
        raise UsageError(f"no kind of question is called {kind!r}; {nearest(kind, KINDS)}")
    ask = {"relations": _relation, "existence": _existence, "attributes": _attribute, "choice": _choice}[kind]
    return ask(objects, rng)


def captions(split: str, ids: Sequence[int]) -> tuple[str, ...]:
    """Return the captions of pictures.

    Example:
        >>> captions("heldout", [1])[0].endswith(" .")
        True
    """
    return tuple(caption(objects) for objects in objects_of(split, ids))


def questions(split: str, ids: Sequence[int]) -> tuple[Question, ...]:
    """Return a question about each picture, of kind ``id % 4``: a pure function of split and id.

    Example:
        >>> [KINDS[q.kind] for q in questions("heldout", range(4))]
        ['relations', 'existence', 'attributes', 'choice']
    """
    result = []
    for i, objects in zip(ids, objects_of(split, ids), strict=True):
        rng = np.random.Generator(np.random.SFC64([_SEED[split], int(i)]))
        result.append(Question(i % len(KINDS), *question(objects, KINDS[i % len(KINDS)], rng)))
    return tuple(result)


def prompt_of_caption() -> str:
    """Return the prompt that asks for a caption.

    Example:
        >>> prompt_of_caption()
        '<image> caption :'
    """
    return f"{IMAGE} caption :"


def prompt_of_question(text: str) -> str:
    """Return the prompt that asks for the answer to a question.

    Example:
        >>> prompt_of_question("is there a red seven ?")
        '<image> is there a red seven ? answer :'
    """
    return f"{IMAGE} {text} answer :"


def _name(o: Object) -> str:
    return f"{COLOURS[o.colour]} {DIGITS[o.digit]}"


def _yes(rng: np.random.Generator) -> bool:
    return bool(rng.integers(2))


def _other(rng: np.random.Generator, count: int, but: int) -> int:
    """Return a random number in 0..count-1 other than ``but``."""
    return int(but + rng.integers(1, count)) % count


def _relation(objects: Sequence[Object], rng: np.random.Generator) -> tuple[str, str]:
    first, second = rng.permutation(len(objects))[:2].tolist()
    one, two = objects[first], objects[second]
    across, down = two.column - one.column, two.row - one.row
    # Only along an axis on which the two do not overlap; at least one exists.
    ways = [
        (d, words) for d, words in ((across, ("left of", "right of")), (down, ("above", "below"))) if abs(d) >= SIDE
    ]
    distance, words = ways[int(rng.integers(len(ways)))]
    yes = _yes(rng)
    word = words[(distance < 0) == yes]
    return f"is the {_name(one)} {word} the {_name(two)} ?", "yes" if yes else "no"


def _existence(objects: Sequence[Object], rng: np.random.Generator) -> tuple[str, str]:
    o = objects[int(rng.integers(len(objects)))]
    if _yes(rng):
        return f"is there a {_name(o)} ?", "yes"
    if _yes(rng):  # a digit of the picture, in another colour
        return f"is there a {COLOURS[_other(rng, len(COLOURS), o.colour)]} {DIGITS[o.digit]} ?", "no"
    absent = [d for d in range(10) if all(d != other.digit for other in objects)]
    return f"is there a {COLOURS[o.colour]} {DIGITS[absent[int(rng.integers(len(absent)))]]} ?", "no"


def _attribute(objects: Sequence[Object], rng: np.random.Generator) -> tuple[str, str]:
    if _yes(rng):
        o, yes = objects[int(rng.integers(len(objects)))], _yes(rng)
        colour = o.colour if yes else _other(rng, len(COLOURS), o.colour)
        return f"is the colour of the {DIGITS[o.digit]} {COLOURS[colour]} ?", "yes" if yes else "no"
    counts = [sum(o.colour == colour for o in objects) for colour in range(len(COLOURS))]
    askable = [colour for colour, count in enumerate(counts) if count < len(COUNTS)]
    colour = askable[int(rng.integers(len(askable)))]
    if _yes(rng):
        return f"does {COLOURS[colour]} occur {COUNTS[counts[colour]]} ?", "yes"
    # Another colour's count if possible, so that guessing from the count alone does not help.
    wrong = [counts[c] for c in askable if counts[c] != counts[colour]]
    count = wrong[int(rng.integers(len(wrong)))] if wrong else _other(rng, len(COUNTS), counts[colour])
    return f"does {COLOURS[colour]} occur {COUNTS[count]} ?", "no"


def _choice(objects: Sequence[Object], rng: np.random.Generator) -> tuple[str, str]:
    single = [o for o in objects if sum(o.colour == other.colour for other in objects) == 1]
    if single and _yes(rng):
        o = single[int(rng.integers(len(single)))]
        # Digits of the picture come before absent ones, so that presence of a digit alone does not give the answer.
        present = [other.digit for other in objects if other is not o]
        absent = [d for d in range(10) if d != o.digit and d not in present]
        wrong = [*rng.permutation(present).tolist(), *rng.permutation(absent).tolist()][: len(LETTERS) - 1]
        text, right = f"which digit is {COLOURS[o.colour]} ?", o.digit
        names: tuple[str, ...] = DIGITS
    else:
        o = objects[int(rng.integers(len(objects)))]
        wrong = [c for c in range(len(COLOURS)) if c != o.colour]
        text, right = f"which colour is the {DIGITS[o.digit]} ?", o.colour
        names = COLOURS
    options = rng.permutation([right, *wrong]).tolist()
    listed = " ".join(f"{letter} : {names[option]}" for letter, option in zip(LETTERS, options, strict=True))
    return f"{text} {listed}", LETTERS[options.index(right)]
