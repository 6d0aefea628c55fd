"""The page of landscapes, opened in a real browser: it draws, answers to its controls, and asks the network nothing."""

import base64
import io
import itertools
import json
import sys

import numpy as np
import pytest
from landscapes import GUMBEL, VPNOISE, bowl, broken, landscape, rough, stairs
from matplotlib.image import imread

from gradprobe.errors import GradprobeError, UsageError

HARD = "hard+gather"
PATH = [[0.4, -0.9], [0.2, 0.1], [0.0, 0.0]]
PHONE, DESK = (390, 844), (820, 1000)


@pytest.fixture(scope="module")
def results():
    return [
        landscape(rough, op=GUMBEL, level=3.5),
        landscape(bowl, level=7.3, path=PATH),
        broken(landscape(stairs, op=HARD)),
        landscape(lambda a, b: 0 * a * b, op="lapsum+scale"),
    ]


@pytest.fixture(scope="module")
def page(results, tmp_path_factory):
    pytest.importorskip("plotly", reason='no plotly; type: pip install "gradprobe[interactive]"')
    from gradprobe.probes.landscape.page import save_page

    return save_page(results, tmp_path_factory.mktemp("page") / "deep" / "page.html", "Landscapes <of> a test & more")


# --- in a browser ---


def opened(browser, page, size=DESK):
    """Open the page anew in a window of a size; wait until everything is drawn."""
    width, height = size
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size == PHONE}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    for log in ("browser", "performance"):
        browser.get_log(log)
    browser.get(page.as_uri())
    wait_until_drawn(browser)


def wait_until_drawn(browser):
    """Wait until every plot in sight has been drawn and the browser has shown it."""
    from selenium.webdriver.support.ui import WebDriverWait

    done = """return [...document.querySelectorAll(".plot")].filter((e) => e.offsetParent)
        .every((e) => e._fullLayout && !e._transitioning && e.querySelector("svg.main-svg"))"""
    WebDriverWait(browser, 90).until(lambda d: d.execute_script(done))
    browser.execute_async_script("const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(done))")


def choose(browser, operator):
    from selenium.webdriver.support.ui import Select

    Select(browser.find_element("id", "operator")).select_by_visible_text(operator)
    wait_until_drawn(browser)


def press(browser, name):
    browser.find_element("id", name).click()
    wait_until_drawn(browser)


def traces_of(browser, plot="surface"):
    """Return the traces that a plot shows now."""
    return browser.execute_script(
        f"""return document.getElementById("{plot}")._fullData.map((t) => ({{
        type: t.type, name: t.name, visible: t.visible, x: Array.from(t.x), y: Array.from(t.y),
        z: t.z && Array.from(t.z, (row) => row.length === undefined ? row : Array.from(row)),
        low: t.cmin ?? t.zmin, high: t.cmax ?? t.zmax}}))"""
    )


def colours(browser):
    """Return the number of colours of the surface on the screen, and the share of pixels with a strong one."""
    png = base64.b64decode(browser.find_element("id", "surface").screenshot_as_base64)
    pixels = (imread(io.BytesIO(png))[..., :3] * 255).astype(int).reshape(-1, 3)
    return len(np.unique(pixels // 8, axis=0)), (np.ptp(pixels, axis=1) > 40).mean()


def complaints(browser):
    return [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def test_the_page_draws_and_asks_the_network_nothing(browser, page, results):
    opened(browser, page)
    assert browser.title == "Landscapes <of> a test & more"
    assert browser.execute_script('return document.querySelector("#surface .gl-container canvas").width') > 100
    many, coloured = colours(browser)
    assert many > 20
    text = browser.find_element("tag name", "main").text
    assert "7x11 grid 0.2 apart, 8 images, common noise, K = 58" in text
    assert f"{GUMBEL}: mean step" in text
    choose(browser, VPNOISE)
    assert colours(browser)[1] > coloured + 0.02  # a steep surface has strong colours
    press(browser, "from-above")
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert urls[0] == page.as_uri()
    assert {url.partition(":")[0] for url in urls[1:]} <= {"data", "blob"}
    assert not complaints(browser)


def test_controls_change_what_is_shown(browser, page, results):
    opened(browser, page)
    assert [o.text for o in browser.find_elements("tag name", "option")] == [r.question["op"] for r in results]
    bounds = set()
    for view, kind in (("in-space", "surface"), ("from-above", "contour")):
        press(browser, view)
        for result in results:
            choose(browser, result.question["op"])
            traces = traces_of(browser)
            rise = result.surface - result.centre.mean()
            assert traces[0]["type"] == kind
            heights = np.array([[np.nan if v is None else v for v in row] for row in traces[0]["z"]], float)
            np.testing.assert_allclose(heights, np.where(np.isfinite(rise), rise, np.nan), atol=1e-12)
            np.testing.assert_allclose(traces[0]["x"], result.b)  # d2 lies, d1 stands
            np.testing.assert_allclose(traces[0]["y"], result.a)
            bounds.add((round(traces[0]["low"], 9), round(traces[0]["high"], 9)))
            marks = {tuple(np.round(p, 6)) for t in traces[1:] for p in zip(t["y"], t["x"], strict=True)}
            assert {(0, 0), *(tuple(np.round(p, 6)) for p in result.path)} <= marks
            assert ((round(result.a[4], 6), round(result.b[7], 6)) in marks) == (result.question["op"] == HARD)
    assert len(bounds) == 1  # one colour scale
    choose(browser, HARD)
    assert browser.find_element("id", "about").text == "L(0) = 7; not finite: 1 NaN, 1 infinite"
    assert not complaints(browser)


def test_another_operator_keeps_the_angle_and_reset_undoes_it(browser, page):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.support.ui import WebDriverWait

    def eye(camera):
        return np.array([browser.execute_script(f"return {camera}.eye")[axis] for axis in "xyz"])

    def current():
        """Return the place of the camera; it glides there frame by frame, as fast as the machine can draw."""
        return eye('document.getElementById("surface")._fullLayout.scene._scene.getCamera()')

    def remembered():
        """Return the place of the camera at the next drawing; it changes when a drag ends."""
        return eye('document.getElementById("surface")._fullLayout.scene.camera')

    def wait(condition):
        WebDriverWait(browser, 90).until(lambda _: condition())

    opened(browser, page)
    choose(browser, VPNOISE)
    first = remembered()
    wait(lambda: np.allclose(current(), first, atol=1e-6))
    canvas = browser.find_element("css selector", "#surface .gl-container")
    ActionChains(browser).move_to_element(canvas).click_and_hold().move_by_offset(120, 30).release().perform()
    wait(lambda: np.abs(remembered() - first).max() > 0.1)
    turned = remembered()
    choose(browser, GUMBEL)
    wait(lambda: np.allclose(current(), turned, atol=1e-6))
    press(browser, "reset")
    wait(lambda: np.allclose(current(), first, atol=1e-6))


@pytest.mark.parametrize("view", ["in-space", "from-above"])
def test_hover_tells_coordinates_loss_and_difference(browser, page, results, view):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.support.ui import WebDriverWait

    opened(browser, page)
    choose(browser, VPNOISE)
    press(browser, view)
    plot = browser.find_element("id", "surface")
    words = 'return [...document.querySelectorAll("#surface .hovertext")].map((e) => e.textContent).join()'

    def hovered(driver):
        x, y = next(places)
        ActionChains(driver).move_to_element_with_offset(plot, x, y).pause(0.4).perform()
        text = driver.execute_script(words)
        return text if "d1 = " in text else None  # not theta or a checkpoint

    places = itertools.product((60, 80, 100), (0, 20, 40, 60))
    text = WebDriverWait(browser, 30, poll_frequency=0.05).until(hovered)
    result = results[1]
    cells = {
        f"d1 = {a:.4g}, d2 = {b:.4g} (filter units)L = {loss:.5g}L − L(0) = {loss - 7.3:+.4g}"
        for a, row in zip(result.a, result.surface, strict=True)
        for b, loss in zip(result.b, row, strict=True)
    }
    assert text in cells


def test_without_webgl_there_are_contours(browser, page):
    none = """const get = HTMLCanvasElement.prototype.getContext;
        HTMLCanvasElement.prototype.getContext = function (kind, ...more) {
        return kind.includes("webgl") ? null : get.call(this, kind, ...more)}"""
    script = browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": none})
    try:
        opened(browser, page)
        assert traces_of(browser)[0]["type"] == "contour"
        button = browser.find_element("id", "in-space")
        assert (button.is_enabled(), button.text) == (False, "3-D (needs WebGL)")
        assert not complaints(browser)
    finally:
        browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)


def test_the_legend_switches_operators_of_the_variation(browser, page, results):
    from selenium.webdriver.support.ui import WebDriverWait

    opened(browser, page)
    traces = traces_of(browser, "variation")
    first = next(t for t in traces if t["name"] == GUMBEL)
    np.testing.assert_allclose(first["y"], np.abs(np.diff(results[0].surface, axis=1)).mean(0))
    np.testing.assert_allclose(first["x"], (results[0].b[1:] + results[0].b[:-1]) / 2)
    flat = [t for t in traces if t["name"] == "lapsum+scale"]
    assert [[y is not None and y > 0 for y in t["y"]] for t in flat] == [[False] * 10, [True] * 10]  # zeros: marks
    browser.find_elements("css selector", "#variation .legendtoggle")[0].click()
    WebDriverWait(browser, 10).until(lambda d: traces_of(d, "variation")[0]["visible"] == "legendonly")
    assert not complaints(browser)


@pytest.mark.parametrize("kind", ["planes", "lines"])
def test_a_phone_needs_no_sideways_scrolling(browser, page, kind, tmp_path):
    if kind == "lines":
        from gradprobe.probes.landscape.page import save_page

        results = [landscape(rough, op="gumbel-ste:backward=soft+gather", rows=1), broken_line()]
        page = save_page(results, tmp_path / "lines.html", "Lines")
    opened(browser, page, PHONE)
    width = browser.execute_script(
        "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert width[0] <= width[1] == PHONE[0]
    for plot in browser.find_elements("css selector", ".plot"):
        if plot.is_displayed():
            assert 300 < plot.size["width"] <= PHONE[0]
            assert plot.size["height"] > 300
    if kind == "lines":
        assert not browser.find_element("id", "operator").is_displayed()
        drawn_lines = traces_of(browser, "lines")
        assert [t["y"][3] for t in drawn_lines if len(t["y"]) == 11][-1] is None  # the infinite point is a gap
        assert [len(t["y"]) for t in drawn_lines] == [11, 11, 1]  # and a cross
    assert not complaints(browser)


def broken_line():
    result = landscape(rows=1)
    result.losses[0, 3, 2] = np.inf
    return result


# --- the file ---


def test_same_results_same_bytes(page, results, tmp_path):
    from gradprobe.probes.landscape.page import save_page

    again = save_page(results, tmp_path / "again.html", "Landscapes <of> a test & more")
    assert again.read_bytes() == page.read_bytes()
    assert save_page(results[1:], tmp_path / "other.htm", "x").read_bytes() != page.read_bytes()


def test_a_name_cannot_end_the_script(tmp_path):
    pytest.importorskip("plotly")
    from gradprobe.probes.landscape.page import save_page

    evil = "my</script><b>.py:Op"
    text = save_page([landscape(op=evil)], tmp_path / "a.html", evil).read_text(encoding="utf-8")
    ends = text.lower().count("</script>"), text.lower().count("<script>")
    assert (text.count(evil), *ends) == (0, 2, 2)  # of 5 MB: no diff, please


def test_what_cannot_be_written(monkeypatch, tmp_path):
    from gradprobe.probes.landscape.page import save_page

    with pytest.raises(UsageError, match=r"use \.html"):
        save_page([landscape()], tmp_path / "a.png", "t")
    with pytest.raises(UsageError, match="at least one"):
        save_page([], tmp_path / "a.html", "t")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "plotly", None)
        with pytest.raises(GradprobeError, match=r'pip install "gradprobe\[interactive\]"'):
            save_page([landscape()], tmp_path / "a.html", "t")
        assert not list(tmp_path.iterdir())
    pytest.importorskip("plotly")
    (tmp_path / "file").touch()
    with pytest.raises(GradprobeError, match="cannot write"):
        save_page([landscape()], tmp_path / "file" / "a.html", "t")
