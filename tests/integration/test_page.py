"""The status page in Chromium: on a phone and on a desk, light and dark, over a running worker."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright
from pydantic import SecretStr

from popproxy.config.plan import AdminPlan, Bind
from popproxy.run.admin import Admin
from popproxy.run.admin.api import Api
from popproxy.run.logs import EventLog
from tests.integration.conftest import Need
from tests.net.running import PASSWORD, USER, Proxy, Setup, running, sample
from tests.run.office import Desks
from tests.wireclient import WireClient

pytestmark = pytest.mark.integration

expect.set_options(timeout=20_000)
TOKEN = "the-token-of-the-page"
PHONE, DESK = {"width": 360, "height": 740}, {"width": 1440, "height": 900}
EVIL = b"<img/src=x/onerror=document.title='run'>"
LETTERS = [("one", b"Subject: one\r\n\r\nOne.\r\n"), ("two", b"Subject: two\r\n\r\n" + b"x" * 5000 + b"\r\n")]

_CONTRAST = """() => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (colour) => {
    const [r, g, b] = colour.map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const found = rgb(getComputedStyle(at).backgroundColor);
      if (found.length < 4 || found[3] > 0) return found;
    }
    return [255, 255, 255];
  };
  const poor = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || !element.checkVisibility()) continue;
    const [one, two] = [rgb(getComputedStyle(element).color), ground(element)].map((c) => light(c.slice(0, 3)));
    const ratio = (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
    if (ratio < 4.5) poor.push(`${element.tagName} ${element.textContent.slice(0, 40)} ${ratio.toFixed(2)}`);
  }
  return poor;
}"""
"""Text whose contrast is below 4.5 (WCAG 2.2, 1.4.3)."""


@pytest.fixture(scope="module")
def browser(need: Need) -> Iterator[Browser]:
    """The browser of the distribution, not one that a library downloads."""
    need("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield browser
        browser.close()


class Door:
    """The admin listener on a port, with a token."""

    def __init__(self, proxy: Proxy, log: EventLog) -> None:
        self.proxy = proxy
        self.fleet = Desks([proxy.worker.desk])
        self.admin = Admin(lambda accept: (b"", "text/plain"), lambda: None, private=Api(self.fleet).routes)
        plan = AdminPlan((Bind("inet", "127.0.0.1", 0),), token=SecretStr(TOKEN))
        proxy.call(self.admin.open(plan, log))
        self.url = f"http://{self.admin.address}/"

    def close(self) -> None:
        """No more questions."""
        self.proxy.call(self.admin.stop())


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    directory = tmp_path_factory.mktemp("page")
    log = EventLog(directory / "admin.log")
    with sample(directory, LETTERS) as server:
        with running(Setup([f"pop3+clear://127.0.0.1:{server.port}"]), directory) as proxy:
            made = Door(proxy, log)
            yield made
            made.close()
    log.close()


@contextmanager
def looking(browser: Browser, door: Door, size: dict[str, int], scheme: str = "light") -> Iterator[Page]:
    """The page with its token typed in. Nothing may be said on the console, nothing asked of elsewhere."""
    context = browser.new_context(
        viewport={"width": size["width"], "height": size["height"]},
        color_scheme="dark" if scheme == "dark" else "light",
    )
    page = context.new_page()
    said: list[str] = []
    elsewhere: list[str] = []

    def note(message: ConsoleMessage) -> None:
        # Chromium itself tells of every answer that is an error.
        if "the server responded with a status of 401" not in message.text:
            said.append(message.text)

    page.on("console", note)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: None if request.url.startswith(door.url) else elsewhere.append(request.url))
    page.goto(door.url)
    expect(page.locator("#access")).to_be_visible()
    expect(page.locator("#shown")).to_be_hidden()
    page.fill("#token", TOKEN)
    page.click("button")
    expect(page.locator("#state")).to_have_text("ready")
    yield page
    assert not said
    assert not [url for url in elsewhere if not url.startswith("data:")]
    context.close()


def client(door: Door) -> WireClient:
    """A client at the listener."""
    host, _, port = door.proxy.worker.listeners[0].address.rpartition(":")
    return WireClient((host, int(port)))


def test_a_wrong_token_shows_nothing(browser: Browser, door: Door) -> None:
    page = browser.new_page()
    page.goto(door.url)
    page.fill("#token", "wrong")
    page.click("button")
    expect(page.locator("#state")).to_have_text("this token is wrong")
    expect(page.locator("#shown")).to_be_hidden()
    assert page.evaluate("sessionStorage.length") == 0
    page.close()


def test_sessions_and_servers_are_shown_as_they_come_and_go(browser: Browser, door: Door) -> None:
    with looking(browser, door, DESK) as page:
        sessions = page.locator("#tiles div").first.locator("dd.value")
        expect(sessions).to_have_text("0")
        with client(door) as one:
            expect(sessions).to_have_text("1")
            expect(page.locator("#tiles dd.more").first).to_have_text("1 authorization")
            one.user_pass(USER, PASSWORD)
            expect(page.locator("#tiles dd.more").first).to_have_text("1 transaction")
            expect(page.locator("#upstreams tr td")).to_have_text(["main", "1 up", "1", "0"])
        expect(sessions).to_have_text("0")
        expect(page.locator("#upstreams tr td").nth(2)).to_have_text("0")


def test_a_name_is_text(browser: Browser, door: Door) -> None:
    with looking(browser, door, PHONE) as page:
        with client(door) as one:
            one.send(b"USER " + EVIL + b"\r\nPASS wrong\r\n")
            one.read_line()
            one.read_line()
        expect(page.locator("#denials li").first).to_contain_text(EVIL.decode())
        expect(page.locator("#denials li").first).to_contain_text("login failed")
        assert page.title() == "popproxy"
        assert page.locator("#denials img").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_it_can_be_read(browser: Browser, door: Door, size: dict[str, int], scheme: str) -> None:
    with looking(browser, door, size, scheme) as page:
        expect(page.locator("#tiles div")).to_have_count(9)
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= size["width"], "nothing sticks out"
        assert page.evaluate(_CONTRAST) == []
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        dark = sum(map(int, re.findall(r"\d+", ground)[:3])) < 3 * 128
        assert dark is (scheme == "dark")


def test_it_says_when_figures_are_old_and_goes_on_by_itself(browser: Browser, door: Door) -> None:
    with looking(browser, door, DESK) as page:
        door.fleet.mute.add(0)
        expect(page.locator("#state")).to_have_text("ready, no word from worker 0")
        door.fleet.mute.clear()
        expect(page.locator("#state")).to_have_text("ready")


def test_its_files_may_load_nothing_from_elsewhere(browser: Browser, door: Door) -> None:
    page = browser.new_page()
    for path in ("", "page.css", "page.js"):
        answer = page.request.get(door.url + path)
        policy = answer.headers["content-security-policy"]
        assert answer.status == 200
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
    page.close()
