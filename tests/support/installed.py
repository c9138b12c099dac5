"""Programs that tests need beside Python: in CI a missing one fails, elsewhere it skips by name."""

from __future__ import annotations

import os
import shutil

import pytest


def need(program: str, package: str) -> None:
    """Skip the test, or in CI fail it, unless a program is installed."""
    if shutil.which(program) is None:
        missing = f"{program} is not installed: apt-get install {package}"
        if os.environ.get("CI") == "true":
            pytest.fail(missing, pytrace=False)
        pytest.skip(missing)
