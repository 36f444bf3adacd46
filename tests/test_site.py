"""The site in a real browser: each page opens without an error, with its mathematics rendered."""

import functools
import importlib.util
import json
import math
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import kru_ref as kru

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
    and not path.is_relative_to(SITE / "slides")
)
DECKS = sorted(path.name for path in (SITE / "slides").glob("*.html"))
WIDTHS = {"wide": 1280, "phone": 390}


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def watched(page):
    """Return the list of what will go wrong in a tab; nothing may come from another place."""
    wrong = []
    page.on("console", lambda m: wrong.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("requestfailed", lambda request: wrong.append(f"failed: {request.url}"))
    page.on("request", lambda r: wrong.append(r.url) if r.url.startswith("http") else None)
    return wrong


@pytest.fixture
def tab(browser):
    """Return an open tab and what went wrong in it."""
    page = browser.new_page(viewport={"width": WIDTHS["wide"], "height": 900})
    yield page, watched(page)
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
    page.click("a.right-next")
    assert page.url == (SITE / "figures.html").as_uri()
    page.click("a.left-prev")
    page.click("a.left-prev")
    assert page.url.endswith(seen[-2])
    assert not wrong


def test_every_notebook_has_its_slides(tab):
    """And the teachers' page leads to each."""
    page, wrong = tab
    assert [f"{Path(name).stem}.html" for name in PAGES if name.startswith("notebooks/")] == DECKS
    opened(page, "teach.html")
    for name in DECKS:
        assert page.locator(f"article a[href='slides/{name}']").count() == 1
    assert not wrong


@pytest.mark.parametrize("name", DECKS)
def test_a_deck_is_shown(tab, name):
    """From the first slide to the last, with rendered mathematics; what is said is in the notes."""
    page, wrong = tab
    page.goto((SITE / "slides" / name).as_uri())
    page.wait_for_selector(".reveal.ready")
    n = page.evaluate("Reveal.getTotalSlides()")
    assert n > 10
    assert page.inner_text("section.present h1") == page.title()
    for _ in range(n - 1):
        assert page.inner_text("section.present").strip() or page.query_selector(
            "section.present img"
        )
        page.keyboard.press("ArrowRight")
    assert page.evaluate("Reveal.isLastSlide()")
    shown = page.evaluate("document.querySelector('.slides').textContent")
    assert not re.search(r"\$\$|\\\\[a-z]{3}", shown)
    assert page.eval_on_selector_all("mjx-merror", "all => all.length") == 0
    assert page.eval_on_selector_all("aside.notes", "all => all.length") > 3
    assert not wrong


def test_a_name_is_found(tab):
    page, wrong = tab
    page.goto(f"{(SITE / 'search.html').as_uri()}?q=soft_unitary")
    page.wait_for_selector("#search-results li a[href*='soft_unitary']")
    assert not wrong


# ---- The figures that move ---------------------------------------------------------------------

RAISED = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹−", "-0123456789-")


@pytest.fixture(scope="module")
def numbers():
    """Return what the figures were given."""
    text = (SITE / "_static/figures/numbers.js").read_text(encoding="utf-8")
    return json.loads(text[text.index("{") : text.rindex("}") + 1])


@pytest.fixture(params=WIDTHS)
def figures(browser, request):
    """Return an open page of figures, still unless they are moved, on a wide screen and a phone."""
    page = browser.new_page(
        viewport={"width": WIDTHS[request.param], "height": 900},
        has_touch=request.param == "phone",
        reduced_motion="reduce",
    )
    wrong = watched(page)
    opened(page, "figures.html")
    yield page
    assert not wrong
    assert page.url == (SITE / "figures.html").as_uri()  # no key turned the page
    assert page.evaluate("document.documentElement.scrollWidth") <= WIDTHS[request.param]
    page.close()


def box_of(locator):
    """Return where an element is, in the middle of the window: no header covers it."""
    locator.evaluate("element => element.scrollIntoView({block: 'center', behavior: 'instant'})")
    box = locator.bounding_box()
    return box["x"], box["y"], box["width"], box["height"]


def phases_of(locator):
    """Return the phases of points on a circle."""
    centres = "all => all.map(e => [+e.getAttribute('cx'), +e.getAttribute('cy')])"
    return np.array([math.atan2(-y, x) for x, y in locator.evaluate_all(centres)])


def turns(phases):
    return (np.asarray(phases) + np.pi) % (2 * np.pi) - np.pi


def dragged_and_following(page):
    """Return the phases of the factors' eigenvalues (F, 2), and of the product's."""
    handles = phases_of(page.locator("#eigenvalues .handle circle:last-child"))
    return handles.reshape(-1, 2), phases_of(page.locator("#eigenvalues .eigenvalue"))


def assert_follows(page):
    """NumPy's eigenvalues of a Kronecker product with these of its factors are those shown."""
    phases, shown = dragged_and_following(page)
    rng, factors = np.random.default_rng(0), []
    for own in np.exp(1j * phases):
        V = kru.random_unitary(2, rng)
        factors.append(V * own @ V.conj().T)
    expected = np.linalg.eigvals(functools.reduce(np.kron, factors))
    distances = np.abs(expected[:, None] - np.exp(1j * shown))
    assert shown.shape == expected.shape
    assert distances.min(axis=0).max() < 1e-6
    assert distances.min(axis=1).max() < 1e-6
    angles = np.sort(np.angle(expected))
    gap = np.degrees(np.diff(angles, append=angles[0] + 2 * np.pi).max())
    said = page.inner_text("#eigenvalues output")
    assert f"equally spaced it would be {360 / 2 ** len(phases):g}°" in said
    assert f"{phases.size} numbers are dragged, {2 ** len(phases)} follow" in said
    assert float(re.search(r"gap ([\d.]+)°", said)[1]) == pytest.approx(gap, abs=1e-3)
    length, *points = page.eval_on_selector(
        "#eigenvalues .gap",
        """e => {
            const [length, at] = [e.getTotalLength(), (l) => e.getPointAtLength(l)];
            return [length, ...[0, length / 2, length].map(at).map((p) => [p.x, -p.y])];
        }""",
    )
    # the arc begins and ends at an eigenvalue, and leads around the circle in between
    start, middle, end = (complex(*point) for point in points)
    assert np.degrees(length / abs(start)) == pytest.approx(gap, abs=0.1)
    for corner in (start, end):
        assert np.abs(corner / abs(corner) - expected).min() < 2e-3
    halfway = start * np.exp(0.5j * length / abs(start))
    assert abs(middle / halfway - 1) < 2e-3


def test_figure_numbers_are_what_the_code_makes(numbers):
    spec = importlib.util.spec_from_file_location("figures", DOCS / "figures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made = json.loads(json.dumps(module.numbers()))
    for part, values in made["gradientNorms"].items():
        if part == "curves":
            assert list(values) == list(numbers["gradientNorms"]["curves"])
            values, given = (list(v.values()) for v in (values, numbers["gradientNorms"][part]))
        else:
            given = numbers["gradientNorms"][part]
        np.testing.assert_allclose(given, values, rtol=1e-6, atol=1e-4)
    for part, values in made["unfolding"].items():
        np.testing.assert_allclose(numbers["unfolding"][part], values, atol=1e-12)
    for n, values in made["eigenvalues"].items():
        for part in ("random", "spread"):
            given = numbers["eigenvalues"][n][part]
            np.testing.assert_allclose(given, values[part], atol=1e-6)


def test_figure_numbers_are_what_the_page_says(numbers):
    for n, phases in numbers["eigenvalues"].items():
        angles = functools.reduce(np.add.outer, phases["spread"]).ravel() % (2 * np.pi)
        assert np.allclose(np.diff(np.sort(angles)), 2 * np.pi / 2 ** int(n))
    for W in numbers["unfolding"]["orthogonal"]:
        assert np.allclose(np.transpose(W) @ W, np.eye(2))
    given = numbers["gradientNorms"]
    for name in ("orthogonal", "Kronecker, unitary", "modReLU, Kronecker unitary"):
        assert np.abs(given["curves"][name]).max() < 1e-4
    assert round(given["curves"]["tanh, orthogonal"][-1]) == -65
    k = given["every"] * np.arange(len(given["curves"]["orthogonal"]))
    assert k[-1] == given["steps"] == 1000
    for epsilon, draws in zip(given["epsilons"], given["nearly"], strict=True):
        low, high = (given["factors"] * k * np.log10(s) for s in (1 - epsilon, 1 + epsilon))
        assert np.all((np.array(draws) >= low - 1e-4) & (np.array(draws) <= high + 1e-4))


def test_figure_eigenvalues_follow_the_one_that_is_dragged(figures):
    page = figures
    assert_follows(page)
    phone = page.viewport_size["width"] == WIDTHS["phone"]
    finger = page.context.new_cdp_session(page) if phone else None
    for f, j, degrees in [(0, 0, 100), (2, 1, -170), (3, 0, 20)]:
        before, all_before = dragged_and_following(page)
        x, y, size, _ = box_of(page.locator("#eigenvalues .factors svg").nth(f))

        def at(phase, x=x, y=y, size=size):
            reach = 40 / 116 * size
            return (
                x + size / 2 + reach * math.cos(phase),
                y + size / 2 - reach * math.sin(phase),
            )

        way = np.linspace(before[f, j], math.radians(degrees), 5)
        points = [at(phase) for phase in way]
        if phone:
            for kind, (px, py) in zip(["touchStart"] + 4 * ["touchMove"], points, strict=True):
                touch = {"type": kind, "touchPoints": [{"x": px, "y": py}]}
                finger.send("Input.dispatchTouchEvent", touch)
            finger.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        else:
            page.mouse.move(*points[0])
            page.mouse.down()
            for point in points[1:]:
                page.mouse.move(*point)
            page.mouse.up()
            page.mouse.move(*at(0))  # a released point stays
        after, all_after = dragged_and_following(page)
        assert abs(turns(after[f, j] - math.radians(degrees))) < math.radians(1)
        moved = turns(all_after - all_before)
        by = turns(after[f, j] - before[f, j])
        has_it = (np.arange(16) >> (3 - f)) % 2 == j
        assert np.abs(turns(moved - np.where(has_it, by, 0))).max() < 1e-9
        marked = "all => all.map(e => e.classList.contains('marked'))"
        assert page.eval_on_selector_all("#eigenvalues .eigenvalue", marked) == has_it.tolist()
        after[f, j] = before[f, j]
        assert np.array_equal(after, before)
        assert_follows(page)


def test_figure_eigenvalues_by_the_keyboard(figures):
    page = figures
    box_of(page.locator("#eigenvalues .drawing"))
    page.locator("#eigenvalues button").last.focus()
    for _ in range(4):  # the button, and the eigenvalues 0, 1 of factor 0 and 0 of factor 1
        page.keyboard.press("Tab")
    focus = "document.activeElement.getAttribute"
    assert page.evaluate(f"{focus}('aria-label')") == "Factor 1, eigenvalue 1: phase"
    begin, all_begin = dragged_and_following(page)
    pressed = {"ArrowRight": 1, "ArrowUp": 1, "ArrowLeft": -1, "PageUp": 10, "PageDown": -10}
    for key, degrees in (pressed | {"ArrowDown": -1}).items():
        before = dragged_and_following(page)[0][1, 1]
        page.keyboard.press(key)
        after = dragged_and_following(page)[0][1, 1]
        assert np.degrees(turns(after - before)) == pytest.approx(degrees)
        now = float(page.evaluate(f"{focus}('aria-valuenow')"))
        assert now == pytest.approx(np.degrees(after), abs=0.051)
        assert_follows(page)
    # what the page lets the reader try: a factor forward, another back, and nothing has changed
    for f, key in ((0, "PageUp"), (3, "PageDown")):
        for j in range(2):
            page.locator("#eigenvalues .handle").nth(2 * f + j).focus()
            page.keyboard.press(key)
    end, all_end = dragged_and_following(page)
    assert np.degrees(turns(end - begin)).round(6).tolist() == [
        [10, 10],
        [0, 0],
        [0, 0],
        [-10, -10],
    ]
    assert np.abs(turns(all_end - all_begin)).max() < 1e-9

    # all in one place: the gap is the whole circle, then more than half of it
    page.select_option("#eigenvalues select", "2")
    for handle in page.locator("#eigenvalues .handle").all():
        handle.focus()
        page.keyboard.press("Home")
    assert "gap 360°" in page.inner_text("#eigenvalues output")
    assert_follows(page)
    for _ in range(6):
        page.keyboard.press("PageUp")
    assert "gap 300°" in page.inner_text("#eigenvalues output")
    assert_follows(page)


def test_figure_eigenvalues_spread_and_random(figures, numbers):
    page = figures
    for n, given in numbers["eigenvalues"].items():
        page.select_option("#eigenvalues select", n)
        assert np.allclose(turns(dragged_and_following(page)[0] - given["random"][0]), 0)
        assert_follows(page)
        page.click("#eigenvalues >> text=Equally spaced")
        phases, following = dragged_and_following(page)
        assert np.allclose(turns(phases - given["spread"]), 0)
        assert np.allclose(np.diff(np.sort(following)), 2 * np.pi / 2 ** int(n))
        assert_follows(page)
        for draw in (1, 2):
            page.click("#eigenvalues >> text=Random")
            phases = dragged_and_following(page)[0]
            assert np.allclose(turns(phases - given["random"][draw]), 0)
        assert_follows(page)


def number(text):
    """Read 4.3·10⁻⁵."""
    mantissa, _, exponent = text.translate(RAISED).partition("·10")
    return float(mantissa) * 10.0 ** int(exponent or 0)


def plotted(page, panel, selector):
    """Return the steps and the logarithms that a path goes through, read off the axes."""
    svg = page.locator("#gradient-norm .panels > div").nth(panel).locator("svg").first
    ticks = {"steps": {}, "logs": {}}
    for tick in svg.locator("text.tick").all():
        text = tick.text_content()
        if "end" in tick.get_attribute("class"):
            log = 0 if text == "1" else int(text.removeprefix("10").translate(RAISED))
            ticks["logs"][float(tick.get_attribute("y")) - 4] = log
        elif text.isdigit():
            ticks["steps"][float(tick.get_attribute("x"))] = int(text)
    steps, logs = (np.polyfit(list(at), list(at.values()), 1) for at in ticks.values())
    d = svg.locator(selector).get_attribute("d")
    points = np.array(re.findall(r"-?[\d.]+(?:e-?\d+)?", d), float).reshape(-1, 2)
    return np.polyval(steps, points[:, 0]), np.polyval(logs, points[:, 1])


def test_figure_of_the_spectral_radius(figures, numbers):
    page, given = figures, numbers["gradientNorms"]
    side = page.locator("#gradient-norm .panels > div").nth(0)
    slider = side.locator("input[type=range]")
    drawn = np.array(given["curves"]["Gaussian"])
    k = given["every"] * np.arange(len(drawn))
    slider.focus()
    page.keyboard.press("Home")
    assert slider.input_value() == "0.94"
    page.keyboard.press("ArrowRight")
    assert slider.input_value() == "0.941"
    for rho in (None, "0.98", "1", "1.003", "1.06"):
        if rho:
            slider.fill(rho)
        rho = float(slider.input_value())
        steps, logs = plotted(page, 0, "path.formula")
        assert np.allclose(steps, [0, 1000], atol=1e-6)
        assert np.allclose(logs, [0, 1000 * math.log10(rho)], atol=1e-6)
        steps, logs = plotted(page, 0, "path.draw")
        assert np.allclose(steps, k)
        # (ρ W / radius)^k, as the recorded powers of W are those of a matrix of this radius
        assert np.allclose(logs, drawn + k * math.log10(rho / given["radius"]), atol=1e-6)
        said = side.locator("output").inner_text()
        power, gaussian = re.search(r"power (\S+), the Gaussian matrix (\S+)\.$", said).groups()
        assert number(power) == pytest.approx(rho**1000, rel=0.05)
        assert math.log10(number(gaussian)) == pytest.approx(logs[-1], abs=0.03)
        assert said in side.locator("svg").first.get_attribute("aria-label")
    for i, (name, curve) in enumerate(given["curves"].items()):
        label = side.locator("label").nth(1 + i)  # after that of the slider
        box = label.locator("[type=checkbox]")
        path = side.locator("svg").first.locator(f".style-{i}")
        for shown in (True, False):
            box.set_checked(shown)
            assert path.evaluate("e => getComputedStyle(e).display !== 'none'") == shown
        assert np.allclose(plotted(page, 0, f".style-{i}")[1], curve, atol=1e-6)
        said = label.inner_text().strip()
        assert said.startswith(name)
        said = said.rsplit(": ", 1)[1]
        assert math.log10(number(said)) == pytest.approx(curve[-1], abs=0.03)


def test_figure_of_the_distance_from_unitary(figures, numbers):
    page, given = figures, numbers["gradientNorms"]
    side = page.locator("#gradient-norm .panels > div").nth(1)
    slider = side.locator("input[type=range]")
    slider.focus()
    page.keyboard.press("End")
    last = len(given["epsilons"]) - 1
    assert slider.input_value() == str(last)
    for index in (last, last - 1, 16, 0):
        if index == last - 1:
            page.keyboard.press("ArrowLeft")
        else:
            slider.fill(str(index))
        epsilon = given["epsilons"][index]
        bounds = [6 * 1000 * math.log10(1 - epsilon), 6 * 1000 * math.log10(1 + epsilon)]
        steps, logs = plotted(page, 1, "path.bounds")
        assert np.allclose(steps, [1000, 0, 1000], atol=1e-6)
        assert np.allclose(logs, [bounds[0], 0, bounds[1]], atol=1e-6)
        for draw, curve in enumerate(given["nearly"][index]):
            _, logs = plotted(page, 1, f"path.draw >> nth={draw}")
            assert np.allclose(logs, curve, atol=1e-6)
            assert bounds[0] - 1e-4 <= logs[-1] <= bounds[1] + 1e-4
        said = side.locator("output").inner_text()
        shown = re.search(r"^ε = (\S+)\. .* bounds (\S+) and (\S+); draws", said).groups()
        for text, log in zip(shown, [math.log10(epsilon), *bounds], strict=True):
            assert math.log10(number(text)) == pytest.approx(log, abs=0.03)


def shades(locator):
    """Return the signed shades of cells, between -1 and 1."""
    read = "all => all.map(e => e.getAttribute('fill-opacity') * (e.classList.length ? -1 : 1))"
    return np.array(locator.evaluate_all(read))


@pytest.mark.parametrize("which", ["positive", "orthogonal"])
def test_figure_of_a_product_that_unfolds(figures, numbers, which):
    page, factors = figures, np.array(numbers["unfolding"][which])
    page.select_option("#unfolding select", which)
    controls = page.locator("#unfolding .controls").first
    matrix = page.locator("#unfolding .matrix")
    for n in range(1, 7):
        W = functools.reduce(np.kron, factors[:n])
        cells = shades(page.locator("#unfolding .cells rect"))
        assert np.allclose(cells.reshape(W.shape), W / np.abs(W).max(), atol=1e-12)
        places = "all => all.map(e => [+e.getAttribute('y'), +e.getAttribute('x')])"
        places = page.eval_on_selector_all("#unfolding .cells rect", places)
        assert places == [[p, q] for p in range(2**n) for q in range(2**n)]
        said = page.locator("#unfolding output").first.inner_text()
        assert f"{2**n} × {2**n}, {4**n:,} entries from {4 * n} numbers" in said
        if n < 6:
            controls.get_by_text("Next factor").click()
    assert controls.get_by_text("Next factor").is_disabled()

    x, y, width, height = box_of(matrix)
    size = width / 64
    assert width == pytest.approx(height, abs=2)
    explained = page.locator("#unfolding .explained output")
    for p, q in [(0, 63), (41, 5), (22, 22)]:
        at = x + 1 + (q + 0.5) * (width - 2) / 64, y + 1 + (p + 0.5) * (height - 2) / 64
        if page.viewport_size["width"] == WIDTHS["phone"]:
            page.touchscreen.tap(*at)
        else:
            page.mouse.move(*at)
        said = explained.inner_text().replace("−", "-").split("\n")
        digits = [format(index, "06b") for index in (p, q)]
        assert said[0] == f"Row {p} has the digits {' '.join(digits[0])}"
        assert said[1] == f"Column {q} has the digits {' '.join(digits[1])}"
        assert f"W[{p},{q}] = " in said[2]
        pairs = zip(*digits, strict=True)
        used = np.array([factors[f][int(a), int(b)] for f, (a, b) in enumerate(pairs)])
        shown = [float(v) for v in said[3].strip("= ").split(" = ")[0].split(" · ")]
        assert np.allclose(shown, used, atol=0.00501)
        assert float(said[3].rsplit("= ", 1)[1]) == pytest.approx(W[p, q], abs=5.01e-6)
        tiles = page.locator("#unfolding .tile .used").all_inner_texts()
        assert [float(t.replace("−", "-")) for t in tiles] == shown
        blocks = page.locator("#unfolding .blocks rect")
        side = [2 ** (5 - f) for f in range(6)]
        widths = blocks.evaluate_all("all => all.map(e => +e.getAttribute('width'))")
        assert widths == side
        corners = "all => all.map(e => [+e.getAttribute('y'), +e.getAttribute('x')])"
        expected = [[p // s * s, q // s * s] for s in side]
        assert blocks.evaluate_all(corners) == expected
    assert size > 3

    matrix.focus()
    for key, (p, q) in {
        "ArrowDown": (23, 22),
        "ArrowRight": (23, 23),
        "ArrowUp": (22, 23),
        "ArrowLeft": (22, 22),
    }.items():
        page.keyboard.press(key)
        value = float(explained.inner_text().replace("−", "-").rsplit("= ", 1)[1])
        assert value == pytest.approx(W[p, q], abs=5.01e-6)
        assert f"Row {p}, column {q}" in matrix.get_attribute("aria-label")
    controls.get_by_text("Back").click()
    assert "Row 11, column 11" in matrix.get_attribute("aria-label")  # the block it was in
    assert page.locator("#unfolding .cells rect").count() == 32 * 32


@pytest.mark.parametrize("which", ["positive", "orthogonal"])
def test_figure_of_a_vector_that_goes_through(figures, numbers, which):
    figures.select_option("#unfolding select", which)
    more = figures.locator("#unfolding .controls").first.get_by_text("Next factor")
    for n in range(1, 7):
        if n in (1, 3, 6):
            assert_goes_through(figures, np.array(numbers["unfolding"][which])[:n], numbers)
        if n < 6:
            more.click()


def assert_goes_through(page, factors, numbers):
    n, N = len(factors), 2 ** len(factors)
    below = page.locator("#unfolding .below")
    states = [np.array(numbers["unfolding"]["x"])[:N]]
    for done in range(n + 1):
        if done:
            below.get_by_text("Next factor").click()
            one = [W if f == done - 1 else np.eye(2) for f, W in enumerate(factors)]
            states.append(kru.kron_matvec(one, states[-1]))
        shown = shades(below.locator("rect:not(.empty)")).reshape(-1, N)
        assert np.allclose(shown, states / np.abs(states).max(), atol=1e-12)
        said = below.locator("output").inner_text()
        assert f"{done} of {n} factor" in said
        assert f"{2 * N * done:,} so far. W x, entry by entry: {N * N:,}." in said
    y = kru.kron_matvec(factors, states[0])
    assert np.allclose(states[-1], y)
    assert np.allclose(y, functools.reduce(np.kron, factors) @ states[0])
    assert re.search(r"Both are equal\.|Both agree to 10⁻¹[⁴-⁷] \(relative\)\.", said)
    assert below.get_by_text("Next factor").is_disabled()
    below.get_by_text("Start again").click()
    assert f"0 of {n} factor" in below.locator("output").inner_text()


def test_figures_play_by_themselves_where_motion_is_welcome(tab):
    page, wrong = tab
    page.clock.install(time=0)
    opened(page, "figures.html")
    page.clock.pause_at(600)  # seconds; from here time goes on only when it is told to
    play = page.locator("#unfolding .controls").first.get_by_text("Play")
    play.click()
    counts = [page.locator("#unfolding .cells rect").count()]
    for _ in range(4):
        page.clock.run_for(1200)
        counts.append(page.locator("#unfolding .cells rect").count())
    assert counts == [16, 64, 256, 1024, 4096]
    assert play.inner_text() == "Play"  # it is over
    page.clock.run_for(5000)
    assert page.locator("#unfolding .cells rect").count() == 4096
    through = page.locator("#unfolding .below")
    through.get_by_text("Play").click()
    page.clock.run_for(900)
    assert "2 of 6 factors" in through.locator("output").inner_text()
    through.get_by_text("Pause").click()
    page.clock.run_for(5000)
    assert "2 of 6 factors" in through.locator("output").inner_text()

    begin = dragged_and_following(page)[0]
    page.click("#eigenvalues >> text=Equally spaced")
    page.clock.run_for(160)
    middle = dragged_and_following(page)[0]
    page.clock.run_for(1000)
    end = dragged_and_following(page)[0]
    half = turns(middle - begin) / turns(end - begin)
    assert np.all((half > 0.3) & (half < 0.7))
    assert_follows(page)
    assert not wrong


def test_figures_are_still_where_motion_is_not(figures):
    assert figures.locator(".moving button", has_text="Play").count() == 2
    assert not any(button.is_visible() for button in figures.get_by_text("Play").all())
    duration = "e => getComputedStyle(e).transitionDuration"
    assert figures.locator("#unfolding .cells rect").first.evaluate(duration) == "0s"


def test_figures_have_names_and_captions(figures):
    ids = figures.eval_on_selector_all("figure.moving", "all => all.map(e => e.id)")
    assert ids == ["eigenvalues", "gradient-norm", "unfolding"]
    for name in ids:
        figure = figures.locator(f"#{name}")
        assert figure.get_attribute("role") == "group"
        caption = figures.locator(f"#{figure.get_attribute('aria-labelledby')}")
        assert len(caption.inner_text()) > 100
        named = "all => all.every(e => e.getAttribute('aria-hidden') || e.getAttribute('role') && "
        named += "e.getAttribute('aria-label'))"
        assert figure.locator("svg").evaluate_all(named)
        # a finger needs some room: handles are 30 of 116 of a circle wide
        for control in figure.locator("button, select, .handle .reach").all():
            if control.is_visible():
                assert min(box_of(control)[2:]) >= 24


def contrast(one, other):
    """Return the contrast of two colours as the guidelines for accessibility count it."""

    def luminance(colour):
        c = np.array(re.findall(r"[\d.]+", colour)[:3], float) / 255
        return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) @ [
            0.2126,
            0.7152,
            0.0722,
        ]

    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def test_figures_follow_the_light_and_the_dark_theme(figures):
    seen = []
    for theme in ("light", "dark"):
        figures.evaluate(f"document.documentElement.dataset.theme = '{theme}'")
        figures.wait_for_timeout(700)  # of colours that change by a transition
        paint = "(e, kind) => getComputedStyle(e)[kind]"
        background = figures.locator("body").evaluate(paint, "backgroundColor")
        colours = [
            figures.locator(selector).first.evaluate(paint, kind)
            for selector, kind in [
                ("#eigenvalues .eigenvalue", "fill"),
                ("#eigenvalues .handle circle:last-child", "fill"),
                ("#eigenvalues .gap", "stroke"),
                ("#eigenvalues figcaption", "color"),
                ("#gradient-norm .tick", "fill"),
                ("#gradient-norm path.draw", "stroke"),
                ("#gradient-norm path.recorded", "stroke"),
                ("#unfolding .cells rect", "fill"),
                ("#unfolding .blocks rect", "stroke"),
            ]
        ]
        assert min(contrast(colour, background) for colour in colours) > 3
        seen.append([background, *colours])
    assert all(light != dark for light, dark in zip(*seen, strict=True))


def test_figures_without_javascript_say_what_they_would_show(browser):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((SITE / "figures.html").as_uri())
    for name in ("eigenvalues", "gradient-norm", "unfolding"):
        shown = page.locator(f"#{name}")
        assert "This figure needs JavaScript." in shown.inner_text()
        for link in shown.locator("a").all():
            assert (SITE / link.get_attribute("href")).is_file()
    context.close()
