"""Both channel sets, and a fixed start."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker.core.channels import ChannelSpec, parse_spec

ROOT = Path(__file__).parents[2]
CHANNEL_FILES = {
    "machine-health": ROOT / "models/machine-health/channels.toml",
    "pump": ROOT / "tests/data/pump.toml",
}


@pytest.fixture(scope="session", params=sorted(CHANNEL_FILES))
def spec(request: pytest.FixtureRequest) -> ChannelSpec:
    """Each channel set in turn."""
    return parse_spec(CHANNEL_FILES[request.param].read_text(), request.param)


@pytest.fixture(scope="session")
def milling_spec() -> ChannelSpec:
    return parse_spec(CHANNEL_FILES["machine-health"].read_text())


@pytest.fixture(scope="session")
def pump_spec() -> ChannelSpec:
    return parse_spec(CHANNEL_FILES["pump"].read_text())
