"""The page of a comparison, opened in a real browser: it shows every number, sorts, fits, prints, and asks nobody."""

import base64
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from compared import MINE, OPS, comparison
from landscapes import GUMBEL, VPNOISE
from PIL import Image

from gradprobe.comparison.comparison import compared, metrics, rows
from gradprobe.comparison.figures import figures_of
from gradprobe.comparison.page import write_report
from gradprobe.comparison.tables import value
from gradprobe.comparison.verdict import report_json
from gradprobe.errors import GradprobeError, UsageError

EVIL = "<b>x</b>\"'&{{1+1}}</script>.py:Op"
DESK, PHONE = (1280, 900), (390, 844)


@pytest.fixture(scope="module")
def full():
    return comparison((*OPS, EVIL), title="A <test> & more", missing=("cost of y: <i>no time</i>",))


@pytest.fixture(scope="module")
def page(full, tmp_path_factory):
    return write_report(full, tmp_path_factory.mktemp("page") / "deep" / "page.html", figures_of(full))


# --- in a browser ---


def opened(browser, page, size=DESK):
    metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size[0] < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    for log in ("browser", "performance"):
        browser.get_log(log)
    browser.get(page.as_uri())


def complaints(browser):
    return [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def column(browser, name, table=0):
    """Text of a column's cells from top to bottom, and its heading's aria-sort."""
    return browser.execute_script(
        """const table = document.querySelectorAll(".sheet:not(.grid) table")[arguments[1]];
        const headings = [...table.tHead.rows[0].cells];
        const i = headings.findIndex((cell) => cell.querySelector("button").textContent === arguments[0]);
        return [[...table.tBodies[0].rows].map((row) => row.cells[i].textContent.trim()),
          headings[i].getAttribute("aria-sort"), headings.filter((cell) => cell.ariaSort !== "none").length]""",
        name, table,
    )  # fmt: skip


def button(browser, name, table=0):
    grid = browser.find_elements("css selector", ".sheet:not(.grid) table")[table]
    return next(b for b in grid.find_elements("css selector", "thead button") if b.text == name)


def test_the_page_shows_all_and_asks_the_network_nothing(browser, page, full):
    opened(browser, page)
    assert browser.title == full.title
    text = browser.find_element("tag name", "main").text
    for row in rows(full):
        for metric in metrics():
            if metric.name in row["metrics"] and row["metrics"][metric.name]["value"] is not None:
                for part in value(metric, row["metrics"][metric.name]).split(" ", 1):
                    assert part in text, (row["op"], metric.name)
    for told in (
        full.command,
        EVIL,
        full.missing[0],
        "sha256:0123",
        "numpy",
        "seed 1, 2, 3",
        "2026-01-02 to 2026-01-03",
    ):
        assert told in text, told
    assert [s.get_attribute("id") for s in browser.find_elements("css selector", "section")] == [
        "summary", *compared(), "missing", "again"
    ]  # fmt: skip
    widths = "return [...document.querySelectorAll('svg')].map((e) => e.getBoundingClientRect().width)"
    sizes = browser.execute_script(widths)
    assert len(sizes) == len(compared()) and min(sizes) > 250
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert asked[0] == page.as_uri()
    assert {url.partition(":")[0] for url in asked[1:]} <= {"data"}
    assert not complaints(browser)


def test_the_verdict_comes_first_and_is_that_of_the_json(browser, page, full):
    opened(browser, page)
    told = json.loads(json.dumps(report_json(full)))
    shown = browser.find_element("id", "verdict")
    assert shown.get_attribute("textContent") == told["verdict"]["sentence"]
    assert shown.get_attribute("class") == f"verdict {told['verdict']['outcome']}"
    assert browser.execute_script("return document.querySelector('main p') === document.getElementById('verdict')")
    assert shown.location["y"] < DESK[1] / 3
    assert not complaints(browser)


def test_the_grid_says_in_words_and_colour_what_the_json_says(browser, page, full):
    opened(browser, page)
    told = report_json(full)["grid"]
    shown = browser.execute_script(
        """const [head, ...rows] = document.querySelectorAll("#grid tr");
        const text = (cell) => [...cell.childNodes].filter((e) => e.nodeType === 3).map((e) => e.data).join("").trim();
        return [[...head.cells].slice(1).map((e) => e.textContent), rows.map((row) => [...row.cells].map((e) =>
          [e.textContent, text(e), e.className, getComputedStyle(e).backgroundColor]))]"""
    )
    ops = [op for op in full.ops if op != full.focus]
    assert shown[0] == [f"against{op}" for op in ops]
    by_name, colours = {metric.name: metric for metric in metrics()}, {}
    for line, (heading, *cells) in zip(told, shown[1], strict=True):
        assert heading[0] == f"{by_name[line['measure']].heading}{line['better']} is better"
        for op, (_, word, kind, colour) in zip(ops, cells, strict=True):
            assert word == kind == line["against"][op]
            colours.setdefault(kind, set()).add(colour)
    assert {"better", "worse", "undecided"} <= set(colours)
    assert all(len(each) == 1 for each in colours.values())
    assert len(set.union(*colours.values())) == len(colours)  # each word its own colour
    assert "one scorer" in shown[1][1][1][0] and "5 seeds" in shown[1][0][1][0]


def test_every_column_of_a_metric_says_which_way_is_better(browser, page):
    opened(browser, page)
    for table in (0, 1):
        headings = browser.find_elements("css selector", ".sheet:not(.grid) table")[table].find_elements(
            "css selector", "thead th"
        )
        texts = [heading.get_attribute("textContent") for heading in headings[1:]]
        assert len(texts) == len(metrics())
        for text, metric in zip(texts, metrics(), strict=True):
            assert text.endswith(f"{metric.better} is better" if metric.better else "nearer 0 is better"), text


def test_seeds_and_both_spreads_of_retention_are_shown(browser, page, full):
    opened(browser, page)
    text = browser.find_element("tag name", "main").text
    assert "compared by 5 seeds" in text
    tables = browser.find_elements("css selector", "#retention table")
    (shown,) = (row for row in tables[0].text.splitlines() if row.startswith(GUMBEL))
    spread = next(row for row in rows(full) if row["op"] == GUMBEL)["metrics"]["retention"]["spread"]
    assert f" {spread['seeds']:.3f} {spread['images']:.3f} " in shown
    few = comparison((MINE, GUMBEL), probes=("retention",), floors=())
    few = replace(few, results={"retention": [r for r in few.results["retention"] if r.question["seed"] < 3]})
    opened(browser, write_report(few, page.parent / "few.html", {}))
    marks = [e.get_attribute("textContent") for e in browser.find_elements("css selector", "#summary .mark")]
    assert marks[0] == "(2 seeds)" and marks[1] == "· (2 seeds)"  # the focus too
    assert not complaints(browser)


def test_names_are_text(browser, page):
    opened(browser, page)
    assert not browser.find_elements("css selector", "main b, main i")
    names = browser.execute_script("return [...document.querySelectorAll('tbody th')].map((e) => e.textContent)")
    assert EVIL in names
    assert all("2.py" not in name for name in names)


def test_no_two_elements_share_an_id(browser, page):
    opened(browser, page)
    ids = browser.execute_script("return [...document.querySelectorAll('[id]')].map((e) => e.id)")
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("how", ["mouse", "keyboard"])
def test_tables_sort_both_ways(browser, page, full, how):
    opened(browser, page)

    def press(name):
        if how == "mouse":
            return button(browser, name).click()
        return button(browser, name).send_keys("\ue007" if name == "cost" else " ")  # Enter, or the space bar

    table = rows(full)[:-1]
    found = {metric.name: {r["op"]: r["metrics"][metric.name]["value"] for r in table} for metric in metrics()}
    for name, first in (("retention", "descending"), ("cost", "ascending")):
        expected = sorted(found[name].values(), reverse=first == "descending")
        for order, shown in ((first, expected), ({"ascending": "descending"}.get(first, "ascending"), expected[::-1])):
            press(name)
            texts, aria, sorted_by = column(browser, name)
            numbers = [float(text.split()[0].rstrip("▲▼·")) for text in texts if text]
            assert (aria, sorted_by) == (order, 1)
            if name == "cost":
                assert numbers == pytest.approx(shown, abs=0.006)
                assert texts[-1] == ""  # the ranking, which has no cost, is last both ways
            else:
                assert numbers == sorted(numbers, reverse=order == "descending")
    press("operator")
    names, aria, _ = column(browser, "operator")
    assert (names, aria) == (sorted(names, key=str.lower), "ascending")
    assert column(browser, "operator", table=1)[1] == "none"  # other tables stay
    assert not complaints(browser)


def test_the_command_can_be_copied(browser, page, full):
    from selenium.webdriver.support.ui import WebDriverWait

    opened(browser, page)
    browser.execute_script("window.copied = ''; navigator.clipboard.writeText = async (t) => { window.copied = t; }")
    copy = browser.find_element("css selector", "button.copy")
    copy.click()
    WebDriverWait(browser, 5).until(lambda d: copy.text == "copied")
    assert browser.execute_script("return window.copied") == full.command


@pytest.mark.parametrize("width", [1280, 500, 390])
def test_the_page_never_scrolls_sideways_and_says_where_its_tables_do(browser, page, width):
    from selenium.webdriver.support.ui import WebDriverWait

    opened(browser, page, (width, 844))
    root = "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    scroll, inside = browser.execute_script(root)
    assert scroll <= inside <= width
    boxes = "return [...document.querySelectorAll('.sheet, figure')].map((e) => [e.getBoundingClientRect().right, "
    boxes += "e.scrollWidth - e.clientWidth > 4, getComputedStyle(e).overflowX, "
    boxes += "getComputedStyle(e.previousElementSibling).display !== 'none'])"
    WebDriverWait(browser, 5).until(lambda d: all(cue == wide for _, wide, _, cue in d.execute_script(boxes)))
    boxes = browser.execute_script(boxes)
    assert all(right <= width for right, *_ in boxes)
    assert {overflow for _, wide, overflow, _ in boxes if wide} <= {"auto"}  # wide ones scroll in their own box
    assert any(wide for _, wide, *_ in boxes) == (width < 1280)
    assert not complaints(browser)


def test_names_stay_while_numbers_scroll_and_the_cue_goes_at_the_end(browser, page):
    from selenium.webdriver.support.ui import WebDriverWait

    opened(browser, page, PHONE)
    for box in (".sheet:not(.grid)", ".grid"):
        name = browser.execute_script(
            """const box = document.querySelector(arguments[0]); box.scrollLeft = 60;
            return box.querySelector("tbody th").getBoundingClientRect().left - box.getBoundingClientRect().left""",
            box,
        )
        assert abs(name) < 5
        browser.execute_script("const b = document.querySelector(arguments[0]); b.scrollLeft = b.scrollWidth", box)
        WebDriverWait(browser, 5).until(
            lambda d, box=box: d.execute_script(
                "return !document.querySelector(arguments[0]).classList.contains('more')", box
            )
        )


def shades(browser):
    """Lightness of the page, and mean and range of that of the pixels of its first figure, between 0 and 1."""
    image = Image.open(io.BytesIO(browser.find_element("css selector", "figure").screenshot_as_png)).convert("L")
    pixels = np.asarray(image, float) / 255
    page = browser.execute_script(
        """return getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).slice(0, 3)
        .reduce((sum, part) => sum + Number(part), 0) / 765"""
    )
    return page, pixels.mean(), np.ptp(pixels)


def test_figures_follow_the_page_into_the_dark(browser, page):
    opened(browser, page)
    found = {}
    for scheme in ("light", "dark"):
        features = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", features)
        found[scheme] = shades(browser)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert found["light"][0] > 0.9 and found["light"][1] > 0.75
    assert found["dark"][0] < 0.15 and found["dark"][1] < 0.25
    assert min(found["light"][2], found["dark"][2]) > 0.7  # text and axes stand out in both


def test_print_fits_the_sheet_and_hides_what_paper_cannot_do(browser, page):
    opened(browser, page, (696, 1000))  # A4 less its margins, at 96 points an inch
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        shown = "return [...document.querySelectorAll(arguments[0])].filter((e) => e.offsetParent).length"
        assert browser.execute_script(shown, "nav, button.copy, .cue") == 0
        assert browser.execute_script(shown, "table") > 5
        wide = browser.execute_script(
            """return [...document.querySelectorAll(".wide table, figure svg")].map((e) =>
            e.getBoundingClientRect().right - document.querySelector("main").getBoundingClientRect().right)"""
        )
        assert max(wide) < 1
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    pdf = base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})["data"])
    pages = re.findall(rb"/MediaBox\s*\[0 0 ([\d.]+) ([\d.]+)\]", pdf)
    assert 3 <= len(pages) <= 15
    assert all((round(float(w)), round(float(h))) == (595, 842) for w, h in pages)


@pytest.mark.parametrize("kind", ["one operator", "one probe", "nothing"])
def test_little_is_shown_as_well(browser, tmp_path, kind):
    chosen = {
        "one operator": comparison((MINE,), floors=()),
        "one probe": comparison((VPNOISE, GUMBEL), probes=("cost",), command=""),
        "nothing": comparison((MINE,), probes=(), missing=("coherence: no data",)),
    }[kind]
    figures = dict.fromkeys(chosen.results, "<svg></svg>")
    opened(browser, write_report(chosen, tmp_path / "page.html", figures))
    text = browser.find_element("tag name", "main").text
    assert ("alone: nothing to compare it with" in text) == (kind != "one probe")
    assert ("Nothing is compared" in text) == (kind != "one probe")
    assert ("Differences" in text) == (kind == "one probe")
    expected = {"one operator": len(compared()), "one probe": 1, "nothing": 0}[kind]
    assert len(browser.find_elements("css selector", "figure")) == expected
    assert bool(browser.find_elements("css selector", "button.copy")) == (kind != "one probe")
    assert not complaints(browser)


# --- the file ---


def test_same_comparison_same_bytes(tmp_path):
    pages = []
    for name in ("one.html", "two.htm"):
        found = comparison((MINE, GUMBEL), probes=("coherence", "cost"))
        pages.append(write_report(found, tmp_path / name, figures_of(found)).read_bytes())
    assert pages[0] == pages[1]


def test_the_file_names_no_address_and_ends_no_script(page):
    text = page.read_text(encoding="utf-8")
    assert "default-src 'none'" in text
    assert not re.findall(r"https?:", re.sub(r'xmlns(:\w+)?="[^"]*"', "", text))
    assert not re.findall(r"\ssrc=|@import|url\((?!#)|<link(?! rel=\"icon\" href=\"data:)", text)
    assert text.lower().count("</script>") == text.lower().count("<script>") == 1


def test_what_cannot_be_written(full, monkeypatch, tmp_path):
    with pytest.raises(UsageError, match=r"use \.html"):
        write_report(full, tmp_path / "a.pdf", {})
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(GradprobeError, match="cannot write"):
        write_report(full, tmp_path / "file" / "a.html", {})
