from __future__ import annotations

from pathlib import Path

import pytest
import typer

from worker.cli.context import Context, context_of


def test_settings_come_from_the_file_the_environment_and_the_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[http]\nport = 81\n")
    monkeypatch.setenv("DRIFTDETECTOR_LOG__LEVEL", "debug")
    settings = Context(file).settings({"kafka.brokers": "here:1"})
    assert (settings.http.port, settings.log.level) == (81, "debug")
    assert settings.kafka.brokers == "here:1"
    assert Context(file).settings_with_origin()[0].http.port == 81


def test_a_command_without_global_options_has_none() -> None:
    app = typer.Typer()
    seen: list[Context] = []

    @app.command()
    def command(context: typer.Context) -> None:
        seen.append(context_of(context))

    app([], standalone_mode=False)
    assert seen == [Context()]
