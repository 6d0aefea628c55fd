"""Built-in relaxations, from scores to weights: one file each, ``gumbel_ste.py`` for ``gumbel-ste``."""

FIRST = (  # in listings; all others follow in alphabetical order
    "hard", "lapsum", "logistic", "probit", "capped-simplex", "sigmoid", "softsort", "neuralsort", "gumbel-ste",
    "gumbel-softmax", "relaxed-subset", "hard-concrete", "perturbed", "simple", "imle", "reinmax", "decoupled-ste",
    "shiva", "plackett-luce", "random",
)  # fmt: skip
