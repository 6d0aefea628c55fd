"""Links of the documentation lead somewhere, every figure has a caption, and every public name is in the reference."""

import importlib
import re

import pytest
import yaml
from pages import FENCE, PAGES, ROOT

import gradprobe as gp

EVERY = [*PAGES, ROOT / "figures" / "README.md", ROOT / "CHANGELOG.md"]
LINK = re.compile(r"\]\(([^)\s]+)\)")
REFERENCE = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "api").glob("*.md"))
PLACE = re.compile(r"`((?:tests|gradprobe|experiments)/[\w./*-]+)`")
CAPTION = re.compile(r"!\[([^\]]+)\]\((\w+)\.png\)\n\n((?:- .*\n(?:  .*\n)*)+)")


def prose(path):
    return FENCE.sub("", path.read_text(encoding="utf-8"))


def anchors(path):
    """Names of a page's headings, as GitHub and the site make them."""
    titles = [re.sub(r"[^\w\s-]", "", title.lower()) for title in re.findall(r"^#+ (.+)$", prose(path), re.M)]
    return {re.sub(r"\s", "-", title.strip()) for title in titles}


@pytest.mark.parametrize("page", EVERY, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_of_a_page_lead_somewhere(page):
    for link in LINK.findall(prose(page)):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", EVERY, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_files_that_a_page_names_exist(page):
    for place in PLACE.findall(prose(page)):
        assert "NAME" in place or list(ROOT.glob(place)), place


def test_every_figure_has_a_caption_with_model_interval_and_finding():
    captions = {name: (alt, text) for alt, name, text in CAPTION.findall((ROOT / "figures" / "README.md").read_text())}
    assert set(captions) == {path.stem for path in (ROOT / "figures").glob("*.png")}
    for alt, text in captions.values():
        assert len(alt.split()) > 3
        assert re.search(r"\*\*Models?\*\*: .*(?:K =|averages)", text)
        assert "- **Interval**:" in text
        assert "- **Here**:" in text


@pytest.mark.parametrize("module", [gp, gp.vlm], ids=lambda m: m.__name__)
def test_every_public_name_is_in_the_reference(module):
    listed = {line.rsplit(".", 1)[-1] for line in re.findall(r"^::: (\S+)", REFERENCE, re.M)}
    assert set(module.__all__) <= listed


def test_names_of_the_reference_exist():
    for path in re.findall(r"^::: (\S+)", REFERENCE, re.M):
        module, _, name = path.rpartition(".")
        assert hasattr(importlib.import_module(module), name), path


def test_every_page_is_in_the_menu_of_the_site():
    def leaves(node):
        if isinstance(node, str):
            return [node]
        return [leaf for each in (node.values() if isinstance(node, dict) else node) for leaf in leaves(each)]

    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    menu = set(leaves(yaml.safe_load(text)["nav"]))
    pages = {path.relative_to(ROOT).as_posix() for path in EVERY}
    notebooks = {path.with_suffix(".md").relative_to(ROOT).as_posix() for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert menu == pages | notebooks
