from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest
import typer

from tests.support.kafka import wait_until
from worker import __version__
from worker.cli import main
from worker.core.errors import BrokerError, BundleError, ConfigError, DriftDetectorError

PROGRAM = [sys.executable, "-c", "from worker.cli.main import main; main()"]


def fail_with(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def create_app() -> typer.Typer:
        app = typer.Typer(pretty_exceptions_enable=False)

        @app.command()
        def command() -> None:
            raise error

        return app

    monkeypatch.setattr(main, "create_app", create_app)


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["--help"]) == 0
    shown = capsys.readouterr().out
    for module in main.COMMAND_MODULES:
        # A module cannot be called "import".
        assert module.rpartition(".")[2].removesuffix("ing") in shown


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["--version"]) == 0
    assert capsys.readouterr().out == f"driftdetector {__version__}\n"


@pytest.mark.parametrize("error", [ConfigError("a"), BundleError("b"), BrokerError("c")])
def test_an_expected_error_is_one_line_with_its_exit_code(
    error: DriftDetectorError,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fail_with(error, monkeypatch)
    assert main.run([]) == error.exit_code != 0
    assert capsys.readouterr() == ("", f"error: {error}\n")


def test_an_unexpected_error_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(ZeroDivisionError("a bug"), monkeypatch)
    with pytest.raises(ZeroDivisionError):
        main.run([])


def test_ctrl_c_exits_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(KeyboardInterrupt(), monkeypatch)
    assert main.run([]) == 130


def test_a_mistyped_command_is_explained_without_a_traceback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main.run(["confg"]) == 2
    shown = capsys.readouterr().err
    assert "Did you mean 'config'" in shown
    assert "Traceback" not in shown


def test_a_command_groups_own_help_is_shown_without_arguments(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main.run(["topics"]) == 2
    assert "apply" in "".join(capsys.readouterr())


def test_help_is_quick_because_heavy_packages_are_not_imported() -> None:
    heavy = "faust onnxruntime sklearn numba confluent_kafka numpy"
    code = (
        "import sys; from worker.cli.main import run; run(['--help']); "
        f"print([m for m in '{heavy}'.split() if m in sys.modules], file=sys.stderr)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert run.stderr == "[]\n"


def test_ctrl_c_while_a_command_waits_ends_it_without_a_traceback() -> None:
    environ = {"DRIFTDETECTOR_KAFKA__BROKERS": "127.0.0.1:1", "PATH": ""}
    process = subprocess.Popen(
        [*PROGRAM, "topics", "check"], env=environ, stdout=-1, stderr=-1, text=True
    )
    try:
        time.sleep(1.5)
        process.send_signal(signal.SIGINT)
        wait_until(lambda: process.poll() is not None, "the command ends", 15)
        _, errors = process.communicate(timeout=15)
    finally:
        process.kill()
    assert process.returncode == 130
    assert errors == ""


def test_two_command_lines_in_one_process_are_independent() -> None:
    assert main.create_app() is not main.create_app()
