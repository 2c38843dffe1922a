"""What the benchmark programs share: the machine in a line, Markdown tables, a few statistics, and
running another program of this folder beside them."""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from kernel_generator.evaluation.device import describe_device, nvml

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_HERE = Path(__file__).resolve().parent
_VERSIONED = ("flashinfer-bench", "kernel-generator")


def machine_line(device: str) -> str:
    """Device, processors, driver, versions and date; `device` is 'cpu' or 'cuda:0'."""
    described = describe_device(device)
    parts = [described.name, f"{len(os.sched_getaffinity(0))} cores"]
    if device != "cpu":
        parts.append(f"driver {_driver()}")
    parts.append(f"Python {platform.python_version()}")
    parts += [f"{name} {version}" for name, version in described.libraries.items()]
    parts += [f"{name} {_version(name)}" for name in _VERSIONED]
    return ", ".join([*parts, time.strftime("%Y-%m-%d")])


def _driver() -> str:
    with nvml() as library:
        return "unknown" if library is None else str(library.nvmlSystemGetDriverVersion())


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "from source"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def told(text: str) -> None:
    """Progress, beside the tables."""
    print(text, file=sys.stderr, flush=True)


# -- statistics ------------------------------------------------------------------------------------


def quantile(values: Sequence[float], share: float) -> float:
    """Interpolated linearly between the two nearest, as NumPy does; of at least one value."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


@dataclass(frozen=True)
class Share:
    """So many of so many."""

    hits: int
    total: int

    @property
    def value(self) -> float:
        """NaN of none."""
        return self.hits / self.total if self.total else math.nan

    def wilson(self) -> tuple[float, float]:
        """Wilson's 95 % score interval for the share behind it."""
        if not self.total:
            return 0.0, 1.0
        z, n, p = 1.959964, self.total, self.value
        middle = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return max(0.0, middle - half), min(1.0, middle + half)

    def __str__(self) -> str:
        low, high = self.wilson()
        return f"{self.hits}/{self.total} = {self.value:.1%} [{low:.1%}, {high:.1%}]"


# -- other programs --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ran:
    """How a program ended."""

    problem: str
    """Empty where it ended well; else how it ended, with its last words."""
    answers: list[str]
    """The lines it wrote to the file it was given, complete ones only."""


def run_program(
    name: str, order: object, folder: Path, limit_s: float, environment: Mapping[str, str]
) -> Ran:
    """Run a program of this folder on an order written to `folder`, for at most `limit_s`.

    What it started, it takes along: it has a process group of its own, which is ended with it.
    """
    asked, answered, heard = (folder / f"{name}.{kind}" for kind in ("order", "answers", "log"))
    asked.write_text(json.dumps(order))
    answered.write_text("")
    problem = ""
    with heard.open("w") as log:
        program = subprocess.Popen(
            [sys.executable, str(_HERE / f"{name}.py"), str(asked), str(answered)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **environment},
            start_new_session=True,
        )
        try:
            code = program.wait(limit_s)
            if code:
                problem = f"exit {code}"
        except subprocess.TimeoutExpired:
            problem = f"stopped after {limit_s:.0f} s"
        finally:
            _end(program)
    if problem:
        words = [line for line in heard.read_text(errors="replace").splitlines() if line.strip()]
        problem += f": {words[-1].strip()[:200]}" if words else ""
    lines = answered.read_text().split("\n")
    return Ran(problem, lines[:-1])


def _end(program: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(program.pid, signal.SIGKILL)
    program.wait()
