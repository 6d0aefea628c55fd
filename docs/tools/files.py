"""Files of the site under the paths that they have in the repository: a relative link means the same in both.

mkdocs takes pages from one folder alone. This hook gives it README, guides, figures and notebooks, and whatever else of
the repository a page links to.
"""

import json
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "docs/**/*.md", "figures/README.md")
ASSETS = ("docs/tools/*.css",)
NOTEBOOKS = "notebooks/*.ipynb"
CODE, OPTION = re.compile(r"<code>[^<]*</code>"), re.compile(r"--\w[\w-]*")
LINK = re.compile(r"\]\(([^)\s#:]+)[#)]")


def on_files(files: Files, config: Any) -> Files:
    """Replace the pages that mkdocs found by those of the repository, and add notebooks as pages."""
    pages, notebooks = _matching(*PAGES), _matching(NOTEBOOKS)
    linked = {path for page in pages for path in _linked(page)}
    ours = sorted({*pages, *notebooks, *_matching(*ASSETS), *linked})
    made = [File.generated(config, _uri(path), abs_src_path=str(path)) for path in ours]
    made += [File.generated(config, _uri(path.with_suffix(".md")), content=as_markdown(path)) for path in notebooks]
    theme = [file for file in files if not Path(file.abs_src_path or ROOT).is_relative_to(ROOT / "docs")]
    return Files([*theme, *made])


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    """Keep the name of an option on one line, where a browser would break it behind its hyphens."""
    return CODE.sub(lambda code: OPTION.sub(r'<span class="option">\g<0></span>', code[0]), html)


def as_markdown(path: Path) -> str:
    """Return a notebook as a page: text, code, and what the code printed."""
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", ()):
            text = "".join(output.get("text") or output["data"]["text/plain"])
            parts.append(f"```text\n{text.rstrip()}\n```")
    return "\n\n".join([*parts, f"[This page as a notebook]({path.name})", ""])


def _linked(page: Path) -> set[Path]:
    """Return the files to which a page links, beside pages."""
    targets = {(page.parent / link).resolve() for link in LINK.findall(page.read_text(encoding="utf-8"))}
    return {path for path in targets if path.is_file() and path.is_relative_to(ROOT) and path.suffix != ".md"}


def _matching(*patterns: str) -> list[Path]:
    return [path for pattern in patterns for path in sorted(ROOT.glob(pattern))]


def _uri(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()
