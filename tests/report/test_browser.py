"""The report in a real browser, opened from disk: drawn, moved, searched, printed, and silent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.support.backtested import HOSTILE, Backtested
from tests.support.browser import PIXELS, WIDTHS, launched


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


class Opened:
    """A report in a page of its own, with all that the browser said of it."""

    def __init__(self, browser: Browser, report: Backtested, **options: Any) -> None:
        self.page: Page = browser.new_context(**options).new_page()
        self.said: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("dialog", lambda dialog: self.said.append(dialog.message))
        self.page.goto((report.out / "report.html").as_uri())
        self.page.wait_for_selector("#charts canvas")
        self.settle()

    def settle(self) -> None:
        """Until what was asked for is drawn."""
        self.page.evaluate(
            "() => new Promise(done => requestAnimationFrame(() => setTimeout(done)))"
        )

    def pixels(self, name: str = "#charts canvas") -> list[list[int]]:
        """Of each canvas how many pixels are drawn, and a sum that other pixels change."""
        self.settle()
        found: list[list[int]] = self.page.evaluate(PIXELS, name)
        return found

    def over(self, chart: int) -> tuple[float, float, float]:
        """Left edge, width and middle height of a chart that is in view, in pixels."""
        area = self.page.locator("#charts .u-over").nth(chart)
        area.scroll_into_view_if_needed()
        box = area.bounding_box()
        assert box is not None
        return box["x"], box["width"], box["y"] + box["height"] / 2

    def close(self) -> None:
        """Nothing was said in all that time, and nothing asked for but the file."""
        self.settle()
        assert self.said == []
        assert len(self.requests) == 1
        self.page.context.close()


@pytest.fixture
def opened(chromium: Browser, judged: Backtested) -> Iterator[Opened]:
    opened = Opened(chromium, judged)
    yield opened
    opened.close()


def test_every_chart_is_drawn(opened: Opened) -> None:
    charts = opened.pixels()
    # What was told and true, two scores, five channels.
    assert len(charts) == 8
    assert all(drawn > 1000 for drawn, _ in charts)
    for others in ("#sweep-charts canvas", "#drift-charts canvas"):
        assert all(drawn > 1000 for drawn, _ in opened.pixels(others))
        assert opened.pixels(others)
    captions = opened.page.locator("#charts figcaption b").all_inner_texts()
    assert captions[:2] == ["score", "score of the other"]
    assert set(captions[2:]) == {
        "vibration",
        "temperature",
        "rotational_speed",
        "torque",
        "tool_wear",
    }


def test_zoom_and_move_draw_other_pixels_and_reset_the_first_again(opened: Opened) -> None:
    before = opened.pixels()
    reset = opened.page.get_by_role("button", name="Reset")
    assert reset.is_disabled()
    left, width, y = opened.over(1)
    mouse = opened.page.mouse
    mouse.move(left + 0.3 * width, y)
    mouse.down()
    mouse.move(left + 0.6 * width, y, steps=3)
    mouse.up()
    mouse.move(1, 1)
    zoomed = opened.pixels()
    assert all(a != b for a, b in zip(before, zoomed, strict=True))
    opened.page.get_by_title("Later").click()
    moved = opened.pixels()
    assert all(a != b for a, b in zip(zoomed, moved, strict=True))
    reset.click()
    assert opened.pixels() == before


def test_the_keyboard_reaches_and_does_everything(opened: Opened) -> None:
    before = opened.pixels()
    keyboard = opened.page.keyboard
    focused = "document.activeElement.id || document.activeElement.textContent"
    opened.page.locator("#search").focus()
    keyboard.press("ArrowDown")
    keyboard.press("ArrowDown")
    second = opened.page.locator("#machines button").nth(1)
    assert opened.page.evaluate(focused) == second.inner_text().replace("\n", "")
    for _ in range(20):
        keyboard.press("Tab")
        if opened.page.evaluate(focused) == "charts":
            break
    for key in ("+", "ArrowRight", "-", "n", "0", "p"):
        drawn = opened.pixels()
        keyboard.press(key)
        assert opened.pixels() != drawn, key
    keyboard.press("0")
    assert opened.pixels() == before


def test_a_machine_is_found_by_its_name_and_chosen(opened: Opened) -> None:
    search = opened.page.locator("#search")
    shown = opened.page.locator("#shown")
    search.fill("</SCRIPT>")
    assert opened.page.locator("#machines li:visible").count() == 1
    assert opened.page.locator("#matches").inner_text() == "1 of 4"
    search.press("Enter")
    opened.page.wait_for_function("name => shown.textContent.startsWith(name)", arg=HOSTILE)
    assert shown.locator("*").count() == 0
    other = opened.pixels()
    search.fill("")
    name = opened.page.locator("#machines button:not([aria-current=true])").first
    name.click()
    opened.page.wait_for_function("name => !shown.textContent.startsWith(name)", arg=HOSTILE)
    assert opened.pixels() != other


def test_an_episode_of_the_table_is_shown_on_its_machine(opened: Opened) -> None:
    row = opened.page.locator("#episodes tbody tr").last
    machine = row.locator("td").first.inner_text()
    row.get_by_role("button", name="Show").click()
    opened.page.wait_for_function("name => shown.textContent.startsWith(name)", arg=machine)
    assert opened.page.get_by_role("button", name="Reset").is_enabled()
    assert opened.page.evaluate("document.activeElement.id") == "charts"


def test_the_cursor_tells_what_is_below_it(opened: Opened) -> None:
    left, width, y = opened.over(2)
    opened.page.mouse.move(left + 0.5 * width, y)
    opened.settle()
    assert opened.page.locator("#readout").inner_text().startswith("2026-01-0")
    told = opened.page.locator("#charts figcaption span:last-child").all_inner_texts()
    assert all(any(c.isdigit() for c in text) for text in told), told


def test_at_the_width_of_a_phone_nothing_sticks_out(chromium: Browser, judged: Backtested) -> None:
    size = {"width": 390, "height": 844}
    opened = Opened(chromium, judged, viewport=size, has_touch=True, is_mobile=True)
    assert opened.page.evaluate(WIDTHS) == [390, 390]
    assert all(drawn > 500 for drawn, _ in opened.pixels())
    opened.close()


def test_dark_and_print_have_colours_of_their_own(opened: Opened) -> None:
    page = opened.page
    background = "getComputedStyle(document.body).backgroundColor"
    light = opened.pixels()
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(background) == "rgb(20, 23, 26)"
    dark = opened.pixels()
    assert all(a != b for a, b in zip(light, dark, strict=True))
    page.emulate_media(media="print")
    assert page.evaluate(background) == "rgb(255, 255, 255)"
    assert not page.locator("#search").is_visible()
    assert all(a != b for a, b in zip(dark, opened.pixels(), strict=True))
    assert page.locator("#figures").is_visible()
    assert page.pdf(format="A4").startswith(b"%PDF")
    page.emulate_media(media="screen", color_scheme="light")
    assert opened.pixels() == light


def test_a_page_without_truth_and_other_is_drawn_too(chromium: Browser, plain: Backtested) -> None:
    opened = Opened(chromium, plain)
    assert len(opened.pixels()) == 7
    assert all(drawn > 1000 for drawn, _ in opened.pixels())
    opened.close()
