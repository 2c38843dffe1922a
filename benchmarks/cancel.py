"""How long a command takes to end after Ctrl-C, and what it leaves behind.

    python benchmarks/cancel.py [--each 20] [--seed 0]

`kernel-generator optimize` works on a copy of the bundled trace set on this machine's CPU and is
sent SIGINT at random instants of its first `_LATEST_S` seconds: once while the embedded model's
kernels are built, checked and timed, once while it waits for a provider that never answers (a
socket of this program). Whatever it started and did not end becomes a child of this program, and is
counted the moment the command has ended. Exits with 1 where a command took longer than a second
after it had begun to work, or left a process or a file behind.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

# What looks for processes that are left is the tests', which are not installed.
sys.path.append(str(Path(__file__).resolve().parents[1]))

from machine import machine_line, quantile, table, told

from tests.adversarial.courtroom import adopt, descendants

ROOT = Path(__file__).resolve().parents[1]
ASKED_S = 1.0
_EARLIEST_S, _LATEST_S = 0.5, 45.0
_PATIENCE_S = 60.0
_INTERRUPTED = 130


@dataclass(frozen=True)
class Stop:
    """One command that was interrupted."""

    after_s: float
    """Since its start."""
    took_s: float
    code: int
    processes: int
    files: tuple[str, ...]
    last: str
    """The last line that it printed before."""


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--each", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chosen = random.Random(options.seed)
    adopt(True)
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        asking = ["--model", "silent", "--base-url", url, "--language", "python"]
        kinds = {
            "building, checking, timing": ["--model", "builtin:compiler"],
            "waiting for a reply": asking,
        }
        found = {
            kind: [
                _stop(words, chosen.uniform(_EARLIEST_S, _LATEST_S)) for _ in range(options.each)
            ]
            for kind, words in kinds.items()
        }
    header = ("interrupted while", "n", "p50 s", "p95 s", "longest s", "over 1 s", "left behind")
    print(f"{machine_line('cpu')}\n\n{table(header, [_row(*one) for one in found.items()])}")
    return 0 if all(_is_clean(stop) for stops in found.values() for stop in stops) else 1


def _stop(words: list[str], after_s: float) -> Stop:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        temporary = folder / "tmp"
        temporary.mkdir()
        shutil.copytree(ROOT / "examples" / "traceset", folder / "set")
        before = _shared()
        command = [sys.executable, "-m", "kernel_generator", "optimize", str(folder / "set")]
        command += ["--target", "CPU", "--store", str(folder / "runs.db"), *words]
        with (folder / "log").open("w") as log:
            program = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "TMPDIR": str(temporary)},
                start_new_session=True,
            )
            time.sleep(after_s)
            lines = (folder / "log").read_text().splitlines()
            program.send_signal(signal.SIGINT)
            began = time.monotonic()
            code = program.wait(_PATIENCE_S)
        took_s = time.monotonic() - began
        left = descendants()
        files = (*(path.name for path in temporary.iterdir()), *(_shared() - before))
        stop = Stop(after_s, took_s, code, len(left), files, lines[-1].strip() if lines else "")
        told(f"{stop}")
        for pid in left:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        return stop


def _shared() -> set[str]:
    return {path.name for path in Path("/dev/shm").iterdir()}


def _is_clean(stop: Stop) -> bool:
    quick = stop.took_s <= ASKED_S and stop.code == _INTERRUPTED
    return quick and not stop.processes and not stop.files


def _row(kind: str, stops: list[Stop]) -> list[str]:
    took = [stop.took_s for stop in stops]
    left = [
        f"{sum(s.processes for s in stops)} processes",
        f"{sum(len(s.files) for s in stops)} files",
    ]
    return [
        kind,
        str(len(stops)),
        *(f"{quantile(took, share):.2f}" for share in (0.5, 0.95, 1.0)),
        str(sum(one > ASKED_S for one in took)),
        ", ".join(left),
    ]


if __name__ == "__main__":
    sys.exit(main())
