"""The wheel, the locks and the Makefile, as someone who installs or builds meets them."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from worker import __version__

CHECKOUT = Path(__file__).resolve().parent.parent
LOCKS = sorted((CHECKOUT / "requirements").glob("*.txt"))
MAKEFILE = (CHECKOUT / "Makefile").read_text()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    _run(
        *(sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"),
        *("--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(CHECKOUT)),
    )
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_has_no_top_level_package_but_worker(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
    assert tops == {"worker", f"driftdetector-{__version__}.dist-info"}


@pytest.mark.parametrize("folder", ["topics", "schemas", "models"])
def test_the_wheel_carries_every_file_of_the_checkout_folder(wheel: Path, folder: str) -> None:
    with zipfile.ZipFile(wheel) as archive:
        inside = {
            name for name in archive.namelist() if name.startswith(f"worker/_assets/{folder}/")
        }
        tracked = _run("git", "-C", str(CHECKOUT), "ls-files", folder).split()
        assert tracked
        assert inside >= {f"worker/_assets/{name}" for name in tracked}
        for name in tracked:
            assert archive.read(f"worker/_assets/{name}") == (CHECKOUT / name).read_bytes()


def test_the_wheel_carries_what_pages_are_made_of(wheel: Path) -> None:
    tracked = _run("git", "-C", str(CHECKOUT), "ls-files", "worker").split()
    parts = {name for name in tracked if not name.endswith(".py")}
    assert "worker/static/uplot/LICENSE" in parts
    with zipfile.ZipFile(wheel) as archive:
        assert parts <= set(archive.namelist())


def test_the_wheel_names_its_licence_command_and_python(wheel: Path) -> None:
    info = f"driftdetector-{__version__}.dist-info"
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read(f"{info}/METADATA").decode()
        entry_points = archive.read(f"{info}/entry_points.txt").decode()
        licence = archive.read(f"{info}/licenses/LICENSE").decode()
    assert "License-Expression: Apache-2.0" in metadata
    assert "Requires-Python: >=3.11" in metadata
    assert "driftdetector = worker.cli.main:main" in entry_points
    assert "Apache License" in licence


def test_an_installed_wheel_finds_its_assets_away_from_the_checkout(
    wheel: Path, tmp_path: Path
) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    script = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import worker\n"
        "from worker.topics import load_declarations\n"
        f"assert worker.__file__.startswith({str(tmp_path)!r}), worker.__file__\n"
        "print(len(load_declarations()))\n"
    )
    assert int(_run(sys.executable, "-c", script, cwd=tmp_path)) >= 4


def test_there_is_a_lock_for_each_purpose() -> None:
    purposes = ["build", "comparison", "dev", "pip", "runtime"]
    assert [lock.stem for lock in LOCKS] == purposes


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_a_lock_pins_everything_by_hash_and_names_no_address(lock: Path) -> None:
    text = lock.read_text()
    assert "://" not in text
    assert not re.search(r"--(index|extra-index|find-links|trusted-host)", text)
    requirements = re.split(r"\n(?=\S)", text.strip())
    assert requirements
    for requirement in requirements:
        assert re.match(r"[a-z0-9-]+(\[[a-z,]+\])?==\S+", requirement), requirement[:80]
        assert "--hash=sha256:" in requirement, requirement[:80]


def test_locks_agree_on_every_version() -> None:
    pins = {lock.stem: set(_pins(lock)) for lock in LOCKS}
    assert pins["runtime"] <= pins["dev"]
    assert pins["build"] <= pins["dev"]


def test_every_declared_dependency_is_locked_and_explained() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    declared = [
        *project["project"]["dependencies"],
        *itertools.chain(*project["project"]["optional-dependencies"].values()),
        *(entry for entry in project["dependency-groups"]["dev"] if isinstance(entry, str)),
        *project["dependency-groups"]["build"],
    ]
    names = {re.split(r"[<>=~! \[;]", entry)[0] for entry in declared}
    locked = {re.split(r"[=\[]", pin)[0] for pin in _pins(CHECKOUT / "requirements" / "dev.txt")}
    explained = (CHECKOUT / "docs" / "dependencies.md").read_text()
    assert {name.replace(".", "-") for name in names} <= locked
    assert not {name for name in names if f"`{name}`" not in explained}


def test_make_alone_lists_every_target() -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", MAKEFILE, re.MULTILINE))
    listed = _run("make", "--no-print-directory", "-C", str(CHECKOUT))
    assert targets == {line.split()[0] for line in listed.splitlines()}
    phony = set(re.findall(r"^\.PHONY: ([a-z-]+)$", MAKEFILE, re.MULTILINE))
    assert phony == targets


def test_make_says_in_one_sentence_that_python_is_too_old(tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text('#!/bin/sh\n[ "$1" = -V ] && echo "Python 3.9.2" && exit\nexit 1\n')
    old.chmod(0o755)
    done = subprocess.run(
        ["make", "setup", f"PYTHON={old}", f"VENV={tmp_path / 'venv'}"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert "is Python 3.9.2, but Python 3.11 or newer is needed" in done.stderr


def test_ci_runs_the_tests_and_the_linters() -> None:
    script = CHECKOUT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    text = script.read_text()
    assert text.index("export CI=true") < text.index("make test") < text.index("make lint")


def _pins(lock: Path) -> list[str]:
    return re.findall(r"^([a-z0-9-]+(?:\[[a-z,]+\])?==[^ ;\\]+)", lock.read_text(), re.MULTILINE)


def _run(*command: str, cwd: Path = CHECKOUT) -> str:
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
