"""The site in a real browser: each page opens without an error, with its mathematics rendered."""

import os
import re
import shutil
from pathlib import Path

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
if CHROMIUM is None:
    pytest.skip("there is no Chromium", allow_module_level=True)

DOCS = Path(__file__).parents[1] / "docs"
SITE = Path(os.environ.get("KRU_REF_SITE", DOCS / "_build"))
if not (SITE / "index.html").is_file():
    pytest.skip("the site is not built: sphinx-build docs docs/_build", allow_module_level=True)

PAGES = sorted(
    path.relative_to(SITE).as_posix()
    for path in SITE.rglob("*.html")
    if path.name not in ("genindex.html", "search.html", "py-modindex.html")
    and not path.is_relative_to(SITE / "_static")
)
WIDTHS = {"wide": 1280, "phone": 390}


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def tab(browser):
    """Return an open tab and what went wrong in it; nothing may come from another place."""
    page = browser.new_page(viewport={"width": WIDTHS["wide"], "height": 900})
    wrong = []
    page.on("console", lambda m: wrong.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("requestfailed", lambda request: wrong.append(f"failed: {request.url}"))
    page.on("request", lambda r: wrong.append(r.url) if r.url.startswith("http") else None)
    yield page, wrong
    page.close()


def opened(page, name):
    page.goto((SITE / name).as_uri())
    page.evaluate("window.MathJax && MathJax.startup ? MathJax.startup.promise : null")


def test_all_pages_are_there():
    assert len(PAGES) > 70
    notebooks = sorted(path.stem for path in (DOCS.parent / "notebooks").glob("*.ipynb"))
    assert [Path(page).stem for page in PAGES if page.startswith("notebooks/")] == notebooks


@pytest.mark.parametrize("name", PAGES)
def test_a_page_opens(tab, name):
    page, wrong = tab
    opened(page, name)
    assert not wrong
    shown = page.inner_text("article")
    assert shown.strip()
    # formulas stand in elements of class "math" until they are rendered
    raw = page.eval_on_selector_all(
        ".math", "all => all.map(e => e.innerText).filter(text => /\\\\[a-z(\\[]/.test(text))"
    )
    assert raw == []
    assert not re.search(r"\\\(|\\\[|\$\$", shown)
    n_math = page.eval_on_selector_all(".math", "all => all.length")
    assert page.eval_on_selector_all("mjx-container", "all => all.length") >= n_math
    assert page.eval_on_selector_all("mjx-merror", "all => all.length") == 0
    broken = "all => all.filter(e => e.complete && !e.naturalWidth).map(e => e.src)"
    assert page.eval_on_selector_all("article img", broken) == []
    page.set_viewport_size({"width": WIDTHS["phone"], "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= WIDTHS["phone"]


def test_the_course_is_clicked_through(tab):
    """From the start page, by the links at the foot of each page."""
    page, wrong = tab
    opened(page, "index.html")
    page.click("header >> text=Learn")
    seen = []
    for _ in range(len([name for name in PAGES if name.startswith("notebooks/")])):
        page.click("a.right-next")
        seen.append(page.url.removeprefix(SITE.as_uri() + "/"))
    assert seen == [name for name in PAGES if name.startswith("notebooks/")]
    page.click("a.left-prev")
    assert page.url.endswith(seen[-2])
    assert not wrong


def test_a_name_is_found(tab):
    page, wrong = tab
    page.goto(f"{(SITE / 'search.html').as_uri()}?q=soft_unitary")
    page.wait_for_selector("#search-results li a[href*='soft_unitary']")
    assert not wrong
