"""Tables of the built-in names; relaxations and throttles are the files of their folders."""

import importlib
import inspect
import pkgutil


def files(kind: str) -> dict[str, str]:
    """Return the module of each built-in relaxation or throttle by its name, in the order of listings.

    The name is the file's, with hyphens. No module is imported, and so neither is torch.

    Example:
        >>> files("throttle")["scale-vpnoise"]
        'gradprobe.operators.throttles.scale_vpnoise'
    """
    folder = importlib.import_module(f"gradprobe.operators.{kind}s")
    names = {module.name.replace("_", "-") for module in pkgutil.iter_modules(folder.__path__)}
    ordered = [*folder.FIRST, *sorted(names.difference(folder.FIRST))]
    return {name: f"{folder.__name__}.{name.replace('-', '_')}" for name in ordered}


RELAXATIONS, THROTTLES = files("relaxation"), files("throttle")
ALIASES = {
    "hard": "hard+gather",
    "gumbel": "gumbel-ste+gather",
    "gumbel-softmax": "gumbel-softmax+dynamicvit",
    "plackett-luce": "plackett-luce+gather",
    "scale": "lapsum+scale",
    "vpnoise": "lapsum+vpnoise",
    "softtopk": "lapsum+attention",
    "vpscale": "lapsum+scale-vpnoise",
}
SCORERS = {"mlp": "gradprobe.models.scorers:MLP", "transformer": "gradprobe.models.scorers:Transformer"}
DENOISERS = {
    "token": "gradprobe.models.denoisers:Token",
    "global": "gradprobe.models.denoisers:Global",
    "none": "gradprobe.models.denoisers:Nothing",
}
SELECTORS = {
    "random": "gradprobe.selectors.random:Random",
    "norm": "gradprobe.selectors.norm:Norm",
    "projected-norm": "gradprobe.selectors.norm:ProjectedNorm",
    "downsample": "gradprobe.selectors.downsample:Downsample",
    "class-attention": "gradprobe.selectors.attention:ClassAttention",
    "mean-attention": "gradprobe.selectors.attention:MeanAttention",
    "divprune": "gradprobe.selectors.divprune:DivPrune",
    "zoo": "gradprobe.selectors.zoo:Zoo",
    "visionzip": "gradprobe.selectors.visionzip:VisionZip",
    "holov": "gradprobe.selectors.holov:HoloV",
    "prunesid": "gradprobe.selectors.prunesid:PruneSID",
    "hired": "gradprobe.selectors.hired:HiRED",
    "cdpruner": "gradprobe.selectors.cdpruner:CDPruner",
    "fastv": "gradprobe.selectors.fastv:FastV",
    "pyramiddrop": "gradprobe.selectors.pyramiddrop:PyramidDrop",
    "sparsevlm": "gradprobe.selectors.sparsevlm:SparseVLM",
    "dart": "gradprobe.selectors.dart:DART",
    "scored": "gradprobe.models.scored:Scored",
    "truth": "gradprobe.selectors.truth:Truth",
}
TABLES = {
    "relaxation": RELAXATIONS,
    "throttle": THROTTLES,
    "operator": ALIASES,
    "scorer": SCORERS,
    "denoiser": DENOISERS,
    "selector": SELECTORS,
}


def load(kind: str, name: str) -> type:
    """Import the class of a built-in name: the one that its table names, or the only public one of its file."""
    module_name, _, attribute = TABLES[kind][name].partition(":")
    module = importlib.import_module(module_name)
    if attribute:
        return getattr(module, attribute)
    (cls,) = (
        value
        for name, value in inspect.getmembers(module, inspect.isclass)
        if value.__module__ == module_name and not name.startswith("_")
    )
    return cls


def name_of(cls: type) -> str | None:
    """Return the built-in name of a class, None if it has none.

    Example:
        >>> from gradprobe.operators.relaxations.gumbel_ste import GumbelSTE
        >>> name_of(GumbelSTE), name_of(str)
        ('gumbel-ste', None)
    """
    names = {path: name for table in TABLES.values() for name, path in table.items()}
    return names.get(cls.__module__) or names.get(f"{cls.__module__}:{cls.__qualname__}")
