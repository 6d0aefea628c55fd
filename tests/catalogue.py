"""Score inputs that every relaxation and operator has to survive; shared by the tests and by `gradprobe.testing`."""

from gradprobe.testing.cases import score_cases

__all__ = ["score_cases"]
