"""Where topics/, schemas/ and models/ are: in the installed package, or beside it.

They travel in the wheel as ``worker/_assets/<folder>``, because other distributions
own their names at the top level.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from worker.core.errors import ConfigError

Folder = Literal["topics", "schemas", "models"]

_PACKAGE = Path(__file__).parent


def asset_dir(folder: Folder, package: Path = _PACKAGE) -> Path:
    """Find one of the folders that DriftDetector reads.

    Args:
        folder: which one.
        package: directory of the package ``worker``.

    Raises:
        ConfigError: the installation is incomplete.
    """
    for candidate in (package / "_assets" / folder, package.parent / folder):
        if candidate.is_dir():
            return candidate
    raise ConfigError(
        f"{folder}/: neither {package / '_assets' / folder} nor {package.parent / folder} exists; "
        "install driftdetector again, or run it from a complete checkout."
    )
