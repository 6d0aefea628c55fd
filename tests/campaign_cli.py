"""Bad command lines, made from the options themselves: each ends at once, in one line and without traceback.

``python tests/campaign_cli.py`` prints what each failure said; ``--every`` tries each value of an option in all
commands that have it, other words choose the lines that hold them; pytest runs it among the slow tests. Every case is
a process that is forked from one which has imported everything, with a limit of 10 s of its own computing.
"""

import os
import re
import resource
import signal
import sys
import tempfile
import time
import typing
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer

CPU, WALL = 10, 120  # seconds: of computing, and until a process that waits for something is given up
HOSTILE = ["o[/x]", "\x1b[31mred", "$\\frac{", "\u202eevil", "a\nb", "x" * 5000, "%s{0}", "--"]
INTEGERS = ["x", "1.5", "-1", "1e20", "9" * 20, "nan", "", "0x10", "\x1b[31m", "10**9"]
FLOATS = ["x", "nan", "inf", "-inf", "-1", "1e400", "", "1,5", "[/x]"]
LISTS = ["x", "1,,2", "nan", "-1", "1e400", ",", "1;2", "[/x]", "9" * 20]
NAMES = [
    *HOSTILE, "x", "+", "a+b+c", ":", "", "lapsum:tau=0+gather", "lapsum:tau=nan+gather", "lapsum:tau=-1+gather",
    "lapsum:tau=+gather", "lapsum:nope=1+gather", "nowhere.py:Op", "o[/x].py:Op", "mlp:width=99999999999",
    "mlp:width=-1", "mlp:width=1.5", "transformer:depth=1000000000", "transformer:heads=7,width=8", "folder.py:Op",
    "fifo.py:Op", "broken.py:Op", "broken.py:Op+gather", "perturbed:samples=99999999999+gather",
]  # fmt: skip
FILES = [
    *HOSTILE,
    "missing",
    "fifo",
    "folder",
    "empty",
    "garbage",
    "/dev/null",
    "/dev/zero",
    "",
    "file/below",
    "/proc/self/mem",
]
FOLDERS = ["file/a", "/proc/nowhere/a", "/dev/null/a"]
PLACES = ["a.xyz", "a", "file/a.png", "file/a.html", "/proc/nowhere/a.png", "/proc/nowhere/a.html", "", "folder.png"]
SPECIAL = {  # options of text, by what is meant
    "k": LISTS, "keep": LISTS, "ratio": LISTS, "seeds": LISTS, "sigma": LISTS, "ladder": LISTS, "sharp": LISTS,
    "taus": LISTS, "tau": [*LISTS, "1", "1:x", "0:1", "2:nan"], "steps": LISTS, "budget": LISTS, "size": HOSTILE,
    "grid": [*LISTS, "2x2", "0x0", "99999999x99999999", "3x3x3"],
    "image_size": [*LISTS, "99999999x99999999", "0x0", "1x5000"],
    "params": ["***", "nothing", "[", ""],
    "axes": [*HOSTILE, "pca", "checkpoints:fifo,0", "checkpoints:", "checkpoints:-1,2"],
    "data": FILES, "train_data": FILES, "weights": FILES, "image_root": FILES,
    "model": FILES, "pruner": FILES, "vlm": FILES, "preset": HOSTILE, "page": PLACES,
}  # fmt: skip
READ = ("preset", "pruner", "image", "trust", "presets", "data")  # paths that are read; others are written
UNREFUSED = {  # what means something after all: (option, value)
    ("budget", "x"), ("image_root", ""), ("data", ""), ("presets", ""), ("page", ""),
}  # fmt: skip
TINY = {  # what makes a command small and complete; the option that is tried stands behind it and wins
    "compare": ["--op", "vpnoise", "--k", "5", "--size", "tiny", "--baseline", "none", "--page", "none"],
    "coherence": ["--op", "vpnoise", "--k", "5", "--baseline", "none", "--batches", "3", "--batch-size", "1"],
    "landscape": ["--op", "vpnoise", "--k", "5", "--baseline", "none", "--grid", "3x3", "--images", "1"],
    "curvature": ["--op", "vpnoise", "--k", "5", "--images", "1", "--batch-size", "1", "--eigenvalues", "1"],
    "fidelity": ["--op", "vpnoise", "--k", "5", "--baseline", "none", "--images", "3", "--held-out", "3"],
    "equivalence": ["--k", "5", "--images", "1"],
    "retention": ["--op", "vpnoise", "--k", "5", "--baseline", "none", "--steps", "1", "--images", "1"],
    "cost": ["--op", "vpnoise", "--k", "5", "--baseline", "none", "--images", "1", "--rounds", "6"],
    "vlm train": ["--model", "scenes-vlm", "--k", "5", "--steps", "1", "--out", "out"],
    "vlm generate": ["--pruner", "missing", "--image", "p.png", "--prompt", "what"],
    "vlm show": ["--model", "scenes-vlm", "--figure", "a.png", "--picture", "0", "--k", "3"],
    "vlm push": ["missing", "ada/keep-five"],
    "vlm cost": ["--model", "llava-hf/llava-1.5-7b-hf"],
    "check": [], "cite": [], "list": [], "show": [], "leaderboard": ["--draw-only"], "ablation": ["--draw-only"],
    "figures": ["--draw-only"], "train-scenes": ["--steps", "0"], "vlm train-scenes": [],
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A command line, and the option that is wrong in it."""

    command: str
    option: str
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    """The end of a case: the exit code (None: it was given up), stdout and stderr."""

    code: int | None
    out: str
    err: str

    @property
    def fault(self) -> str:
        """The promise that was broken; empty: none."""
        if self.code is None:
            return "hang"
        if "Traceback" in self.err or self.code not in (1, 2):
            return "traceback" if "Traceback" in self.err else f"exit code {self.code}"
        lines = [line for line in self.err.splitlines() if line.startswith("gradprobe: ")]
        if not lines or re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", self.err):
            return "no line of its own" if not lines else "raw control characters"
        return ""


def commands():
    """Every command by the words that call it, with its function."""
    from gradprobe.cli import app

    for words, group in [
        ("", app),
        *((each.typer_instance.info.name + " ", each.typer_instance) for each in app.registered_groups),
    ]:
        for each in group.registered_commands:
            yield words + (each.name or each.callback.__name__.replace("_", "-")), each.callback


def chosen_cases():
    """Each wrong value of each option once, in the commands that have it by turns."""
    by_value = {}
    for case in cases():
        by_value.setdefault((case.option, case.arguments[-1]), []).append(case)
    for i, alike in enumerate(by_value.values()):
        yield alike[i % len(alike)]


def cases():
    """One case for each command, option and wrong value, and some without an option of their own."""
    for command, function in commands():
        for name, hint in typing.get_type_hints(function, include_extras=True).items():
            values = wrong(name, hint)
            for value in values if name != "return" else ():
                if (name, value) in UNREFUSED or (command, name) == ("cite", "backbone"):
                    continue
                option = flag(name, hint)
                line = [*command.split(), *TINY.get(command, []), *([option, value] if option else ["--", value])]
                yield Case(command, name, tuple(line))
        yield Case(command, "unknown", (*command.split(), *TINY.get(command, []), "--no-such-option", "1"))
        yield Case(
            command, "argument", (*command.split(), *TINY.get(command, []), "one", "two", "three", "missing.py:Op")
        )
    for words in ([], ["nope"], ["--nope"], ["vlm"], ["vlm", "nope"], ["\x1b[31m"], ["vlm", "train"], ["coherence"]):
        if words not in ([], ["vlm"]):  # these print the help
            yield Case(" ".join(words), "words", tuple(words))


def flag(name, hint):
    """Return an option as it is typed; None for an argument."""
    for extra in typing.get_args(hint):
        if isinstance(extra, typer.models.ArgumentInfo):
            return None
        if isinstance(extra, typer.models.OptionInfo) and extra.param_decls:
            return extra.param_decls[0]
    return f"--{name.replace('_', '-')}"


def wrong(name, hint):
    """Values that an option must refuse."""
    kinds = {hint}
    while any(typing.get_args(kind) for kind in kinds):
        kinds = {part for kind in kinds for part in (typing.get_args(kind) or (kind,))}
    kinds = {kind for kind in kinds if isinstance(kind, type)}
    if bool in kinds:
        return []
    for kind, values in ((int, INTEGERS), (float, FLOATS)):
        if kind in kinds:
            return values
    if Path in kinds:
        return FILES if name in READ else FOLDERS if name in ("out", "results") else PLACES
    return SPECIAL.get(name, NAMES)


def furnish(folder):
    """The files that the cases name."""
    from PIL import Image

    for name in ("folder", "folder.py", "folder.png"):
        (folder / name).mkdir()
    for name in ("fifo", "fifo.py"):
        os.mkfifo(folder / name)
    for name in ("empty", "file"):
        (folder / name).touch()
    (folder / "garbage").write_bytes(bytes(range(256)) * 64)
    (folder / "broken.py").write_text("import nothing_of_that_name\n")
    Image.new("RGB", (8, 8)).save(folder / "p.png")


def run(case, folder):
    """The outcome of a case in a process of its own."""
    out, err = folder / ".out", folder / ".err"
    child = os.fork()
    if child == 0:
        code = 70
        try:
            os.chdir(folder)
            os.setsid()
            for number, path in ((1, out), (2, err)):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
            os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
            sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
            used = int(time.process_time())
            resource.setrlimit(resource.RLIMIT_CPU, (used + CPU, used + CPU))
            sys.argv = ["gradprobe", *case.arguments]
            from gradprobe.cli import main

            main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    end = time.monotonic() + WALL
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return Outcome(None, "", "")
        time.sleep(0.005)
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in (out, err)]
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL):
        return Outcome(None, *texts)
    return Outcome(os.waitstatus_to_exitcode(status), *texts)


def warm():
    """Import what the commands would import, once."""
    os.environ["OMP_NUM_THREADS"] = "1"
    import importlib

    for name in ("gradprobe.compare", "gradprobe.testing", "gradprobe.probes.landscape.page",
                 "gradprobe.comparison.page",
                 "gradprobe.vlm.training.train", "gradprobe.vlm.deploy", "gradprobe.vlm.costs.flops",
                 "gradprobe.comparison.ablation",
                 "gradprobe.probes.fidelity.measure", "gradprobe.probes.landscape.measure",
                 "gradprobe.probes.curvature.measure"):  # fmt: skip
        importlib.import_module(name)
    import torch

    torch.set_num_threads(1)


def campaign(every=False, words=""):
    """The cases whose command lines hold a text, with their outcomes."""
    warm()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        furnish(folder)
        for case in cases() if every else chosen_cases():
            if words in " ".join(case.arguments):
                yield case, run(case, folder)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_every_bad_command_line_is_refused_in_one_line():
    faults, count = [], 0
    for case, outcome in campaign():
        count += 1
        if outcome.fault:
            faults.append(f"{outcome.fault}: gradprobe {ascii(case.arguments)[:300]}\n{outcome.err[-600:]}")
    assert count >= 500
    assert not faults, "\n".join(faults)


if __name__ == "__main__":
    tally = Counter()
    typed = [word for word in sys.argv[1:] if word != "--every"]
    for case, outcome in campaign("--every" in sys.argv, " ".join(typed)):
        tally[outcome.fault or f"refused with {outcome.code}"] += 1
        if outcome.fault:
            last = " | ".join((outcome.err or outcome.out).strip().splitlines()[-2:])
            sys.stdout.write(f"{outcome.fault}: {ascii(' '.join(case.arguments))[:200]}: {ascii(last)[:400]}\n")
            sys.stdout.flush()
    sys.stdout.write(f"{sum(tally.values())} command lines: {dict(tally)}\n")
