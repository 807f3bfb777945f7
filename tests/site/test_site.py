"""The pages in docs/, as a reader's browser shows them: language button, search, navigation, phone, dark mode."""
import functools
import http.server
import json
import os
import posixpath
import re
import shutil
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import transferlit as tl

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install -e .[dev]")
from selenium.common.exceptions import TimeoutException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

DOCS = Path(__file__).resolve().parents[2] / "docs"
CHROME = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"))), None)
DRIVER = shutil.which("chromedriver")
FLAGS = ("--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
         "--disable-component-update --disable-sync --disable-dev-shm-usage").split()
HANGUL = re.compile("[가-힣]")
PHONE, DESK = (390, 844), (1280, 900)
# How far a text stands out from what lies behind it, as WCAG counts; 4.5 is good reading.
CONTRAST = """
const light = c => { const [r, g, b] = c.match(/[\\d.]+/g).map(Number).map(v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
                     return .2126 * r + .7152 * g + .0722 * b; };
const contrast = (text, behind) => { const a = light(getComputedStyle(text).color), b = light(getComputedStyle(behind).backgroundColor);
                                     return (Math.max(a, b) + .05) / (Math.min(a, b) + .05); };
"""
FAINT = CONTRAST + """return [...document.querySelectorAll('main :is(p, td, th, pre, a, h2)')]
    .filter(e => contrast(e, document.body) < 4.5).map(e => e.innerText)"""

pytestmark = pytest.mark.skipif(not (CHROME and DRIVER), reason="no chromium with chromedriver: apt-get install chromium chromium-driver")


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def base():
    assert (DOCS / "index.html").exists(), "docs/ is not built: run `make docs`"
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=DOCS))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


class Browser:
    """A browser that remembers what it was sent for, and what it complained about."""

    def __init__(self, driver, base):
        self.driver, self.base = driver, base

    def look(self, size=DESK, scheme="light"):
        self.cdp("Emulation.setDeviceMetricsOverride", width=size[0], height=size[1], deviceScaleFactor=1, mobile=size == PHONE)
        self.cdp("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def open(self, page, size=DESK, scheme="light", language="en-US"):
        self.look(size, scheme)
        agent = self.js("return navigator.userAgent")
        self.cdp("Emulation.setUserAgentOverride", userAgent=agent, acceptLanguage=language)
        self.driver.get(self.base + page)

    def cdp(self, name, **arguments):
        return self.driver.execute_cdp_cmd(name, arguments)

    def js(self, code, *arguments):
        return self.driver.execute_script(code, *arguments)

    def all(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def click(self, element):
        self.js("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", element)
        element.click()

    def texts(self, selector):
        """What a reader sees of each; `innerText` of what is hidden is its whole text."""
        return self.js("return [...document.querySelectorAll(arguments[0])].filter(e => e.getClientRects().length).map(e => e.innerText)", selector)

    def wait(self, condition, seconds=10):
        return WebDriverWait(self.driver, seconds, poll_frequency=.05).until(lambda _: condition())

    def forget(self):
        self.driver.get("about:blank")
        self.cdp("Storage.clearDataForOrigin", origin=self.base.rstrip("/"), storageTypes="local_storage")

    def search(self, words):
        if not self.one("#quarto-search input").is_displayed():
            self.one(".sd-search-toggle").click()
        box = self.one("#quarto-search input")
        box.clear()
        box.send_keys(words)
        self.wait(lambda: self.all(".smalldocs-search-results.show .search-result, .smalldocs-search-results.show .search-none"))
        time.sleep(.3)  # the list is drawn anew after each key
        return self.all(".smalldocs-search-results.show .search-result")

    def unfold(self):
        """Every section of the menu opened."""
        self.js("document.querySelectorAll('#quarto-sidebar .sidebar-section').forEach(e => e.classList.add('show'))")

    def language(self):
        return self.js("return [document.documentElement.dataset.language, document.documentElement.lang]")

    def shown(self, lang):
        return sum(e.is_displayed() for e in self.all(f'main div[lang="{lang}"]'))

    def complaints(self):
        """Console errors and requests that left this machine, since last asked."""
        said = [f"{e['level']}: {e['message']}" for e in self.driver.get_log("browser") if e["level"] in ("SEVERE", "WARNING")]
        sent = (json.loads(e["message"])["message"] for e in self.driver.get_log("performance"))
        urls = (m["params"]["request"]["url"] for m in sent if m["method"] == "Network.requestWillBeSent")
        return said + [f"left this machine: {u}" for u in urls if urlsplit(u).scheme != "data" and not u.startswith(self.base)]


@pytest.fixture(scope="module")
def session(base, tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROME
    for flag in [*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.set_page_load_timeout(30)
    yield Browser(driver, base)
    driver.quit()


@pytest.fixture
def browser(session):
    session.forget()
    session.complaints()
    yield session
    assert session.complaints() == []


def pages():
    """Where each page lies in docs/: one a test, so that it is opened once and several workers share them."""
    return sorted(p.relative_to(DOCS).as_posix() for p in DOCS.rglob("*.html"))


@pytest.mark.parametrize(("spoken", "first"), [("ko-KR", "ko"), ("en-US", "en"), ("de-DE", "en")])
def test_first_visit_speaks_the_browsers_language(browser, spoken, first):
    browser.open("index.html", language=spoken)
    assert browser.language() == [first, first]


def test_language_is_set_before_anything_is_drawn(browser):
    script = "new MutationObserver(() => { if (document.body && !window.seen) window.seen = document.documentElement.dataset.language || 'none'; })"
    added = browser.cdp("Page.addScriptToEvaluateOnNewDocument", source=script + ".observe(document, {childList: true, subtree: true})")
    browser.open("index.html?lang=ko")
    browser.cdp("Page.removeScriptToEvaluateOnNewDocument", **added)
    assert browser.js("return window.seen") == "ko"


def test_button_goes_round_and_is_remembered(browser):
    browser.open("index.html", language="ko-KR")
    korean, english = browser.shown("ko"), browser.shown("en")
    assert korean and not english
    heading = browser.one("main h2").text
    for state, lang in (("en", "en"), ("both", "ko"), ("ko", "ko")):
        browser.one("#language").click()
        assert browser.language() == [state, lang]
        assert (browser.shown("ko") > 0, browser.shown("en") > 0) == (state != "en", state != "ko")
        text = browser.one("main h2").text
        assert ("·" in text) == (state == "both") and (text == heading) == (state == "ko")
        browser.driver.refresh()
        assert browser.language() == [state, lang]


def test_address_wins_over_what_was_remembered(browser):
    browser.open("index.html?lang=ko")
    browser.open("index.html?lang=en")
    assert browser.language() == ["en", "en"] and browser.shown("en") and not browser.shown("ko")
    browser.one("#language").click()
    assert browser.driver.current_url.endswith("?lang=both")


@pytest.mark.parametrize(("lang", "words"), [("ko", "동결"), ("en", "freeze")])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_search_finds_and_leads_there(browser, lang, words, scheme):
    browser.open(f"index.html?lang={lang}", scheme=scheme)
    hits = browser.search(words)
    assert hits
    ratio = browser.js(CONTRAST + "return contrast(...arguments)", browser.one(".search-result-title"), browser.one(".smalldocs-search-results"))
    assert ratio > 4.5
    browser.click(hits[0])
    browser.wait(lambda: browser.js("return document.readyState") == "complete")
    assert words in browser.js("return document.querySelector('main').textContent.toLowerCase()")


def test_search_says_when_there_is_nothing(browser):
    browser.open("index.html?lang=ko")
    assert browser.search("qqqzzzxxx") == []
    assert browser.one(".search-none").text == "결과 없음"


def test_inner_modules_are_folded_until_asked_for_or_read(browser):
    """A folder of them opens by a click; on one of its pages it is open, and marked."""
    inner, shown = "#quarto-sidebar .sidebar-section.depth2", "return arguments[0].getClientRects().length > 0"
    browser.open("index.html?lang=en")
    folded = browser.all(f"{inner} a[href]")
    assert folded and not any(browser.js(shown, a) for a in folded)
    target = folded[0].get_attribute("href")
    browser.click(browser.one("#quarto-sidebar .depth1 .sidebar-item-section .sidebar-item-toggle"))
    browser.wait(lambda: browser.js(shown, folded[0]) and not browser.all("#quarto-sidebar .collapsing"))
    browser.click(folded[0])
    browser.wait(lambda: browser.driver.current_url == target)
    assert browser.js(shown, browser.one(f"{inner} a.active"))


def test_dark_mode_is_one_click_away_and_stays(browser):
    browser.open("index.html")
    light = browser.one("body").value_of_css_property("background-color")
    browser.one(".quarto-color-scheme-toggle").click()
    browser.wait(lambda: browser.one("body").value_of_css_property("background-color") != light)
    browser.driver.refresh()
    assert browser.one("body").value_of_css_property("background-color") != light


def test_a_table_too_wide_for_a_phone_becomes_a_card_a_row(browser):
    """Each cell says which column it is in, in the language of the page; on a desktop it is a table again."""
    browser.open("guides/tf1_to_keras3.html?lang=en", size=PHONE)
    browser.wait(lambda: browser.all(".stacked"))
    row = browser.one(".stacked tbody tr").text.splitlines()
    assert row[0].startswith("tf.placeholder") and "Today" in row and "What differs" in row
    browser.js("language('ko')")
    assert "오늘" in browser.one(".stacked tbody tr").text.splitlines()
    browser.look(DESK)
    browser.wait(lambda: not browser.all(".stacked"))
    assert "오늘" not in browser.one(".sd-table tbody tr").text.splitlines()


def test_what_code_printed_can_be_read_on_a_phone(browser):
    """A table far too wide stands as cards, a picture with small letters scrolls; on a desktop both are as they were."""
    browser.open("guides/backbones.html", size=PHONE)
    browser.wait(lambda: browser.all(".stacked .transferlit-table") and browser.all(".wide-picture img"))
    assert browser.one(".wide-picture img").rect["width"] > PHONE[0] and "cached_at" in browser.one(".stacked").text
    browser.look(DESK)
    browser.wait(lambda: not browser.all(".stacked .transferlit-table") and not browser.all(".wide-picture"))


@pytest.mark.parametrize("page", ["checkpoint", "guides/weights_from_elsewhere", "guides/sweep"])
def test_no_printed_table_scrolls_on_a_phone(browser, page):
    """A little too wide, it takes smaller letters, and its rows can still be compared; on a desktop it has its own."""
    browser.open(f"{page}.html", size=PHONE)
    browser.wait(lambda: browser.all(".small .transferlit-table"))
    assert browser.js("""return [...document.querySelectorAll('.cell-output-display:has(.transferlit-table)')]
        .filter(box => box.scrollWidth > box.clientWidth).map(box => box.innerText.slice(0, 50))""") == []
    browser.look(DESK)
    browser.wait(lambda: not browser.all(".small"))


def test_opening_page_fits_one_screen(browser):
    """What it is, the ten lines, the plan, the speed and the cut: at one glance."""
    for lang in ("ko", "en"):
        browser.open(f"index.html?lang={lang}", size=(1280, 800))
        parts = browser.js("return [...document.querySelectorAll('.opening :is(pre, table, img)')].map(e => e.getBoundingClientRect().bottom)")
        assert len(parts) >= 5 and max(parts) <= 800, lang
        for size in ((1024, 768), (768, 1024)):
            browser.look(size)
            picture, table = browser.js("return ['img', 'table'].map(e => document.querySelector('.opening ' + e).getBoundingClientRect().left)")
            assert table > picture + 300, "on a tablet, too, the plan stands beside the picture"


def test_code_is_copied_as_it_was_written(browser):
    browser.open("index.html")
    shown, written = browser.js("const code = document.querySelector('pre.cell-code code'); return [code.innerText, code.textContent]")
    assert shown == written and written.count("\n") >= 10


def test_phone_opens_the_list_of_pages(browser):
    browser.open("index.html", size=PHONE)
    browser.one(".quarto-btn-toggle").click()
    browser.wait(lambda: browser.one("#quarto-sidebar .sidebar-link").rect["x"] >= 0)
    assert browser.search("keras")


@pytest.mark.parametrize("page", ["index.html", next((p for p in pages() if "/" in p), "reference.html")])
def test_pages_open_from_the_disk(session, page):
    """As after a download: by double click, without a server."""
    session.complaints()
    session.cdp("Emulation.setDeviceMetricsOverride", width=1280, height=900, deviceScaleFactor=1, mobile=False)
    session.driver.get(f"{(DOCS / page).as_uri()}?lang=en")
    hits = session.search("freeze")
    assert hits
    session.click(hits[0])
    assert [c for c in session.complaints() if f"left this machine: {DOCS.as_uri()}/" not in c] == []


def test_without_javascript_both_languages_show(browser):
    browser.cdp("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.driver.get(browser.base + "index.html")
        assert browser.shown("ko") and browser.shown("en")
    finally:
        browser.cdp("Emulation.setScriptExecutionDisabled", value=False)


@functools.cache
def axe():
    """The rules of axe-core, where npm has put them: here (`npm install axe-core`), or for all (`npm install -g axe-core`)."""
    folders = [DOCS.parent / "node_modules", Path(os.environ.get("NODE_PATH", "/nowhere"))]
    if shutil.which("npm"):
        folders.append(Path(subprocess.run(["npm", "root", "-g"], capture_output=True, text=True).stdout.strip()))
    found = (folder / "axe-core" / "axe.min.js" for folder in folders)
    return next((path.read_text("utf-8") for path in found if path.exists()), None)


# What speaks one language at a time, pictures that speak by words, and where a page stands among the others.
SEEN = """const texts = s => [...document.querySelectorAll(s)].filter(e => e.getClientRects().length).map(e => e.innerText);
const links = s => Object.fromEntries([...document.querySelectorAll(s)].map(a => [a.innerText, a.href]));
return {title: document.title, lines: texts('.description'), pictures: [...document.querySelectorAll('main img')].map(e => e.alt), tables: texts('th'),
        frame: texts('h1, h2, h3, .menu-text, #TOC a, #toc-title, .nav-page-text, th, .callout-title-container, summary'),
        heading: texts('h1.title')[0], notebook: links('a.notebook')};"""
# Whether a click on the middle of an element would reach it.
HIT = """return arguments[0].filter(e => { e.scrollIntoView({block: 'center', behavior: 'instant'});
    const at = e.getClientRects()[0]; return !e.contains(document.elementFromPoint(at.x + at.width / 2, at.y + at.height / 2)); }).map(e => e.href)"""
AXE = """const done = arguments[arguments.length - 1];
axe.run(document, {resultTypes: ['violations']}).then(found => done(found.violations
    .map(v => `${v.id}: ${v.nodes.slice(0, 3).map(n => n.html.slice(0, 160)).join(' | ')}`)));"""


@pytest.mark.parametrize("page", pages())
def test_a_page(browser, page):
    """In English, in both languages, then in Korean, as the button goes round."""
    browser.open(f"{page}?lang=en")
    english = browser.js(SEEN)
    frame = [*english["frame"], *english["lines"], *english["pictures"], english["title"]]
    assert [text for text in frame if HANGUL.search(text)] == [], "no Hangul is left in the frame of an English page"
    stands_in_the_menu(browser, page, english["heading"])
    keeps_nobody_out(browser)
    browser.one("#language").click()
    reads_at_every_width_light_and_dark(browser)
    browser.one("#language").click()
    korean = browser.js(SEEN)
    mixed = re.compile(rf"{HANGUL.pattern}.* · [^가-힣]*[A-Za-z]")
    assert [text for text in korean["frame"] if mixed.search(text)] == [], "no second language in a Korean one"
    keeps_nobody_out(browser)
    says_what_it_shows(english, korean)
    if page != "reference.html":  # from the package, by no notebook
        can_be_run_and_had(english, korean)


def stands_in_the_menu(browser, page, heading):
    """Its entry is marked, and a click on the page that follows would arrive."""
    active = browser.one("#quarto-sidebar a.active")
    assert urlsplit(active.get_attribute("href")).path == f"/{page}"
    assert heading in (active.text, "transferlit")
    assert browser.js(HIT, browser.all(".nav-page-next a")) == []


def keeps_nobody_out(browser):
    """Screen readers and keyboards, by the rules of axe-core, where it is installed."""
    if rules := axe():
        browser.js(rules)
        assert browser.driver.execute_async_script(AXE) == []


def reads_at_every_width_light_and_dark(browser):
    for size in (DESK, PHONE):
        browser.look(size)
        wide = browser.js("return document.documentElement.scrollWidth - window.innerWidth")
        assert wide <= 0, f"{wide} pixels too wide for {size}"
    scrolled = "return [...document.querySelectorAll('.sd-table')].filter(e => e.scrollWidth > e.clientWidth).map(e => e.innerText)"
    with suppress(TimeoutException):  # tables are laid out anew a moment after the width has changed
        browser.wait(lambda: browser.js(scrolled) == [], seconds=3)
    assert browser.js(scrolled) == [], "a table is too wide for a phone"
    for scheme, said in (("light", "normal"), ("dark", "dark")):
        browser.look(PHONE, scheme)
        browser.wait(lambda: browser.js("return getComputedStyle(document.body).colorScheme || 'light'") == said)
        # The scheme of code blocks is a stylesheet of its own, which may follow that of the page by a moment.
        with suppress(TimeoutException):
            browser.wait(lambda: browser.js(FAINT) == [], seconds=3)
        assert browser.js(FAINT) == [], f"in the {scheme}"
    browser.look()


def says_what_it_shows(english, korean):
    """Each picture has words, in the language of the page."""
    assert all(english["pictures"]) and all(map(HANGUL.search, korean["pictures"]))


def can_be_run_and_had(english, korean):
    """The line below the title speaks the language of the page; the notebook is a click away."""
    assert len(english["lines"]) == len(korean["lines"]) == 1
    assert english["lines"][0] and HANGUL.search(korean["lines"][0])
    links = english["notebook"]
    name = re.fullmatch(r"https://github\.com/(.+)/blob/(.+\.ipynb)", links["Notebook"])
    assert (DOCS.parent / name[2].partition("/")[2]).is_file()
    assert links["Open in Colab"] == f"https://colab.research.google.com/github/{name[1]}/blob/{name[2]}"
    assert links["Download"] == f"https://raw.githubusercontent.com/{name[1]}/{name[2]}"


def test_some_pages_have_pictures():
    assert sum("<img" in (DOCS / page).read_text("utf-8").partition("<main")[2] for page in pages()) > 10


@pytest.mark.parametrize(("planted", "rule"), [
    ("<img src='favicon.svg'>", "image-alt"), ("<h5>Too deep</h5>", "heading-order"), ("<table><tr><th></th></tr></table>", "empty-table-header")])
def test_what_keeps_someone_out_is_noticed(browser, planted, rule):
    if not axe():
        pytest.skip("axe-core is not there: npm install -g axe-core")
    browser.open("index.html?lang=en")
    browser.js("document.querySelector('main').insertAdjacentHTML('beforeend', arguments[0])", planted)
    browser.js(axe())
    assert rule in [fault.partition(":")[0] for fault in browser.driver.execute_async_script(AXE)]


def test_every_navigation_entry_leads_to_its_page(browser):
    """Each is under the pointer; a click on one in ten arrives."""
    browser.open("index.html?lang=en")
    browser.unfold()
    entries = browser.all("#quarto-sidebar a[href]")
    assert sorted(urlsplit(a.get_attribute("href")).path.lstrip("/") for a in entries) == pages()
    assert browser.js(HIT, entries) == []
    for target in [a.get_attribute("href") for a in entries][::10]:
        browser.unfold()
        browser.click(next(a for a in browser.all("#quarto-sidebar a[href]") if a.get_attribute("href") == target))
        browser.wait(lambda: browser.driver.current_url == target and browser.all("#quarto-sidebar a.active"))


def links_of(page, found):
    """Where the links of a page that `found` matches lead, from the root of the site."""
    text = (DOCS / page).read_text("utf-8")
    return [posixpath.normpath(posixpath.join(posixpath.dirname(page), href)) for href in re.findall(found, text, re.S)]


def test_pages_follow_one_another_in_the_order_of_the_menu(browser):
    seen = ["index.html"]
    while after := links_of(seen[-1], r'class="nav-page nav-page-next">\s*<a href="([^"]+)"'):
        assert links_of(after[0], r'class="nav-page nav-page-previous">\s*<a href="([^"]+)"') == seen[-1:]
        seen += after
    assert seen == links_of("index.html", r'<a href="([^"]+)" class="[^"]*sidebar-link') and sorted(seen) == pages()
    browser.open("index.html?lang=en")
    for page in seen[1:4]:
        browser.click(browser.one(".nav-page-next a"))
        browser.wait(lambda: urlsplit(browser.driver.current_url).path == f"/{page}")


LESSONS = ("transfer_learning", "checkpoint", "surgery", "revival", "freezing", "barrier", "caching", "wrapup")
FIRST = "const first = document.querySelector('.symbol'); return first ? first.getBoundingClientRect().top + scrollY : null"


@pytest.mark.parametrize("lang", ["ko", "en"])
def test_a_lesson_comes_to_its_function_within_six_screens(browser, lang):
    """And begins with a picture or a table: what it does, before how."""
    for page in LESSONS:
        browser.open(f"{page}.html?lang={lang}")
        top = browser.js(FIRST)
        assert top is None or top <= 6 * DESK[1], f"{page}: {top / DESK[1]:.1f} screens"
        shown = browser.js("return document.querySelector('main :is(img, table)').getBoundingClientRect().top")
        assert shown <= 1.2 * DESK[1], f"{page} shows nothing in its first screen"


def test_a_heading_has_an_english_address(browser):
    browser.open("guides/recipes.html?lang=en#a-stale-cache")
    top = "return document.getElementById('a-stale-cache').getBoundingClientRect().top"
    browser.wait(lambda: 0 <= browser.js(top) <= 200)  # it scrolls there; below the bar


@pytest.mark.parametrize(("words", "name"), [("복원", "restore"), ("restore", "restore"), ("동결", "freeze"), ("기울기", "stop_after"),
                                             ("freeze", "freeze"), ("fine-tuning", "finetune"), ("접붙이기", "graft"),
                                             ("데이터 증강", "precompute"), ("가중치 불러오기", "restore"), ("텐서플로 1 모델", "revive"),
                                             ("how to freeze layers", "freeze"), ("import_meta_graph", "revive"), ("tf.train.Saver", "save"),
                                             ("fine tune", "finetune"), ("saved_model", "revive")])
def test_search_leads_to_the_function_of_a_word_first(browser, words, name):
    browser.open("index.html?lang=ko")
    hits = browser.search(words)
    assert hits[0].get_attribute("href").endswith(f"#{name}")


@pytest.mark.parametrize(("words", "guide"), [("이미지 폴더", "your_data"), ("image folder", "your_data"), ("csv", "your_data"),
                                              ("mobilenet", "backbones"), ("s3", "many_machines"),
                                              ("overfitting", "your_data"), ("state_dict", "weights_from_elsewhere")])
def test_search_leads_to_the_guide_of_a_word_first(browser, words, guide):
    browser.open("index.html?lang=ko")
    assert browser.search(words)[0].get_attribute("href").endswith(f"guides/{guide}.html")


def test_search_puts_what_has_the_word_before_what_is_like_it(browser):
    """`ray` is in `array` too."""
    entries = {e["href"]: f"{e['title']} {e['section']} {e['text']}" for e in json.loads((DOCS / "search.json").read_text("utf-8"))}
    browser.open("index.html?lang=en")
    found = [unquote(hit.get_attribute("href")).removeprefix(browser.base) for hit in browser.search("ray")]
    assert len(found) > 5 and all(re.search(r"(?i)(?<![a-z0-9])ray(?![a-z0-9])", entries[href]) for href in found[:5])


def test_search_shows_what_is_inside_the_package_last(browser):
    browser.open("index.html?lang=en")
    folders = "/(floor|formats|weights|cut|rows|loop|store|features|trainer|tf1|house)/"
    public = {name.lower() for name in tl.__all__}  # which may stand on a page of a package
    places = [urlsplit(hit.get_attribute("href")) for hit in browser.search("checkpoint")]
    inner = [bool(re.search(folders, at.path)) and at.fragment.removesuffix("-class") not in public for at in places]
    public = inner.index(True) if True in inner else len(inner)
    assert public and all(inner[public:])


def test_a_console_error_and_an_outside_load_are_noticed(session, base):
    session.open("index.html")
    session.complaints()
    session.js("console.error('planted'); new Image().src = 'http://127.0.0.2:9/planted.png'")
    found = []
    session.wait(lambda: found.extend(session.complaints()) or len(found) >= 2)
    assert any("planted" in c and "SEVERE" in c for c in found) and any(c.startswith("left this machine") for c in found)

