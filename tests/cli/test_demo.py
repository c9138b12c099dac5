from __future__ import annotations

from pathlib import Path

import pytest

from worker.cli.main import run


@pytest.mark.parametrize(
    ("options", "status", "sentence"),
    [
        ("--duration soon", 78, "--duration: 'soon' is not a duration"),
        ("--interval 0s", 78, "--interval: '0s' is not a duration"),
        ("--report none/out.json", 78, "--report: none/out.json cannot be written"),
        ("--bundle none", 65, "bundle 'none' does not exist"),
        ("--broker nonsense:port", 78, "kafka.brokers"),
    ],
)
def test_a_wrong_option_gives_one_sentence_and_a_bad_status(
    options: str,
    status: int,
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["demo", *options.split()]) == status
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {sentence}")


def test_a_broker_that_does_not_answer_gives_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("worker.demo.cluster.CONNECT_S", 1.0)
    assert run(["demo", "--broker", "localhost:1"]) == 69
    shown = capsys.readouterr()
    (line,) = shown.err.splitlines()
    assert line.startswith("error: kafka.brokers: no broker answers at localhost:1")
    assert "Traceback" not in shown.out


def test_the_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["demo", "--help"]) == 0
    shown = capsys.readouterr().out
    for name in ("duration", "report", "seed", "machines", "interval", "speed", "broker", "bundle"):
        assert f"--{name}" in shown
