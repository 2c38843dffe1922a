"""Fixtures that several rooms use."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from kernel_generator.models.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path


# A job started in the background has Ctrl-C ignored, and so would all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def own_store(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which this test's runs are kept: not the developer's own."""
    path = tmp_path_factory.mktemp("store") / "runs.db"
    monkeypatch.setenv("KERNEL_GENERATOR_STORE", str(path))
    return path


@pytest.fixture
def bare_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working directory and no key."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
