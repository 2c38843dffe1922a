"""The user that most commands are tried by."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.cli.commands import KEY, Shell
from tests.runs.sets import a_traceset

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Shell:
    """A user beside the trace set `set`, whose key is in the environment."""
    a_traceset(tmp_path / "set", sizes=(3,))
    made = Shell(tmp_path, monkeypatch, capsys)
    monkeypatch.setenv("LLM_API_KEY", KEY)
    return made
