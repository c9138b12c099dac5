"""An environment for the libraries that are compared, apart from the project's own."""

from __future__ import annotations

import json
import os
import subprocess
import venv
from dataclasses import asdict
from pathlib import Path

from load.drift.series import Plan

LIBRARIES = ("evidently", "alibi-detect")
PIP, LOCK = Path("requirements/pip.txt"), Path("requirements/comparison.txt")
FOLDER = Path("build/drift-comparison")
COMPLETE = FOLDER / ".complete"
INSTALLING_S = 900


def prepare() -> str | None:
    """Make the environment unless it is there; what went wrong otherwise."""
    if COMPLETE.exists() and COMPLETE.stat().st_mtime > LOCK.stat().st_mtime:
        return None
    try:
        venv.create(FOLDER, with_pip=True, clear=True)
        python = str(FOLDER / "bin/python")
        install = [python, "-m", "pip", "install", "--quiet", "--require-hashes", "-r"]
        for lock in (PIP, LOCK):
            done = subprocess.run(
                [*install, str(lock)],
                capture_output=True,
                text=True,
                timeout=INSTALLING_S,
                check=False,
            )
            if done.returncode:
                last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
                return f"{', '.join(LIBRARIES)} could not be installed: {last}"
    except (OSError, subprocess.SubprocessError) as error:
        return f"{', '.join(LIBRARIES)} could not be installed: {error}"
    COMPLETE.touch()
    return None


def compare(plans: list[Plan], repetitions: int) -> list[dict[str, dict[str, int]]]:
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
    found: list[dict[str, dict[str, int]]] = json.loads(done.stdout.strip().splitlines()[-1])
    return found
