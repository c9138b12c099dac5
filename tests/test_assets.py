from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from worker.assets import Folder, asset_dir
from worker.core.errors import ConfigError


def test_the_checkout_has_every_folder() -> None:
    for folder in get_args(Folder):
        assert asset_dir(folder).name == folder


def test_the_installed_copy_wins_over_the_checkout(tmp_path: Path) -> None:
    package = tmp_path / "worker"
    (tmp_path / "topics").mkdir()
    package.mkdir()
    assert asset_dir("topics", package) == tmp_path / "topics"
    installed = package / "_assets" / "topics"
    installed.mkdir(parents=True)
    assert asset_dir("topics", package) == installed


def test_an_incomplete_installation_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^schemas/: neither .* nor .* exists; install"):
        asset_dir("schemas", tmp_path / "worker")
