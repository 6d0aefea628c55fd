"""The vocabulary of selectors: views of an image's visual tokens, and the tokens that are kept.

Shapes: B images, N visual tokens of each, D their width before a projector and d behind it, K tokens kept.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from gradprobe.errors import UsageError
from gradprobe.noise import Noise

Query = Literal["class", "mean"]
Positions = Literal["keep", "compact"]
Grid = tuple[int, int]  # rows and columns


class Unavailable(UsageError):
    """Something that a selector reads and this model, or this place, does not have."""


@dataclass(frozen=True, eq=False)
class Kept:
    """Tokens that a selector keeps.

    Attributes:
        index: Their numbers among the N, ascending, ``(B, K)``.
        tokens: Values that stand there instead, ``(B, K, width)``, of a selector that merges tokens; None: as they are.
    """

    index: Tensor
    tokens: Tensor | None = None


@dataclass(frozen=True)
class SelectorAbout:
    """Description of a selector.

    Attributes:
        formula: Its rule, in a line.
        source: Paper or other origin.
        cite: Keys of `gradprobe.operators.citations.BIBTEX`, or whole BibTeX entries.
        layers: Layers of a 32-layer language model before which the method is asked by default; () for one that is
            asked outside the language model.
        positions: Position ids in the method's own code: ``keep`` or ``compact`` (renumbered).
    """

    formula: str
    source: str = ""
    cite: tuple[str, ...] = ()
    layers: tuple[int, ...] = ()
    positions: Positions = "keep"


class Selector(Protocol):
    """Choice of K tokens of each image without a gradient; a frozen dataclass that is called.

    Optional attributes: ``about``, a `SelectorAbout`; ``scores(view) -> (B, N)``, of a selector that keeps the K
    largest scores; ``flops(sizes, k) -> int``, its own cost for one image.
    """

    def __call__(self, view: "View", k: int) -> Kept:
        """Return the K tokens kept of each image, K of 1..N."""
        ...


@dataclass(frozen=True)
class Drop:
    """Point within a language model at which visual tokens are dropped.

    Attributes:
        layer: Number of the first layer that reads the tokens that are left.
        selector: It chooses them.
        k: Their number in each row.
    """

    layer: int
    selector: Selector
    k: int


@dataclass(frozen=True, eq=False)
class Words:
    """Text tokens of each row.

    Attributes:
        states: Embeddings or hidden states, ``(B, T, d)``.
        mask: True for a token, False for padding, ``(B, T)``.
    """

    states: Tensor
    mask: Tensor


@dataclass(frozen=True, eq=False)
class TowerLayer:
    """Queries and keys of one layer of the vision tower.

    Attributes:
        queries: ``(pictures, P + R, width)``: P rows that are no patches, the class token first, then R patches.
        keys: Likewise.
        heads: Number of heads.
        prefix: P.
        class_token: False where the first row is no class token.
        rows: Number of each visual token's row among all patches of all pictures, ``(B, N)``; None: one picture an
            image, its patches in order.
    """

    queries: Tensor
    keys: Tensor
    heads: int
    prefix: int
    class_token: bool = True
    rows: Tensor | None = None

    def attention(self, query: Query = "class") -> Tensor:
        """Return the attention to each visual token within its picture, mean over heads ``(B, N)``, at least float32.

        Args:
            query: ``class``: of the class token; ``mean``: of all patches on average.

        Raises:
            Unavailable: There is no class token.
        """
        if query == "class" and not (self.class_token and self.prefix):
            raise Unavailable(
                "the vision tower has no class token; take the mean attention: mean-attention, query=mean"
            )
        which = slice(0, 1) if query == "class" else slice(self.prefix, None)
        wide = torch.promote_types(self.keys.dtype, torch.float32)  # rounded to half, many tokens would be equal
        both = (self.queries[:, which].to(wide), self.keys.to(wide))
        q, k = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in both)
        attention = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)
        return self._of_tokens(attention[..., self.prefix :].mean((1, 2))[..., None])[..., 0]

    @property
    def patch_keys(self) -> Tensor:
        """Keys of the visual tokens, ``(B, N, width)``."""
        return self._of_tokens(self.keys[:, self.prefix :])

    def _of_tokens(self, patches: Tensor) -> Tensor:
        return patches if self.rows is None else patches.flatten(0, 1)[self.rows]


@dataclass(frozen=True, eq=False)
class Tower:
    """Two layers of the vision tower.

    Attributes:
        last: The layer whose output becomes the visual tokens.
        first: Its first layer.
    """

    last: TowerLayer
    first: TowerLayer


class Inside(Protocol):
    """States within the language model, at the input of one of its layers."""

    @property
    def layer(self) -> int:
        """Number of the layer, from 0."""
        ...

    @property
    def hidden(self) -> Tensor:
        """States of the visual tokens that are left, ``(B, M, d)``."""
        ...

    @property
    def keys(self) -> Tensor:
        """Their keys in this layer before rotation, all heads side by side, ``(B, M, width)``."""
        ...

    @property
    def words(self) -> Words:
        """States of the text tokens."""
        ...

    @property
    def behind(self) -> Tensor:
        """Mask of the text tokens behind a visual token, which can attend to one, ``(B, T)``."""
        ...

    @property
    def word_keys(self) -> Tensor:
        """Keys of the text tokens in this layer before rotation, ``(B, T, width)``."""
        ...

    @property
    def first(self) -> Tensor:
        """States of all visual tokens as they entered the language model, those dropped since too, ``(B, N, d)``."""
        ...

    @property
    def first_words(self) -> Words:
        """States of the text tokens as they entered the language model."""
        ...

    def attention(self, rows: "Literal['last'] | Tensor" = "last", layer: Literal[-1, 0] = -1) -> Tensor:
        """Return the attention to each visual token that is left, mean over heads and rows ``(B, M)``.

        Args:
            rows: Queries: ``last``, the prompt's last token, or a mask of words ``(B, T)``.
            layer: -1, of the layer before, or 0, of this layer as it would be.
        """
        ...


@dataclass(frozen=True, eq=False)
class View:
    """B images with N visual tokens each, as selectors see them; what is read is made then, and once.

    Attributes:
        noise: Random numbers, keyed by image.
        given: Tokens before the projector, ``(B, N, D)``; None inside a language model.
        projector: The projector, row by row; None where there is none.
        make_tower: Reads the vision tower's layers; None where it cannot be told.
        make_words: Embeds the prompt's text; None where there is none.
        grids: Rows and columns of tokens of the pictures that an image consists of, in order; () where unknown.
        relevant: Mask of the tokens that are known to matter, ``(B, N)``; None where that is unknown.
        place: States within the language model; None outside it.
    """

    noise: Noise
    given: Tensor | None
    projector: Callable[[Tensor], Tensor] | None = None
    make_tower: Callable[[], Tower] | None = None
    make_words: Callable[[], Words] | None = None
    grids: tuple[Grid, ...] = ()
    relevant: Tensor | None = None
    place: Inside | None = None

    @property
    def features(self) -> Tensor:
        """Tokens before the projector, ``(B, N, D)``.

        Raises:
            Unavailable: Inside a language model.
        """
        if self.given is None:
            raise Unavailable("tokens before the projector are not seen inside the language model; leave @LAYER out")
        return self.given

    @cached_property
    def projected(self) -> Tensor:
        """Tokens as the rest of the model reads them: projected, or the hidden states inside; ``(B, N, d)``."""
        if self.place is not None:
            return self.place.hidden
        return self.features if self.projector is None else self.projector(self.features)

    def project(self, tokens: Tensor) -> Tensor:
        """Return tokens ``(..., D)`` behind the projector, ``(..., d)``.

        Raises:
            Unavailable: There is no projector.
        """
        if self.projector is None:
            raise Unavailable("there is no projector here")
        return self.projector(tokens)

    @cached_property
    def tower(self) -> Tower:
        """Layers of the vision tower.

        Raises:
            Unavailable: Its attention cannot be told.
        """
        if self.make_tower is None:
            raise Unavailable("the attention of this vision tower to single visual tokens cannot be told")
        return self.make_tower()

    @cached_property
    def words(self) -> Words:
        """Text of the prompt, embedded.

        Raises:
            Unavailable: There is no text.
        """
        if self.make_words is None:
            raise Unavailable("there is no text here")
        return self.make_words()

    @property
    def inside(self) -> Inside:
        """States within the language model.

        Raises:
            Unavailable: Outside it.
        """
        if self.place is None:
            raise Unavailable("it is asked inside a language model, at a layer, as in fastv@2")
        return self.place

    @property
    def shape(self) -> tuple[int, int]:
        """B and N."""
        b, n = (self.projected if self.given is None else self.given).shape[:2]
        return b, n

    def uniform(self) -> Tensor:
        """Return random numbers in (0, 1), ``(B, N)``, in float32 at least: in half precision many would be equal."""
        like: Any = self.projected if self.given is None else self.given
        wide = like.new_empty(0, dtype=torch.promote_types(like.dtype, torch.float32))
        return self.noise.uniform(torch.Size(self.shape[1:]), like=wide)


@dataclass(frozen=True)
class Sizes:
    """Numbers on which a selector's own FLOPs depend.

    Attributes:
        n: Visual tokens that it chooses from.
        dim: D, their width before the projector.
        width: d, their width behind it.
        projector: FLOPs of the projector on one token.
        tower_width: Width of the queries and keys of a tower layer.
        tower_heads: Number of its heads.
        patches: Positions of one picture in the tower, with its class token.
        prefix: Those among them that are no patches.
        pictures: Pictures that the tower reads of an image.
        text: Text tokens.
        query_width: Width of the queries of a language model's layer, all heads together.
        key_width: Width of its keys.
    """

    n: int
    dim: int
    width: int
    projector: int = 0
    tower_width: int = 0
    tower_heads: int = 1
    patches: int = 0
    prefix: int = 1
    pictures: int = 1
    text: int = 0
    query_width: int = 0
    key_width: int = 0
