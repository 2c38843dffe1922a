"""Runs the command line: inside the test process where that will do, else as a real program."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from kernel_generator.cli.app import main
from kernel_generator.models.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from tests.loopback import Behaviour, LoopbackServer
    from tests.loopback_wire import Exchange

KEY = "sk-planted-key-4711"
ON_SET = ("set", "-d", "scale_add")
# A target that is not on this machine is checked and not timed, which takes seconds.
UNTIMED = ("--language", "python", "--target", "V100")


PROGRAM = (sys.executable, "-m", "kernel_generator")


@dataclass(frozen=True)
class Ran:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Stdout as the one JSON document it has to be: Python would take NaN as well."""
        return json.loads(self.out, parse_constant=_no_json)

    @property
    def errors(self) -> list[str]:
        """The sentences that say what is wrong."""
        return [line for line in self.err.splitlines() if line.startswith("error: ")]


def _no_json(name: str) -> NoReturn:
    raise AssertionError(f"{name} is no JSON")


class Shell:
    """A user without keys in an empty folder."""

    def __init__(
        self, folder: Path, patch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str]
    ) -> None:
        self.folder = folder
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


def at(server: LoopbackServer, model: str = "some/model:1") -> tuple[str, ...]:
    return ("--model", model, "--base-url", server.base_url)


def then(do: Callable[[], object], behave: Behaviour) -> Behaviour:
    """An answer before which something happens."""

    def both(exchange: Exchange) -> None:
        do()
        behave(exchange)

    return both


def descendants(pid: int) -> set[int]:
    """Every process that a program has started, and theirs."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True)
    parents = dict(tuple(map(int, line.split())) for line in listed.stdout.splitlines())
    found = {pid}
    while True:
        more = {child for child, parent in parents.items() if parent in found} - found
        if not more:
            return found - {pid}
        found |= more


def is_alive(pid: int) -> bool:
    """False for what has ended, whether or not anybody has noticed."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
