"""What each probe found: a frozen dataclass a probe, from which every number of its table can be made (no torch)."""

from gradprobe.results.coherence import CoherenceResult
from gradprobe.results.cost import CostResult
from gradprobe.results.curvature import CurvatureResult
from gradprobe.results.equivalence import EquivalenceResult
from gradprobe.results.fidelity import FidelityResult
from gradprobe.results.landscape import LandscapeResult
from gradprobe.results.reference import ReferenceResult
from gradprobe.results.retention import RetentionResult
from gradprobe.store import SCHEMA, Entry, Store, key_of

__all__ = [
    "SCHEMA",
    "CoherenceResult",
    "CostResult",
    "CurvatureResult",
    "Entry",
    "EquivalenceResult",
    "FidelityResult",
    "LandscapeResult",
    "ReferenceResult",
    "RetentionResult",
    "Store",
    "key_of",
]
