"""Subject of a search: model and data, selector, kernel, budget and settings."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from gradprobe.core import Batch
from gradprobe.errors import UsageError
from gradprobe.operators.registry import label, part
from gradprobe.ranges import Range, check_number
from gradprobe.view import Selector
from gradprobe.vlm.search.deployed import deployed
from gradprobe.vlm.search.kernels import Kernel
from gradprobe.vlm.search.lagrangian import Form, Multiplier
from gradprobe.vlm.search.relaxed import check_scored
from gradprobe.vlm.search.spending import Spending, check_share
from gradprobe.vlm.task import Captioning
from gradprobe.vlm.text import IGNORED

STEPS = Range(1, 10**6)
GROUP = 32  # held-out images in one pass


@dataclass(frozen=True)
class Settings:
    """Settings of a search.

    Attributes:
        constraint: Form of the augmented Lagrangian, see `Multiplier`.
        outer: Updates of the multiplier.
        inner: Steps of Adam between two of them.
        batch_size: Images of a step.
        validation: Held-out images by whose loss a schedule is chosen.
        learning_rate: Of Adam.
        softness: Temperature of the first step, as a share of the tokens that a layer reads; it falls to a fiftieth.
        seed: Of the images and of a random selector.
    """

    constraint: Form = "equal"
    outer: int = 6
    inner: int = 6
    batch_size: int = 16
    validation: int = 128
    learning_rate: float = 0.2
    softness: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        Multiplier(self.constraint)
        for name in ("outer", "inner"):
            if not STEPS.holds(value := getattr(self, name)):
                raise UsageError(f"--{name} {value} is not possible; give {STEPS}")
        for name in ("batch_size", "learning_rate", "seed"):
            check_number(name, getattr(self, name))
        check_number("keep", self.softness)
        check_number("validation", self.validation, least=1)


@dataclass(frozen=True)
class Search:
    """Model, data and selector that schedules are searched for; what budgets share is read once.

    Attributes:
        task: Frozen model and data.
        selector: It chooses the tokens at each layer, inside the language model.
        kernel: Family of schedules.
        settings: Of the search.
    """

    task: Captioning
    selector: Selector
    kernel: Kernel
    settings: Settings = Settings()

    @cached_property
    def groups(self) -> tuple[Batch, ...]:
        """The held-out images.

        Raises:
            UsageError: There are too few.
        """
        wanted = self.settings.validation
        if (there := self.task.source.size) < wanted:
            raise UsageError(
                f"{wanted} held-out images are to choose the schedule, and there are {there}; give --validation "
                f"{there}, or more captioned images"
            )
        return self.held_out(0, wanted)

    def held_out(self, first: int, number: int) -> tuple[Batch, ...]:
        """Return images that are not searched with, in groups; those that choose a schedule are the first ones.

        Raises:
            UsageError: There are too few.
        """
        self.task.source.need(first + number)
        starts = range(first, first + number, GROUP)
        sizes = [min(GROUP, first + number - start) for start in starts]
        examples = [self.task.source.probe(i, size, self.settings.seed) for i, size in zip(starts, sizes, strict=True)]
        return tuple(self._one(self.task.batch_of(each)) for each in examples)

    @cached_property
    def spending(self) -> Spending:
        """FLOPs of the model on prompts as long as those of the held-out images on average."""
        words = []
        for group in self.groups:
            text = group.target.caption
            prompt = (text.labels != IGNORED).long().cumsum(1) == 0
            words += ((text.prompt.slot < 0) & (text.prompt.attention_mask > 0) & prompt).sum(1).tolist()
        return Spending.of(self.task.vlm, self.groups[0].tokens.patches.shape[1], round(sum(words) / len(words)))

    @property
    def question(self) -> dict[str, Any]:
        """Everything that decides what a schedule measures, in JSON types."""
        names = {name: self.task.question[name] for name in ("backbone", "weights", "data", "dtype")}
        measured = {"validation": self.settings.validation, "seed": self.settings.seed}
        return names | {"select": label(self.selector), **measured}

    def question_at(self, budget: float) -> dict[str, Any]:
        """Everything that decides the outcome of a search, in JSON types."""
        return self.question | {"kernel": self.kernel.label, "budget": budget, **asdict(self.settings)}

    def check(self, budgets: Sequence[float]) -> None:
        """Refuse before any work what is not possible.

        Raises:
            UsageError: Budget, kernel, selector or data do not fit the model.
        """
        check_named(self.selector, budgets)
        self.kernel.check(self.task.layers)
        train = getattr(self.task.source, "epoch", None)
        if train is not None and train < self.settings.batch_size:
            raise UsageError(
                f"{train} captioned images are left to search with, and a step reads {self.settings.batch_size}; give "
                f"--batch-size {train}, or more images"
            )
        for budget in budgets:
            self.spending.check(budget)
        one = self.groups[0].subset(slice(0, 1))
        counts = [self.spending.tokens, *[1] * (self.task.layers - 1)]
        try:
            deployed(self.task, self.selector, counts, [one], self.settings.seed)
        except UsageError as error:
            raise UsageError(
                f"--select {label(self.selector)} cannot choose inside the language model: {error}"
            ) from None

    def training(self, step: int) -> Batch:
        """Return the images of a step; all outer iterates, at all budgets, see the same ones."""
        return self.step_images(step % self.settings.inner)

    def step_images(self, place: int) -> Batch:
        """Return the images of a step by its place; each place has others until the data come round again."""
        size = self.settings.batch_size
        return self._one(self.task.batch_of(self.task.source.train(place * size, size, self.settings.seed)))

    def _one(self, batch: Any) -> Batch:
        if not isinstance(batch, Batch):
            sizes = ", ".join(str(part.tokens.patches.shape[1]) for part in batch.parts)
            raise UsageError(
                f"the images have {sizes} visual tokens; a schedule of counts needs the same number for all: give "
                "images of one size"
            )
        return batch


def check_named(selector: Selector, budgets: Sequence[float]) -> None:
    """Refuse what no model makes possible.

    Raises:
        UsageError: A selector without scores, or a budget that is no share.
    """
    check_scored(selector)
    for budget in budgets:
        check_share(budget)


def selector_of(text: str) -> Selector:
    """Return the selector of a text without layers.

    Raises:
        UsageError: Layers or budgets are named, which are what is searched; or there is no such selector.
    """
    if any(sign in text for sign in "@;") or text.endswith(".json") or "keep=" in text or ":k=" in text:
        raise UsageError(
            f"--select {text} is a plan; layers and numbers of tokens are what is searched: give the selector alone, "
            "--select fastv"
        )
    selector: Selector = part("selector", text)
    return selector
