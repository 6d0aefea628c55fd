"""`gradprobe.comparison.run` under its older name, which `gradprobe.compare`, the function, has now.

Importing this module would put it in the place of that function, so the function stands in for the module and carries
the names that were imported from it.
"""

import sys

from gradprobe.comparison.run import BASELINES, compare
from gradprobe.comparison.sizes import SIZES, Size, Times, estimate

__all__ = ["BASELINES", "SIZES", "Size", "Times", "compare", "estimate"]

for _name in (*__all__, "__file__", "__spec__"):
    setattr(compare, _name, globals()[_name])
sys.modules[__name__] = compare  # type: ignore[assignment]
