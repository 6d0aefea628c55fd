"""What each probe found: a frozen dataclass a probe, from which every number of its table can be made (no torch)."""

from gradprobe.results.coherence import CoherenceResult
from gradprobe.results.curvature import CurvatureResult
from gradprobe.results.landscape import LandscapeResult
from gradprobe.store import SCHEMA, Entry, Store, key_of

__all__ = ["SCHEMA", "CoherenceResult", "CurvatureResult", "Entry", "LandscapeResult", "Store", "key_of"]
