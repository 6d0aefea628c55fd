"""Every block of code of README and docs: Python runs, page by page; command lines are possible, and quick ones run."""

import ast
import importlib
import json
import tomllib

import pytest
import yaml
from pages import NEEDS, PAGES, ROOT, SHELL, blocks, commands, of_language, spans
from typer.core import TyperCommand

import gradprobe as gp

NAMED = [page.relative_to(ROOT).as_posix() for page in PAGES]
WITH_PYTHON = list(dict.fromkeys(block.page for block in of_language("python")))
SAVED = {block.file: block.text for block in of_language("python") if block.file}  # files that readers write themselves
QUICK = (["check"], ["cite"], ["list"], ["vlm", "cost", "--model", "llava-hf/llava-1.5-7b-hf"])
LANGUAGES = {"python", "toml", "json", "yaml", "text", "", *SHELL}
MARKED = 1  # blocks that no test can run; the less the better


def run_block(block, folder, namespace):
    """Save a block that names a file and import it; run any other one where the page stands."""
    if block.file:
        (folder / block.file).write_text(block.text)
        importlib.invalidate_caches()
        namespace |= vars(importlib.import_module(block.file.removesuffix(".py")))
    else:
        code = "\n" * (block.line - 1) + block.text  # a traceback then names the line of the page
        exec(compile(code, block.page, "exec"), namespace)


@pytest.mark.parametrize("page", WITH_PYTHON)
def test_python_blocks_run_in_their_order(folder, page):
    namespace = {"__name__": "a_page"}
    for block in blocks(ROOT / page):
        if block.language == "python" and not block.needs:
            run_block(block, folder, namespace)


@pytest.mark.parametrize("block", [b for page in PAGES for b in blocks(page) if b.needs], ids=str)
def test_a_block_that_is_not_run_says_why_and_uses_names_that_exist(block):
    assert set(block.needs.split(", ")) <= set(NEEDS)
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            exec(ast.unparse(node), {})
        elif isinstance(node, ast.Attribute) and ast.unparse(node).startswith("gp."):
            exec(ast.unparse(node), {"gp": gp})


def test_few_blocks_are_not_run():
    assert sum(bool(block.needs) for page in PAGES for block in blocks(page)) <= MARKED


def test_every_block_has_a_language_that_is_tested():
    assert {block.language for page in PAGES for block in blocks(page)} <= LANGUAGES


@pytest.mark.parametrize("block", of_language("toml", "json", "yaml"), ids=str)
def test_files_of_settings_can_be_read(block):
    for text in block.text.splitlines() if block.language == "json" else [block.text]:
        {"toml": tomllib.loads, "json": json.loads, "yaml": yaml.safe_load}[block.language](text)


@pytest.fixture
def parse(monkeypatch, run, folder):
    """Read a command line as the program does, and stop before anything is done; gives exit code and error."""
    monkeypatch.setattr(TyperCommand, "invoke", lambda self, context: None)
    for name, text in SAVED.items():
        (folder / name).write_text(text)

    def go(words):
        code, _, err = run(*words)
        return code, err

    return go


@pytest.mark.parametrize("page", NAMED)
def test_commands_of_a_page_are_possible(parse, page):
    typed = [words for b in blocks(ROOT / page) if b.language in SHELL for line in b.lines for words in commands(line)]
    for words in typed:
        code, err = parse(words)
        assert code == 0, f"gradprobe {' '.join(words)}: {err}"


@pytest.mark.parametrize("page", NAMED)
def test_commands_in_running_text_have_names_and_options_that_exist(parse, page):
    for span in spans(ROOT / page):
        for words in commands(span):
            code, err = parse(words)
            unfinished = "Missing" in err or "requires an argument" in err or words == ["vlm"]
            assert code == 0 or unfinished, f"`{span}`: {err}"


def quick_ones():
    for block in of_language(*SHELL):
        for line in block.lines:
            yield from (words for words in commands(line) if any(words[: len(quick)] == quick for quick in QUICK))


@pytest.mark.parametrize("words", list(quick_ones()), ids=" ".join)
def test_quick_commands_run(run, folder, words):
    for name, text in SAVED.items():
        (folder / name).write_text(text)
    code, out, err = run(*words)
    assert code == 0, err
    assert out.strip() or words[0] == "list"
