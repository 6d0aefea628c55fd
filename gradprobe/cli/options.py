"""Options that several commands share, and what they become."""

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from gradprobe.budget import budget as budget  # commands ask for both by this module
from gradprobe.budget import check_budget as check_budget
from gradprobe.cli import completion
from gradprobe.errors import GradprobeError, UsageError
from gradprobe.plotting.escape import visible
from gradprobe.ranges import RANGES, check_number, check_numbers

BASELINE = "gumbel"
COMMITTED = Path("results")  # stored with the project; searched first, never written to
RUNS = Path("runs")
MODELS_OWN = "k"  # its range is the model's, which a later error names
MOST_SEEDS = 1000  # named by one option
NOTHING = "''"  # an empty text in a message, as it is typed
Number = TypeVar("Number", int, float)

KINDS: Mapping[type, tuple[str, str, str]] = {  # metavar, name and example of an option's values
    int: ("<int,...>", "whole numbers", "1,2"),
    float: ("<float,...>", "numbers", "0.1,0.3"),
    str: ("<str,...>", "text", "a,b"),
}


def swept(option: str, kind: type, example: str) -> Callable[[Any], Any]:
    """Return the parser of an option that takes one value or several, separated by commas.

    Example:
        >>> swept("steps", int, "0,100")("100,0"), swept("noise", str, "")("common,fresh")
        ((0, 100), ('common', 'fresh'))
    """

    def parse(text: Any) -> Any:
        if not isinstance(text, str):
            return text
        parts = [part.strip() for part in text.split(",")]
        with suppress(ValueError):
            if all(parts):
                return tuple(dict.fromkeys(parts)) if kind is str else tuple(sorted(set(map(kind, parts))))
        words = f"give {KINDS[kind][1]}, one or several: --{option} {example}"
        raise UsageError(f"--{option} {text or NOTHING} is not possible; {words}")

    return parse


def seeds(option: str) -> Callable[[Any], Any]:
    """Return the parser of an option that takes seeds: numbers and ranges whose ends both count, each seed once.

    Example:
        >>> seeds("seeds")("1..5"), seeds("seeds")("7,1,2"), seeds("seeds")("1..3,9"), seeds("seed")("3")
        ((1, 2, 3, 4, 5), (1, 2, 7), (1, 2, 3, 9), (3,))
    """

    def parse(text: Any) -> Any:
        if not isinstance(text, str):
            return text
        named: list[int] = []
        for part in (part.strip() for part in text.split(",")):
            if not (ends := re.fullmatch(r"(-?[0-9]+)(?:\.\.(-?[0-9]+))?", part)):
                words = "give whole numbers, ranges or both"
                raise UsageError(
                    f"--{option} {text or NOTHING} is not possible; {words}: --{option} 1..5 or --{option} 1,2,7"
                )
            first, last = int(ends[1]), int(ends[2] or ends[1])
            if last < first:
                raise UsageError(f"{part} in --{option} {text} names no seed; a range rises: {last}..{first}")
            if last - first >= MOST_SEEDS - len(named):
                raise UsageError(f"--{option} {text} names too many seeds; give at most {MOST_SEEDS}")
            named += range(first, last + 1)
        if twice := [seed for seed in named if named.count(seed) > 1]:
            raise UsageError(f"seed {twice[0]} is named twice in --{option} {text}; name each seed once")
        return tuple(sorted(named))

    return parse


Op = Annotated[
    list[str],
    typer.Option(
        help="Operator, repeatable: vpnoise, lapsum:tau=0.3+scale, my.py:MyOp.", autocompletion=completion.operators
    ),
]
K = Annotated[int | None, typer.Option(help="Tokens kept, 1..N.")]
Keep = Annotated[float | None, typer.Option(help="Tokens kept as a share of N, in (0, 1]; instead of --k.")]
Ks = Annotated[
    str | None,
    typer.Option("--k", parser=swept("k", int, "29,58"), metavar=KINDS[int][0], help="Tokens kept, 1..N."),
]
Keeps = Annotated[
    str | None,
    typer.Option(
        "--keep",
        parser=swept("keep", float, "0.1,0.3"),
        metavar=KINDS[float][0],
        help="Tokens kept as a share of N, in (0, 1]; instead of --k.",
    ),
]
Baseline = Annotated[
    str,
    typer.Option(help="Operator to compare with; none for no baseline.", autocompletion=completion.baselines),
]
Rate = Annotated[float, typer.Option("--learning-rate", help="Of that training.")]
Scorer = Annotated[str, typer.Option(help="mlp or transformer, with fields: mlp:width=512.")]
Vlm = Annotated[
    str | None,
    typer.Option(
        "--task", help="A vision-language model instead of --backbone: photos-vlm, scenes-vlm, a hub id or a folder."
    ),
]
Backbone = Annotated[str, typer.Option(help="scenes (embedded) or a timm vision transformer.")]
Weights = Annotated[str | None, typer.Option(help="A .safetensors or .pth file, or none for random.")]
WeightsKey = Annotated[str | None, typer.Option(help="Which model of that file: state_dict, model_ema, teacher, ...")]
ImageSize = Annotated[str | None, typer.Option(help="Pixels, 384 or HxW: 384x288. Default: the size of the weights.")]
ClassOrder = Annotated[str | None, typer.Option(help="Order of class folders, where it is in doubt: text or natural.")]
Data = Annotated[
    str | None, typer.Option(help="Folder of images, or captions for --task; embedded models have their own.")
]
TrainData = Annotated[str | None, typer.Option(help="Folder of images to train on; default: --data.")]
Page = Annotated[
    str | None, typer.Option(help="The .html to write; none for none. Default: a file beside the answers.")
]
Layer = Annotated[int, typer.Option(help="Blocks before the insertion point.")]
Loss = Annotated[str, typer.Option(help="ce (labels) or kl (to the unpruned output).")]
Seed = Annotated[int, typer.Option(help="Of images, noise, scorer, directions and training.")]
SEEDS = ("<int,...>", "1..5, 1,2,7 or 1..3,9")  # metavar and examples
Seeds = Annotated[
    str,
    typer.Option(
        "--seeds",
        "--seed",
        parser=seeds("seeds"),
        metavar=SEEDS[0],
        help=f"Each its own scorer, noise and images: {SEEDS[1]}. Several are pooled; 5 have intervals.",
    ),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16 (autocast) or float64.")]
Generator = Annotated[str, typer.Option(help="Of noise: host, philox (made on the device), auto.")]
Workers = Annotated[int | None, typer.Option(help="Threads; the numbers do not depend on it.")]
Results = Annotated[Path, typer.Option(help="Where answers are kept.")]
Figure = Annotated[Path | None, typer.Option(help="Draw the result into this .png, .svg or .pdf.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the table.")]
Jobs = Annotated[
    int | None, typer.Option(help="Processes that answer questions at the same time; they share the cores.")
]
Cluster = Annotated[
    str | None, typer.Option(help="Machines that answer instead: dask://HOST:PORT, ray://HOST:PORT, or slurm.")
]
Trust = Annotated[
    list[Path] | None, typer.Option(help="Python file, repeatable, that may run if a file that is read names it.")
]
Force = Annotated[bool, typer.Option("--force", help="Measure again even if the answer is stored.")]


def trusted(files: Sequence[Path] | None) -> tuple[Path, ...]:
    """Python files that may run.

    Raises:
        UsageError: one of them is not there.
    """
    for file in files or ():
        if not file.is_file() or file.suffix != ".py":
            raise UsageError(f"--trust {file} is no Python file; name the file that was named in the error")
    return tuple(files or ())


def checked(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that first refuses numbers outside their range and a --trust that is no file."""

    @functools.wraps(command)
    def run(**values: Any) -> None:
        check_numbers(
            {
                name: value
                for name, value in values.items()
                if name.replace("_", "-") in RANGES and name != MODELS_OWN and isinstance(value, int | float)
            }
        )
        trusted(values.get("trust"))
        command(**values)

    return run


def numbers(option: str, text: str | None, kind: Callable[[str], Number], example: str) -> list[Number]:
    """Numbers separated by commas, each once, ascending; none for None.

    Raises:
        UsageError: something else.

    Example:
        >>> numbers("k", "98,49", int, "49,98")
        [49, 98]
    """
    try:
        numbers = [] if text is None else sorted({kind(part) for part in text.split(",")})
    except ValueError:
        words = f"give numbers such as --{option} {example}"
        raise UsageError(f"--{option} {text or NOTHING} is not possible; {words}") from None
    for number in numbers:
        if option != MODELS_OWN:
            check_number(option, number)
    return numbers


def temperatures(text: str) -> tuple[float | None, float | None]:
    """Temperatures of the first and the last step; None and None for ``own``.

    Raises:
        UsageError: something else.

    Example:
        >>> temperatures("2.0:0.1"), temperatures("own")
        ((2.0, 0.1), (None, None))
    """
    if text == "own":
        return None, None
    first, _, last = text.partition(":")
    try:
        taus = float(first), float(last)
    except ValueError:
        raise UsageError(f"--tau {text} is not possible; give two temperatures, 2.0:0.1, or own") from None
    for tau in taus:
        check_number("tau", tau)
    return taus


def opened_image(path: Path) -> Any:
    """Return an image of a file, upright and in RGB.

    Raises:
        UsageError: there is no such file, or it is no image that can be used.
    """
    from gradprobe.data.reader import PictureError, read_picture

    if not path.exists():
        raise UsageError(f"there is no file {path}; give an image with --image FILE")
    try:
        return read_picture(path)
    except PictureError as error:
        raise UsageError(f"{path} cannot be read as an image: it {error}; give another with --image FILE") from None


def operators(op: Sequence[str], baseline: str) -> tuple[dict[str, Any], str | None]:
    """Operators by canonical name, the baseline first, each once; and the baseline's name, None for none."""
    from gradprobe.operators import registry

    by_name = {registry.label(o): o for o in map(registry.build, [*([] if baseline == "none" else [baseline]), *op])}
    return by_name, None if baseline == "none" else next(iter(by_name))


def task_maker(vlm: str | None, backbone: str) -> tuple[Callable[..., Any], str]:
    """Return the function that opens the task, and the name of its model.

    Raises:
        UsageError: both kinds of model were named.
    """
    from gradprobe.tasks import maker

    if vlm is not None and backbone != "scenes":
        raise UsageError(f"give either --task {vlm} (a vision-language model) or --backbone {backbone}")
    return (maker("classification"), backbone) if vlm is None else (maker("captioning"), vlm)


@contextmanager
def working_in(out: Path, first: bool = True, work: str = "the training") -> Iterator[None]:
    """Keep the folder of a training or search to this process, having found out that it can be written.

    Args:
        out: the folder.
        first: False for the other processes of one training.
        work: words for it.

    Raises:
        GradprobeError: another process works in it, or it cannot be written.
    """
    from gradprobe.store.locks import claimed

    with ExitStack() as held:
        if first:
            try:
                held.enter_context(claimed(out, f"{work} in {out}"))
            except OSError as error:
                raise GradprobeError(f"cannot write to {out}: {error.strerror}; give another --out") from None
        yield


def where_of(**files: str | int | None) -> dict[str, str]:
    """Return places of files and means of work, which are no part of a question."""
    return {name: str(value) for name, value in files.items() if value is not None}


def print_sources(console: Any, answers: Sequence[Any]) -> None:
    """Print the images passed over and the places of the answers."""
    skipped = sorted({name for a in answers for name in a.result.environment["skipped"]})
    if skipped:
        some = "an unreadable image" if len(skipped) == 1 else f"{len(skipped)} unreadable images"
        console.print(f"skipped {some}: {', '.join(map(visible, skipped))}")
    for a in answers:
        how = "stored" if a.computed else "from the store (--force measures again)"
        console.print(f"{how}: {a.path}", soft_wrap=True)


def warn_random(console: Any, weights: str) -> None:
    """Say loudly that a model has learned nothing."""
    if weights.startswith("random:"):
        told = "RANDOM WEIGHTS: this model has learned nothing; its numbers describe its shape only."
        console.print(told, style="bold")
