"""Runs the command line: inside the test process where that will do, else as a real program."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kernel_generator.cli.app import main
from kernel_generator.models.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

PROGRAM = (sys.executable, "-m", "kernel_generator")


@dataclass(frozen=True)
class Ran:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Stdout as the one JSON document it has to be."""
        return json.loads(self.out)

    @property
    def errors(self) -> list[str]:
        """The sentences that say what is wrong."""
        return [line for line in self.err.splitlines() if line.startswith("error: ")]


class Shell:
    """A user without keys in an empty folder."""

    def __init__(
        self, folder: Path, patch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str]
    ) -> None:
        self._patch = patch
        self._capture = capture
        patch.chdir(folder)
        for name in Settings.model_fields:
            patch.delenv(name.upper(), raising=False)

    def run(self, *arguments: object) -> Ran:
        """One command, in this process."""
        self._patch.setattr(sys, "argv", ["kernel-generator", *map(str, arguments)])
        before = signal.getsignal(signal.SIGTERM)
        self._capture.readouterr()
        try:
            main()
        except SystemExit as end:
            code = end.code
        finally:
            signal.signal(signal.SIGTERM, before)
        said = self._capture.readouterr()
        assert "Traceback" not in said.err, said.err
        assert isinstance(code, int)
        return Ran(code, said.out, said.err)


def start(*arguments: object, folder: Path, **environment: str) -> subprocess.Popen[str]:
    """One command as a program of its own, with no key but those given."""
    keys = {name.upper() for name in Settings.model_fields}
    return subprocess.Popen(
        [*PROGRAM, *map(str, arguments)],
        cwd=folder,
        env={k: v for k, v in os.environ.items() if k not in keys} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
