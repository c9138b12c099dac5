"""An environment for the libraries that are compared, apart from the project's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from dataclasses import asdict
from pathlib import Path
from typing import Any

from load.drift.series import Plan

PINNED = ("evidently==0.7.23", "alibi-detect==0.13.0")
FOLDER = Path("build/drift-comparison")
INSTALLING_S = 900


def prepare() -> str | None:
    """Make the environment unless it is there; what went wrong otherwise."""
    if (FOLDER / ".complete").exists():
        return None
    try:
        venv.create(FOLDER, with_pip=True)
        command = [str(FOLDER / "bin/python"), "-m", "pip", "install", "--quiet", *PINNED]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=INSTALLING_S, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"{', '.join(PINNED)} could not be installed: {error}"
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        return f"{', '.join(PINNED)} could not be installed: {last}"
    (FOLDER / ".complete").touch()
    return None


def compare(plans: list[Plan], repetitions: int) -> list[dict[str, list[int]]]:
    """Counts of each plan; see :mod:`load.drift.others`."""
    jobs = [{"plan": asdict(plan), "repetitions": repetitions} for plan in plans]
    done = subprocess.run(
        [str((FOLDER / "bin/python").absolute()), "-m", "load.drift.others"],
        input=json.dumps(jobs),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(Path.cwd()), "PYTHONWARNINGS": "ignore"},
    )
    found: list[dict[str, list[int]]] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def versions() -> dict[str, Any]:
    """What is compared, for the report."""
    return {"python": sys.version.split()[0], "libraries": list(PINNED)}
