"""The live page in a real browser: on a demo with a real Kafka, and over a restart."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from playwright.sync_api import Browser, Page, expect

from load.local_kafka import LocalKafka, free_port
from tests.demo.test_session import running_demo
from tests.support.browser import PIXELS, WIDTHS, launched
from tests.support.online import machine as document
from worker.api.service import Service
from worker.assets import asset_dir
from worker.models.bundle import load_bundle
from worker.online.memory import MemoryStore
from worker.settings import Settings

HOSTILE = "<img src=x onerror=alert(1)>"
PHONE: dict[str, Any] = {
    "viewport": {"width": 390, "height": 844},
    "has_touch": True,
    "is_mobile": True,
}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


class Opened:
    """The page, with all that the browser said of it."""

    def __init__(self, browser: Browser, url: str, **options: Any) -> None:
        self.page: Page = browser.new_context(**options).new_page()
        self.said: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: self.said.append(dialog.message))
        self.page.goto(url)
        self.is_live()

    def is_live(self) -> None:
        expect(self.page.locator("#link")).to_have_text("live", timeout=20_000)

    def pixels(self, name: str) -> list[list[int]]:
        found: list[list[int]] = self.page.evaluate(PIXELS, name)
        return found

    def close(self) -> None:
        self.page.context.close()


def get(url: str, path: str) -> Any:
    with urllib.request.urlopen(f"{url}{path}", timeout=10) as response:
        return json.loads(response.read())


def wait(page: Page, holds: Callable[[], bool], what: str) -> None:
    for _ in range(300):
        if holds():
            return
        page.wait_for_timeout(100)
    pytest.fail(f"it did not come to this: {what}")


def test_a_fault_turns_its_machines_tile_and_tells_why(
    kafka: LocalKafka, chromium: Browser, tmp_path: Path
) -> None:
    options = ["--broker", kafka.bootstrap_servers, "--machines", "12", "--seed", "7", "--no-open"]
    with running_demo(tmp_path, *options) as (process, _):
        assert process.stdout is not None
        shown = next(line for line in process.stdout if "See it live" in line)
        url = re.search(r"http://\S+", shown)
        assert url
        opened = Opened(chromium, url[0])
        page = opened.page
        wait(page, lambda: "Normal" in page.locator("#states").inner_text(), "machines appear")
        calm = opened.pixels("#tiles")
        page.wait_for_selector("#open button", timeout=30_000)
        # An episode may close meanwhile in simulated time; the page shows what is open by then.
        page.locator("#open button").first.click()
        name = page.locator("#machine-name").inner_text()
        view = get(url[0], f"/machines/{name}")
        reason = view["episodes"][0]["episode"]["reason"].split(" ")[0]
        expect(page.locator("#machine-wrong")).to_contain_text(reason)
        page.wait_for_selector("#charts canvas")
        assert opened.pixels("#tiles") != calm
        page.locator("#search").fill(name)
        page.locator("#search").press("ArrowDown")
        expect(page.locator("#grid-at")).to_contain_text(name)
        drawn = opened.pixels("#charts canvas")
        assert len(drawn) == 6
        wait(page, lambda: opened.pixels("#charts canvas") != drawn, "the charts move")
        expect(page.locator("#rate")).to_have_text(re.compile(r"[0-9,]+/s"), timeout=20_000)
        assert opened.said == []
        opened.close()


@contextmanager
def serving(store: MemoryStore, port: int) -> Iterator[str]:
    """The service without Kafka, on a loop of its own."""
    settings = Settings(kafka={"brokers": "127.0.0.1:1"}, serve={"port": port})
    bundle = load_bundle("machine-health", asset_dir("models"), threads=1)
    address: Future[str] = Future()
    stop = threading.Event()

    async def run() -> None:
        service = Service(settings, bundle, store)
        await service.start()
        address.set_result(service.url)
        await asyncio.to_thread(stop.wait)
        await service.stop()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    try:
        yield address.result(20)
    finally:
        stop.set()
        thread.join(20)


def fleet(count: int) -> MemoryStore:
    store = MemoryStore()
    names = [HOSTILE, *(f"m-{n}" for n in range(1, count))]
    store.write([msgspec.structs.replace(document(name), experience=1.0) for name in names])
    return store


def test_the_page_survives_a_restart_and_says_meanwhile_that_it_is_old(chromium: Browser) -> None:
    port = free_port()
    with serving(fleet(3), port) as url:
        opened = Opened(chromium, url)
        page = opened.page
        expect(page.locator("#states")).to_contain_text("3")
    expect(page.locator("#link")).to_contain_text("out of date")
    assert page.evaluate("document.body.className") == "stale"
    with serving(fleet(5), port):
        opened.is_live()
        expect(page.locator("#states")).to_contain_text("5")
        # Chromium itself tells of connections that are refused or end, and of nothing else.
        assert all("net::ERR" in text for text in opened.said), opened.said
        opened.close()


def test_names_are_text_and_ten_thousand_machines_fit(chromium: Browser) -> None:
    with serving(fleet(10_000), 0) as url:
        opened = Opened(chromium, url)
        page = opened.page
        expect(page.locator("#states")).to_contain_text("10,000", timeout=20_000)
        page.keyboard.press("/")
        page.keyboard.type("onerror")
        expect(page.locator("#matches")).to_have_text("1 of 10,000")
        page.keyboard.press("Enter")
        expect(page.locator("#machine-name")).to_have_text(HOSTILE)
        page.keyboard.press("Escape")
        expect(page.locator("#machine")).to_be_hidden()
        assert page.locator("main img").count() == 0
        assert page.evaluate("document.querySelector('#tiles').height") <= 2_000
        assert opened.said == []
        opened.close()
        phone = Opened(chromium, url, **PHONE)
        assert phone.page.evaluate(WIDTHS) == [390, 390]
        phone.page.emulate_media(color_scheme="dark")
        background = "getComputedStyle(document.body).backgroundColor"
        assert phone.page.evaluate(background) == "rgb(20, 23, 26)"
        phone.close()
