"""The HTML report in a real browser: nothing overflows, nothing is logged, nothing is fetched."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.exporter.diffing import synthetic
from tests.exporter.diffing.reporting.browser import CHROMIUM, Page, browser

from hsm_export.diffing.reporting import write_html
from hsm_export.diffing.results import DiffResult

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]
REPORTS: dict[str, Callable[[], DiffResult]] = {
    "passing": synthetic.passing,
    "failing": synthetic.failing,
    "hostile": synthetic.hostile,
    "huge": synthetic.huge,
}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module", params=REPORTS)
def report(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / f"{request.param}.html"
    write_html(REPORTS[request.param](), path)
    return path


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390, 320])
def test_fits_and_is_silent(page: Page, report: Path, width: int, dark: bool) -> None:
    page.messages.clear()
    page.requests.clear()
    page.open(report, width=width, dark=dark)
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    # Nor does a part stick out of its parent where nothing scrolls.
    outside = "[...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll, pre, svg') && "
    outside += "e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"
    assert page.evaluate(outside) == []
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(13, 17, 23)" if dark else "rgb(255, 255, 255)")
    assert page.messages == []
    assert page.requests == [report.as_uri()]


def test_keyboard_reaches_what_scrolls(page: Page, report: Path) -> None:
    page.open(report, width=390)
    unreachable = "[...document.querySelectorAll('*')].filter(e => e.scrollWidth > e.clientWidth + 1 && "
    unreachable += "getComputedStyle(e).overflowX == 'auto' && e.tabIndex < 0).length"
    assert page.evaluate(unreachable) == 0


def test_prints(page: Page, report: Path, tmp_path: Path) -> None:
    page.open(report, width=1280, dark=True)
    page.pdf(tmp_path / "report.pdf")
    data = (tmp_path / "report.pdf").read_bytes()
    assert data.startswith(b"%PDF") and 1 <= data.count(b"/Type /Page\n") <= 60
