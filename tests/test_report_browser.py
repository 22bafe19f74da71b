"""The report in a real browser, as it is looked at: narrow and wide, light and dark."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.reported import of_a_card, rooms_of_all_kinds, stored
from vram_ledger.analysis.reporting.report import build, write

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
COMMITTED = ROOT / "results" / "report.html"
PAGE = (
    '<!DOCTYPE html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, '
    'initial-scale=1"><link rel="icon" href="data:,"><title>t</title><body>'
)
FIGURE = '<figure id="one"><svg viewBox="0 0 9 9" width="90"><rect width="9" height="9"/></svg></figure>'

pytestmark = pytest.mark.skipif(
    not CHROMIUM or not DRIVER, reason="needs Debian's chromium and chromium-driver, which .ci/run installs"
)


class Browser:
    """A headless Chromium and what it finds wrong with a page."""

    def __init__(self, profile: str) -> None:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        options = webdriver.ChromeOptions()
        options.binary_location = str(CHROMIUM)
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(str(DRIVER), log_output=os.devnull))

    def opened(self, page: Path, width: int = 1280, scheme: str = "light", medium: str = "") -> None:
        """Shows a page at a width, in a colour scheme, on a screen or as it is printed."""
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600},
        )
        media = {"media": medium, "features": [{"name": "prefers-color-scheme", "value": scheme}]}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        self.driver.get_log("browser")
        self.driver.get(page.as_uri())

    def ask(self, script: str) -> Any:
        """What a line of JavaScript gives."""
        return self.driver.execute_script(f"return {script}")

    def problems(self, figures: list[str]) -> list[str]:
        """What is wrong with the page that is shown, where these figures should be on it."""
        found = [f"console: {line['message']}" for line in self.driver.get_log("browser")]
        sizes = self.ask(
            "Object.fromEntries([...document.querySelectorAll('figure')].map(f => [f.id, (s => s ?"
            " [s.getBoundingClientRect().width, s.getBoundingClientRect().height] : [0, 0])(f.querySelector('svg'))]))"
        )
        found += [f"figure {name}: missing" for name in figures if min(sizes.get(name, [0, 0])) < 1]
        # Not innerWidth: on a phone that grows to whatever the page is wide.
        wide, room = self.ask("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        found += [f"overflow: {wide} of {room}"] if wide > room else []
        loaded = self.ask("performance.getEntriesByType('resource').map(e => e.name)")
        return found + [f"loaded: {name}" for name in loaded if not name.startswith("data:")]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        opened = Browser(profile)
        yield opened
        opened.driver.quit()


@pytest.fixture(scope="module")
def of_all_kinds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    file = stored(folder, of_a_card(refused=[(8, 32768), (8, 16384)]), calibrated=False)
    list(write(build([file], lambda part: rooms_of_all_kinds()), folder))
    return folder / "report.html"


def figures_of(page: Path) -> list[str]:
    """The figures that must be on a page: one for each file beside it."""
    return sorted(path.stem for path in (page.parent / "figures").glob("*.svg"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_is_wrong_with_the_stored_report(browser: Browser, width: int, scheme: str) -> None:
    browser.opened(COMMITTED, width, scheme)
    assert figures_of(COMMITTED)
    assert [] == browser.problems(figures_of(COMMITTED))
    dark = browser.ask("getComputedStyle(document.body).backgroundColor") == "rgb(12, 16, 21)"
    assert dark == (scheme == "dark")


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_is_wrong_with_a_report_that_has_every_kind_of_figure(
    browser: Browser, width: int, of_all_kinds: Path
) -> None:
    browser.opened(of_all_kinds, width)
    assert {"made-of", "counters"} <= {name.rpartition(".")[2] for name in figures_of(of_all_kinds)}
    assert [] == browser.problems(figures_of(of_all_kinds))


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_the_answer_is_on_the_first_screen(browser: Browser, of_all_kinds: Path, width: int, height: int) -> None:
    browser.opened(of_all_kinds, width)
    matrix, picture = browser.ask(
        "['.matrix', '.answer figure svg'].map(s => document.querySelector(s).getBoundingClientRect())"
        ".map(r => [r.top, r.bottom])"
    )
    assert height > matrix[1] > matrix[0] > 0
    assert height > (picture[1] if width > 860 else picture[0])


@pytest.mark.parametrize("width", [360, 390, 1280])
def test_no_cell_of_the_matrix_is_cut_or_runs_into_the_next(browser: Browser, of_all_kinds: Path, width: int) -> None:
    browser.opened(of_all_kinds, width)
    cut = "[...document.querySelectorAll('.matrix th, .matrix td')].filter(c => c.scrollWidth > c.clientWidth + 1)"
    assert [] == browser.ask(f"{cut}.map(c => c.textContent)")


@pytest.mark.parametrize("width", [390, 1280])
def test_a_table_that_is_cut_says_that_it_scrolls_and_no_other_does(
    browser: Browser, of_all_kinds: Path, width: int
) -> None:
    browser.opened(of_all_kinds, width)
    browser.driver.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    browser.driver.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
    found = browser.ask(
        "[...document.querySelectorAll('.scroll')].map(s => [s.scrollWidth > s.clientWidth,"
        " getComputedStyle(s.querySelector('.hint')).visibility === 'visible'])"
    )
    assert {True, False} >= {cut for cut, _ in found} >= {True}
    assert [cut for cut, _ in found] == [hint for _, hint in found]


def outside(browser: Browser) -> list[str]:
    """Texts of figures that are cut off."""
    found: list[str] = browser.ask(
        "[...document.querySelectorAll('figure svg')].flatMap(s => { const b = s.getBoundingClientRect();"
        " return [...s.querySelectorAll('text')].filter(t => { const r = t.getBoundingClientRect();"
        " return r.left < b.left - 1 || r.right > b.right + 1 || r.top < b.top - 1 || r.bottom > b.bottom + 1 })"
        " .map(t => t.textContent) })"
    )
    return found


def test_no_text_of_a_figure_is_cut_off(browser: Browser, of_all_kinds: Path) -> None:
    for page in (COMMITTED, of_all_kinds):
        browser.opened(page, 360)
        assert [] == outside(browser)


def test_nothing_is_wider_than_a_sheet_of_paper(browser: Browser, of_all_kinds: Path) -> None:
    for page in (COMMITTED, of_all_kinds):
        browser.opened(page, 720, medium="print")
        browser.ask("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert [] == browser.problems(figures_of(page))


def test_text_of_figures_is_legible_on_a_phone(browser: Browser) -> None:
    browser.opened(COMMITTED, 360)
    smallest = browser.ask(
        "Math.min(...[...document.querySelectorAll('figure svg')].flatMap(s => [...s.querySelectorAll('text')]"
        ".map(t => parseFloat(getComputedStyle(t).fontSize) * s.getBoundingClientRect().width / 360)))"
    )
    assert smallest > 9


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (f"{FIGURE}<script>console.error('wrong')</script>", "console: "),
        ("<p>no figure</p>", "figure one: missing"),
        ('<figure id="one"><svg width="0" height="0"></svg></figure>', "figure one: missing"),
        (f'{FIGURE}<img src="http://127.0.0.1:9/x.png" alt="">', "loaded: http://127.0.0.1:9/x.png"),
    ],
)
def test_a_page_with_a_fault_is_found_out(browser: Browser, tmp_path: Path, body: str, problem: str) -> None:
    page = tmp_path / "page.html"
    page.write_text(PAGE + body, encoding="utf-8")
    browser.opened(page)
    assert [found for found in browser.problems(["one"]) if found.startswith(problem)]


@pytest.mark.parametrize(("width", "div"), [(360, 500), (1280, 1500)])
def test_a_page_that_is_too_wide_is_found_out(browser: Browser, tmp_path: Path, width: int, div: int) -> None:
    page = tmp_path / "page.html"
    page.write_text(f'{PAGE}{FIGURE}<div style="width: {div}px">wide</div>', encoding="utf-8")
    browser.opened(page, width)
    assert [f"overflow: {div + 8} of {width}"] == browser.problems(["one"])


def test_a_page_without_a_fault_has_none(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(PAGE + FIGURE, encoding="utf-8")
    browser.opened(page)
    assert [] == browser.problems(["one"])
