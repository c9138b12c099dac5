"""What every command shares: the settings, read when a command first needs them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from worker.settings import Settings, SettingValue, load_settings, settings_with_origin


@dataclass(frozen=True)
class Context:
    """The global options of one invocation.

    Attributes:
        config_file: value of ``--config``, None when it was not given.
    """

    config_file: Path | None = None

    def settings(self, overrides: Mapping[str, Any] | None = None) -> Settings:
        """Load the settings; ``overrides`` are dotted keys from command-line options.

        Raises:
            ConfigError: a setting is wrong.
        """
        return load_settings(self.config_file, os.environ, overrides)

    def settings_with_origin(self) -> tuple[Settings, list[SettingValue]]:
        """Load the settings, and each value with its origin; raises like :meth:`settings`."""
        return settings_with_origin(self.config_file, os.environ)


def context_of(context: typer.Context) -> Context:
    """The :class:`Context` that the global options made; that of no options without them."""
    shared = context.find_object(Context)
    return shared or Context()
