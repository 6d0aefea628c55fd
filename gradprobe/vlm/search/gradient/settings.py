"""Settings of the probe of a search's gradient."""

from collections.abc import Sequence
from dataclasses import dataclass

from gradprobe.errors import UsageError
from gradprobe.ranges import check_number
from gradprobe.vlm.search.asked import Settings

FEWEST_DRAWS = 8  # pairs: each is counted from a fit to the others


@dataclass(frozen=True)
class GradientSettings:
    """Settings of `gradprobe.vlm.search.gradient.measure.search_gradient`.

    Attributes:
        batches: Batches whose gradients are compared, at least 3; from the images that a search steps on.
        batch_size: Images of a batch.
        draws: Antithetic pairs of the smoothing, at least 8.
        sigmas: Standard deviations of the smoothing, in tokens.
        softness: Temperatures of the relaxed schedule, as shares of the tokens that a layer reads.
        held_out: Images on which steps are tried and the line is drawn; a search chooses its schedule by them.
        ladder: Steps, in tokens: the largest change of a layer's count, to first order.
        reach: Half the length of the line, in tokens likewise.
        seed: Of the images, the smoothing, the line and a random selector.
    """

    batches: int = 16
    batch_size: int = 16
    draws: int = 32
    sigmas: Sequence[float] = (1.0, 4.0)
    softness: Sequence[float] = (0.2, 0.1, 0.05, 0.02)
    held_out: int = 128
    ladder: Sequence[float] = (1.0, 4.0)
    reach: float = 12.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("batches", "batch_size", "held_out", "reach", "seed"):
            check_number(name, getattr(self, name))
        check_number("draws", self.draws, least=FEWEST_DRAWS)
        for name, option in (("sigmas", "sigma"), ("softness", "keep"), ("ladder", "ladder")):
            object.__setattr__(self, name, tuple(getattr(self, name)))
            if not getattr(self, name):
                shown = "softness" if name == "softness" else option
                raise UsageError(f"--{shown} names no number; give some, such as --{shown} 0.1")
            for value in getattr(self, name):
                if name == "softness" and not 0 < value <= 1:
                    raise UsageError(
                        f"--softness {value:g} is not possible; give shares in (0, 1] of a layer's tokens, e.g. 0.1"
                    )
                check_number(option, value)

    @property
    def of_search(self) -> Settings:
        """The settings of a search whose steps read these batches, each once."""
        return Settings(inner=self.batches, batch_size=self.batch_size, validation=self.held_out, seed=self.seed)
