"""Contracts of every operator and of every selector, and their examination."""

from gradprobe.testing.check import PROPERTIES, check_operator, examine
from gradprobe.testing.findings import BrokenContract, Finding
from gradprobe.testing.selectors import SELECTOR_PROPERTIES, check_selector, examine_selector

__all__ = [
    "PROPERTIES", "SELECTOR_PROPERTIES", "BrokenContract", "Finding", "check_operator", "check_selector", "examine",
    "examine_selector",
]  # fmt: skip
