"""The option ``--channels`` that several commands share."""

from __future__ import annotations

from pathlib import Path

from worker.assets import asset_dir
from worker.core.channels import ChannelSpec, parse_spec
from worker.core.errors import ConfigError


def default_channels() -> Path:
    """The specification that the default bundle was trained for."""
    return asset_dir("models") / "machine-health" / "channels.toml"


def read_spec(path: Path) -> ChannelSpec:
    """Read a channel specification named by ``--channels``.

    Raises:
        ConfigError: the file cannot be read, or what is wrong in it.
    """
    try:
        return parse_spec(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise ConfigError(f"--channels: {path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"--channels: {path} is not UTF-8 text.") from error
