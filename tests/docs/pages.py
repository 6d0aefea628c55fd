"""Pages of the documentation and their blocks of code, as a reader copies them."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$", re.M | re.S)
MARKER = re.compile(r"<!-- not run: needs (.+) -->\n\Z")
NEEDS = ("a GPU", "a model of the hub", "a network", "a file of the reader's")  # what a marker may give as a reason
SHELL = ("bash", "console")
PROMPT = "$ "


@dataclass(frozen=True)
class Block:
    """A block of code of a page.

    Attributes:
        page: path from the root of the repository.
        line: of its first line of code.
        language: after the fence.
        text: its code.
        needs: what its marker says that it needs and a test does not have; empty where it runs.
    """

    page: str
    line: int
    language: str
    text: str
    needs: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def file(self) -> str:
        """Name of the file that the block is to be saved as, ``# NAME.py`` in its first line; empty if it has none."""
        named = re.match(r"# (\w+\.py)\n", self.text)
        return named[1] if named else ""

    @property
    def lines(self) -> list[str]:
        """Lines of a shell block that are typed; a line that ends in a backslash is joined with the next."""
        joined = self.text.replace("\\\n", " ").splitlines()
        if self.language == "console":
            return [line.removeprefix(PROMPT) for line in joined if line.startswith(PROMPT)]
        return [line for line in joined if line.strip() and not line.startswith("#")]


def blocks(path: Path) -> list[Block]:
    """Return the blocks of a page in their order."""
    text = path.read_text(encoding="utf-8")
    made = []
    for found in FENCE.finditer(text):
        marker = MARKER.search(text[: found.start()])
        line = text[: found.start("text")].count("\n") + 1
        page = path.relative_to(ROOT).as_posix()
        made.append(Block(page, line, found["language"], found["text"], marker[1] if marker else ""))
    return made


def of_language(*languages: str) -> list[Block]:
    """Return the blocks of all pages in one of some languages."""
    return [block for page in PAGES for block in blocks(page) if block.language in languages]


def commands(line: str) -> list[list[str]]:
    """Return the words of each gradprobe command in a line of a shell: ``gradprobe list ; gradprobe show 0c8e``."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";|&")
    lexer.whitespace_split = True
    parts: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= set(";|&"):
            parts.append([])
        else:
            parts[-1].append(word)
    return [part[1:] for part in parts if part[:1] == ["gradprobe"]]


def spans(path: Path) -> list[str]:
    """Return the commands that a page names in its running text."""
    prose = FENCE.sub("", path.read_text(encoding="utf-8"))
    return [" ".join(span.split()).replace("\\|", "|") for span in re.findall(r"`(gradprobe [^`]+)`", prose)]
