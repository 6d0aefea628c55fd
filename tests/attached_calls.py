"""Plans, calls and families that tests of models with a pruner inside share."""

import pytest
from tiny_vlms import IMAGE

OPTIONS = {"do_sample": False, "suppress_tokens": [IMAGE]}  # a random model might write a placeholder
GREEDY = {"max_new_tokens": 4} | OPTIONS
OUTSIDE, INSIDE, BOTH = "norm", "fastv@1", "norm:k=9;fastv@1"
each_plan = pytest.mark.parametrize("plan", [OUTSIDE, INSIDE, BOTH])
