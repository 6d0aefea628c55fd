"""Shared by all tests: the real assets, the command, a browser, and one thread so that parallel tests do not fight."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).parents[1]
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


def pytest_configure(config):
    os.environ["GRADPROBE_CACHE"] = tempfile.mkdtemp(prefix="gradprobe-cache-")  # tests never touch the user's own
    if os.environ.get("PYTEST_XDIST_WORKER"):
        torch.set_num_threads(1)
    # No test fails for its time: a machine may be busy.
    settings.register_profile("gradprobe", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("gradprobe")


def pytest_unconfigure(config):
    shutil.rmtree(os.environ["GRADPROBE_CACHE"], ignore_errors=True)


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder of real weights and images; third-party data that cannot ship, so without it the test is skipped.

    A folder that was named and is not there is an error, not a skip.
    """
    named = os.environ.get("GRADPROBE_ASSETS")
    folder = Path(named or ROOT.parent / "shared" / "assets")
    if named and not folder.is_dir():
        pytest.fail(f"GRADPROBE_ASSETS is {named}, which is no folder")
    if not folder.is_dir():
        pytest.skip("no real assets: set GRADPROBE_ASSETS to the folder that holds them")
    return folder


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run gradprobe in an empty folder; gives exit code, stdout and stderr."""
    from gradprobe import cli

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")

    def go(*arguments):
        monkeypatch.setattr("sys.argv", ["gradprobe", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        captured = capsys.readouterr()
        return stop.value.code, captured.out, captured.err

    return go


@pytest.fixture
def free(monkeypatch):
    """Pretend that so many bytes are free on a GPU: ``free(40e9)``."""
    from gradprobe.training import memory

    def set_free(size):
        memory.rows_for.cache_clear()
        monkeypatch.setattr(memory, "free_memory", lambda device: size)

    yield set_free
    memory.rows_for.cache_clear()


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium without a graphics card and without a network."""
    pytest.importorskip("selenium", reason="no selenium; type: pip install selenium")
    from selenium import webdriver

    programs = [next(filter(None, map(shutil.which, names)), None) for names in (CHROMIUM, ("chromedriver",))]
    if not all(programs):
        pytest.skip("no Chromium; type: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--use-angle=swiftshader",
        "--enable-unsafe-swiftshader", "--host-resolver-rules=MAP * ~NOTFOUND",
    ):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=programs[1]))
    yield driver
    driver.quit()
