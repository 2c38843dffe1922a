"""How the process begins and ends, around whatever the command does."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.cli.commands import PROGRAM

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_while_it_is_still_importing_ends_it_quietly(tmp_path: Path, name: str) -> None:
    (tmp_path / "typer.py").write_text(f"import signal\nsignal.raise_signal(signal.{name})\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path}
    ran = subprocess.run(
        [*PROGRAM, "list"], env=environment, capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (130, "", "interrupted\n")


def test_what_has_to_be_tidied_up_is_and_nothing_is_taken_apart() -> None:
    code = """
import atexit, sys, threading
from kernel_generator.cli import app, program

class Heavy:
    def __del__(self):
        print("taken apart")

def main():
    atexit.register(print, "tidied up")
    print("said")
    threading.Thread(target=lambda: print("waited for")).start()
    sys.exit(7)

heavy, app.main = Heavy(), main
program.run()
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 7, ran.stderr
    assert ran.stdout.splitlines() == ["said", "waited for", "tidied up"]
