"""Views that every selector has to withstand."""

from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor, nn

from gradprobe.core import Noise
from gradprobe.testing.cases import DTYPES
from gradprobe.testing.language_layer import Layer
from gradprobe.view import Sizes, Tower, TowerLayer, View, Words

IMAGES, TOKENS, DIM, WIDTH, TOWER, HEADS, TEXT = 3, 16, 8, 12, 8, 2, 6
DROPPED = 4  # visual tokens that an earlier stage dropped, inside a language model
KINDS = ("constant", "zero", "paired", "huge")  # beside random ones
TIED = ("constant", "zero", "paired")


@dataclass(frozen=True)
class Place:
    """Model around the tokens, and the place where a selector is asked.

    Attributes:
        name: Name in messages, after "tokens".
        pictures: Pictures that an image consists of.
        prefix: Rows of the vision tower that are no patches; None where the tower's attention cannot be told.
        language: True with a projector and a prompt.
        inside: True within the language model.
    """

    name: str
    pictures: int = 1
    prefix: int | None = 1
    language: bool = True
    inside: bool = False


INSIDE = Place("at layer 2 of a language model", inside=True)
PLACES = (
    Place("before a language model"),
    Place("of two pictures", pictures=2),
    Place("without a class token", prefix=0),
    Place("in a ViT", language=False),
    Place("by themselves", prefix=None, language=False),
    INSIDE,
)
SIZES = Sizes(
    TOKENS, DIM, WIDTH, 2 * WIDTH * (DIM + WIDTH), tower_width=TOWER, tower_heads=HEADS, patches=TOKENS + 1, text=TEXT
)  # of the first place


@dataclass(frozen=True, eq=False)
class ViewCase:
    """Arguments of a call of a selector.

    Attributes:
        place: Model around the tokens.
        kind: Kind of the tokens: ``random`` or one of `KINDS`.
        tensors: Parts of the view by name; each but ``rows`` has an axis of images first.
        k: Number of tokens kept.
        noise: Noise, keyed by image.
        rows: Number of each token among an image's patches, ``(N,)``; None: its patches in order.
    """

    place: Place
    kind: str
    tensors: dict[str, Tensor]
    k: int
    noise: Noise
    rows: Tensor | None = None

    @property
    def original(self) -> Tensor:
        """Tokens among which the selector chooses, ``(B, N, width)``: in the place of these stand merged ones."""
        return self.tensors["hidden" if self.place.inside else "features"]

    @property
    def n(self) -> int:
        """Number of tokens of an image."""
        return self.original.shape[1]

    def describe(self) -> str:
        """Describe the input in words."""
        dtype = str(self.original.dtype).removeprefix("torch.")
        return f"{self.kind} tokens {self.place.name}, {dtype}, N = {self.n}, K = {self.k}"

    def subset(self, which: list[int]) -> "ViewCase":
        """Return the case of some of the images, with their noise."""
        tensors = {name: x[which] for name, x in self.tensors.items()}
        return replace(self, tensors=tensors, noise=replace(self.noise, ids=[self.noise.ids[i] for i in which]))

    def renumbered(self, order: Tensor) -> "ViewCase":
        """Return the case with the tokens in another order; the vision tower's patches stay where they are."""
        axes = {"features": 1, "relevant": 1, "hidden": 1, "keys": 2}
        tensors = {name: x.index_select(axes[name], order) if name in axes else x for name, x in self.tensors.items()}
        return replace(self, tensors=tensors, rows=order if self.rows is None else self.rows[order])

    def to(self, device: str) -> "ViewCase":
        """Return the case on another device."""
        tensors = {name: x.to(device) for name, x in self.tensors.items()}
        return replace(self, tensors=tensors, rows=None if self.rows is None else self.rows.to(device))

    def view(self, parts: dict[str, Tensor] | None = None) -> View:
        """Make a view; nothing that is read from it, or written to it, is seen by another.

        Args:
            parts: Tensors to use; None for copies of the case's own.
        """
        x = {name: value.clone() for name, value in self.tensors.items()} if parts is None else parts
        place = self.place
        if place.inside:
            keys, text_keys, queries = (x[name].transpose(0, 1) for name in ("keys", "text_keys", "queries"))
            words, first_words = (Words(x[name], x["mask"]) for name in ("words", "first_words"))
            layer = Layer(x["hidden"], x["first"], words, first_words, x["behind"], keys, text_keys, queries, HEADS)
            return View(self.noise, None, place=layer)
        project = projector(self.original.dtype, self.original.device) if place.language else None
        return View(
            self.noise,
            x["features"],
            projector=project,
            make_tower=None if place.prefix is None else lambda: self._tower(x),
            make_words=(lambda: Words(x["words"], x["mask"])) if place.language else None,
            grids=() if place.prefix is None else (grid_of(self.n // place.pictures),) * place.pictures,
            relevant=x["relevant"],
        )

    def _tower(self, x: dict[str, Tensor]) -> Tower:
        b, n, prefix = *self.original.shape[:2], self.place.prefix or 0
        rows = None if self.rows is None else self.rows + n * torch.arange(b, device=self.rows.device)[:, None]
        layers = (
            TowerLayer(x[f"{name}_queries"].flatten(0, 1), x[f"{name}_keys"].flatten(0, 1), HEADS, prefix, True, rows)
            for name in ("tower", "tower_first")
        )
        return Tower(*layers)


def grid_of(n: int) -> tuple[int, int]:
    """Return rows and columns of a grid of n tokens, as square as possible.

    Example:
        >>> grid_of(16), grid_of(8), grid_of(1)
        ((4, 4), (2, 4), (1, 1))
    """
    rows = max(r for r in range(1, int(n**0.5) + 1) if n % r == 0)
    return rows, n // rows


@dataclass(frozen=True, eq=False)
class Projector:
    """Projector as LLaVA's.

    Attributes:
        layers: Linear, activation and linear.
    """

    layers: tuple[nn.Linear, nn.Module, nn.Linear]

    def __call__(self, tokens: Tensor) -> Tensor:
        """Return tokens ``(..., D)`` behind the projector, ``(..., d)``."""
        first, activation, second = self.layers
        return second(activation(first(tokens)))


@cache
def projector(dtype: torch.dtype, device: torch.device, dim: int = DIM, width: int = WIDTH) -> Projector:
    """Return a projector with random weights, the same in every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        layers = nn.Linear(dim, width), nn.GELU(), nn.Linear(width, width)
    return Projector(tuple(layer.to(device, dtype) for layer in layers))  # type: ignore[arg-type]


def view_case(
    place: Place, k: int, n: int = TOKENS, kind: str = "random", dtype: torch.dtype = torch.float64
) -> ViewCase:
    """Return a case, the same in every call."""
    generator = torch.Generator().manual_seed(n)
    prefix, each = place.prefix or 0, n // place.pictures

    def draw(*shape: int) -> Tensor:
        return torch.randn(IMAGES, *shape, generator=generator, dtype=torch.float64)

    def tokens(x: Tensor, axis: int) -> Tensor:
        """Make tokens of the kind from random ones."""
        size, half = x.shape[axis], x.shape[axis] // 2
        first = x.narrow(axis, 0, 1).expand_as(x)
        pair = torch.cat([x.narrow(axis, 0, half)] * 2, axis) if size == 2 * half else first
        return {"constant": first, "zero": 0 * x, "paired": pair, "huge": 1e4 * x}.get(kind, x).to(dtype)

    def patches() -> Tensor:
        x = draw(place.pictures, prefix + each, TOWER)
        return torch.cat([x[:, :, :prefix].to(dtype), tokens(x[:, :, prefix:], 2)], 2)

    mask = torch.ones(IMAGES, TEXT, dtype=torch.bool)
    mask[-1, :2] = False
    relevant = draw(n) > 0
    relevant[:, 0] = True
    tensors = {"words": draw(TEXT, WIDTH).to(dtype), "mask": mask}
    if place.inside:
        tensors |= {"hidden": tokens(draw(n, WIDTH), 1), "first": tokens(draw(n + DROPPED, WIDTH), 1)}
        tensors |= {"first_words": draw(TEXT, WIDTH).to(dtype), "keys": tokens(draw(2, n, TOWER), 2)}
        tensors["behind"] = torch.arange(TEXT).expand(IMAGES, -1) > torch.tensor([[2], [3], [4]])
        tensors |= {name: draw(2, TEXT, TOWER).to(dtype) for name in ("text_keys", "queries")}
    else:
        names = [f"{layer}_{part}" for layer in ("tower", "tower_first") for part in ("queries", "keys")]
        tensors |= {"features": tokens(draw(n, DIM), 1), "relevant": relevant, **{name: patches() for name in names}}
    rows = torch.arange(n) if place.pictures > 1 else None
    return ViewCase(place, kind, tensors, k, Noise(0, range(11, 11 + IMAGES)), rows)


def budgets(n: int) -> list[int]:
    """Return the numbers of tokens to keep of n: 1, 2, a third, all but one and all."""
    return sorted({k for k in (1, 2, n // 3, n - 1, n) if 1 <= k <= n})


def view_catalogue(devices: tuple[str, ...] = ("cpu",)) -> list[ViewCase]:
    """Return every case: places, precisions and budgets; few tokens in float64, other kinds of tokens in float32."""
    cases = []
    for place in PLACES:
        random = [view_case(place, k, dtype=dtype) for dtype in DTYPES for k in budgets(TOKENS)]
        random += [view_case(place, k, n) for n in (2, 1) if n % place.pictures == 0 for k in budgets(n)]
        cases += [case.to(device) for device in devices for case in random]
        cases += [view_case(place, k, TOKENS, kind, torch.float32) for kind in KINDS for k in budgets(TOKENS)]
    return cases
