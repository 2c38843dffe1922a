"""Runs that are killed at random instants lose nothing; `benchmarks/crash.py` does it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "crash.py"


@pytest.mark.slow
def test_twenty_kills_lose_nothing() -> None:
    """With recorded verdicts; the judge of this machine takes minutes."""
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), "--kills", "20", "--real", "0"],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| recorded verdicts (simulated) | 2" in done.stdout
