"""Contract of every operator, and its examination."""

from gradprobe.testing.check import PROPERTIES, check_operator, examine
from gradprobe.testing.findings import BrokenContract, Finding

__all__ = ["PROPERTIES", "BrokenContract", "Finding", "check_operator", "examine"]
