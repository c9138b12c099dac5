"""Commands under test see no settings of the person who runs the tests."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def _no_settings_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("DRIFTDETECTOR_") and name != "DRIFTDETECTOR_DATA":
            monkeypatch.delenv(name)
