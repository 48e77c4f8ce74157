"""The page in a real browser: widths, console, colours, sorting, copying, the Gantt chart, hostile names."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image, ImageStat
from selenium import webdriver
from selenium.webdriver.common.by import By

from ppipe.report.page import make_report
from tests.report.made import HOSTILE, make_hostile

pytestmark = pytest.mark.slow
LONGEST_LOAD_S = 5.0
"""Of processor time, of a slow one too: however busy the machine is."""
LIGHT, DARK = 200, 80
"""Mean brightness above and below which a page is light and dark."""


@pytest.fixture(scope="module")
def page(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("page") / "report.html"
    make_report([folder], made)
    return made


def show(browser: webdriver.Chrome, page: Path, width: int = 1280, scheme: str = "light") -> None:
    """Open the page; nothing may be said on the console, and nothing be fetched."""
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    browser.get(page.as_uri())
    assert browser.get_log("browser") == []
    fetched = "return performance.getEntriesByType('resource').map((one) => one.name)"
    assert [name for name in browser.execute_script(fetched) if not name.startswith("data:")] == []


def busy_s(browser: webdriver.Chrome) -> float:
    """Processor time of the page's thread since it was opened."""
    metrics = browser.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
    return next(float(each["value"]) for each in metrics if each["name"] == "TaskDuration")


def brightness(browser: webdriver.Chrome) -> float:
    picture = Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("L")
    return ImageStat.Stat(picture).mean[0]


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_opens_at_once_and_fits(browser: webdriver.Chrome, page: Path, width: int, scheme: str) -> None:
    browser.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
    show(browser, page, width, scheme)
    assert 0 < busy_s(browser) < LONGEST_LOAD_S
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    seen = brightness(browser)
    assert seen > LIGHT if scheme == "light" else seen < DARK
    titles = [one.text for one in browser.find_elements(By.TAG_NAME, "h2")]
    assert titles == [
        "The plan", "Served within the SLO", "Where the SLO goes", "Latencies", "Who did what when",
        "The profile", "What is loaded where",
    ]  # fmt: skip
    sizes = "return [...document.querySelectorAll('svg')].map((one) => one.getBoundingClientRect().height)"
    assert all(height > 60 for height in browser.execute_script(sizes))


def test_a_heading_sorts_its_table_and_a_button_copies_it(browser: webdriver.Chrome, page: Path) -> None:
    show(browser, page)
    (found,) = browser.find_elements(By.XPATH, "//table[caption[starts-with(., 'Pipelines')]]")
    heading = found.find_element(By.XPATH, ".//th[button='frames/s']")
    rates = "return [...arguments[0].tBodies[0].rows].map((row) => Number(row.cells[4].dataset.v))"
    for order, ascending in (("ascending", True), ("descending", False)):
        heading.find_element(By.TAG_NAME, "button").click()
        assert heading.get_attribute("aria-sort") == order
        values = browser.execute_script(rates, found)
        assert len(values) > 1
        assert values == sorted(values, reverse=not ascending)
    found.find_element(By.CLASS_NAME, "csv").click()
    lines = (found.get_attribute("data-csv") or "").splitlines()
    assert lines[0] == "model,pipeline,stages,batch,frames/s,latency ms,left of the SLO ms"
    assert len(lines) == 1 + len(values)


def test_a_click_on_a_bar_shows_its_frames(browser: webdriver.Chrome, page: Path) -> None:
    show(browser, page)
    bar = browser.find_element(By.CSS_SELECTOR, ".chart .bar")
    place = int(bar.get_attribute("data-batch") or -1)
    frames = browser.execute_script("return charts[0].batches[arguments[0]][6]", place)
    browser.execute_script("arguments[0].dispatchEvent(new MouseEvent('click', {bubbles: true}))", bar)
    shown = browser.find_element(By.CSS_SELECTOR, ".detail").text
    assert all(f"Frame {frame}: arrived at" in shown for frame in frames)
    assert browser.find_elements(By.CSS_SELECTOR, ".chart .bar.chosen")


def test_the_chart_is_zoomed_and_filtered(browser: webdriver.Chrome, page: Path) -> None:
    show(browser, page)

    def count(selector: str) -> int:
        return len(browser.find_elements(By.CSS_SELECTOR, selector))

    def choose(name: str, value: str, event: str) -> None:
        script = (
            "const one = document.querySelector(`.tools [name='${arguments[0]}']`); one.value = arguments[1];"
            "one.dispatchEvent(new Event(arguments[2]))"
        )
        browser.execute_script(script, name, value, event)

    before = count(".chart .bar")
    browser.find_element(By.CSS_SELECTOR, "[aria-label='Zoom in']").click()
    assert 0 < count(".chart .bar") < before
    browser.find_element(By.CSS_SELECTOR, "[aria-label='Show all']").click()
    every, drops = count(".chart .bar"), count(".chart .drop")
    assert every > before
    assert drops > 0
    choose("drops", "none", "change")
    assert count(".chart .drop") == 0
    choose("worker", ".s0.w0", "input")
    assert 0 < count(".chart .bar") < every
    dropped = browser.execute_script("return charts[0].frames.find((frame) => frame[3] >= 0)[0]")
    choose("frame", str(dropped), "change")
    assert f"Frame {dropped}" in (shown := browser.find_element(By.CSS_SELECTOR, ".detail").text)
    assert "dropped at" in shown
    browser.find_element(By.CSS_SELECTOR, ".chart").send_keys("-")
    assert browser.get_log("browser") == []


def test_hostile_names_stay_texts(browser: webdriver.Chrome, tmp_path: Path) -> None:
    page = tmp_path / "r.html"
    make_report([make_hostile(tmp_path / "fleet")], page, title=HOSTILE)
    show(browser, page)
    assert browser.execute_script("return window.hacked") is None
    assert browser.find_element(By.TAG_NAME, "h1").get_attribute("textContent") == HOSTILE
    assert browser.find_elements(By.CSS_SELECTOR, "main img, main script") == []
    cells = browser.find_elements(By.CSS_SELECTOR, "td:first-child")
    assert HOSTILE in [(one.get_attribute("textContent") or "").strip() for one in cells]


def test_two_folders_stand_side_by_side(browser: webdriver.Chrome, folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "r.html"
    make_report([folder, make_hostile(tmp_path / "fleet")], page)
    show(browser, page, width=1600)
    left, right = (one.rect for one in browser.find_elements(By.CLASS_NAME, "subject"))
    assert left["x"] + left["width"] <= right["x"]
    assert browser.find_elements(By.CSS_SELECTOR, "#differences td.added")
    assert browser.find_elements(By.CSS_SELECTOR, "#differences td.removed")
