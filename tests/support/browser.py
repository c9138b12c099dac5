"""Debian's Chromium for tests of pages, and what they ask of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, sync_playwright

CHROMIUM = shutil.which("chromium")
PIXELS = """name => [...document.querySelectorAll(name)].map(canvas => {
    const copy = new OffscreenCanvas(canvas.width, canvas.height)
        .getContext("2d", {willReadFrequently: true});
    copy.drawImage(canvas, 0, 0);
    const {data} = copy.getImageData(0, 0, canvas.width, canvas.height);
    let drawn = 0, sum = 0;
    for (let i = 0; i < data.length; i += 4)
        if (data[i + 3]) { drawn++; sum = (sum * 31 + data[i] + data[i + 1] * 3 + i) % 1000003; }
    return [drawn, sum];
})"""
"""Of each canvas how many pixels are drawn, and a sum that other pixels change."""
WIDTHS = "[document.documentElement.scrollWidth, innerWidth]"


@contextmanager
def launched() -> Iterator[Browser]:
    """The browser; tests are skipped where it is not installed, in CI they fail."""
    if CHROMIUM is None:
        missing = "Chromium is not installed: apt-get install chromium"
        if os.environ.get("CI") == "true":
            pytest.fail(missing, pytrace=False)
        pytest.skip(missing)
    with sync_playwright() as playwright:
        # Chromium's own sandbox needs more than containers allow; the pages are our own.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()
