"""`make demo` and the walkthrough: what they work on, what they say, and how they end."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kernel_generator.models.settings import Settings
from tests.running import NEVER_ENDS, wait_until_one_runs
from tests.runs.sets import OP_TYPE, a_traceset, write_definition

ROOT = Path(__file__).resolve().parents[1]
KEYS = {name.upper() for name in Settings.model_fields}
WALKTHROUGH = (sys.executable, ROOT / "examples" / "example.py")


def start(folder: Path, *command: object, **keys: str) -> subprocess.Popen[str]:
    """A program with no key but those given."""
    environment = {k: v for k, v in os.environ.items() if k not in KEYS and k != "MODEL"}
    return subprocess.Popen(
        [str(word) for word in command],
        cwd=folder,
        env=environment | keys,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(program: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    """What a program left behind."""
    try:
        out, err = program.communicate(timeout=280)
    finally:
        program.kill()
    return subprocess.CompletedProcess(program.args, program.returncode, out, err)


def run(folder: Path, *command: object, **keys: str) -> subprocess.CompletedProcess[str]:
    """`start`, to its end."""
    return end(start(folder, *command, **keys))


# --- make demo -------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """As much of this project as `make demo` uses, with one definition nobody can solve."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    a_traceset(tmp_path / "examples" / "traceset")
    broken = "def run(x):\n    raise ValueError('broken by its author')\n"
    write_definition(tmp_path / "examples" / "traceset", reference=broken)
    (tmp_path / "examples" / "traceset" / "blob").mkdir()
    return tmp_path


def demo(project: Path, *more: str, **keys: str) -> subprocess.CompletedProcess[str]:
    settings = (f"BIN={Path(sys.executable).parent}", "--assume-old=.venv/.installed", *more)
    return run(project, "make", "demo", *settings, **keys)


def test_what_could_not_be_solved_is_in_the_table_and_no_error_of_make(project: Path) -> None:
    done = demo(project)
    assert done.returncode == 0, done.stderr
    assert "processed 1 of 1, successful 0, failed 1" in done.stdout
    assert "make demo MODEL=gpt-5" in done.stdout


def test_a_key_without_a_model_is_no_obstacle(project: Path) -> None:
    done = demo(project, LLM_API_KEY="sk-planted")
    assert done.returncode == 0, done.stderr
    assert "processed 1 of 1" in done.stdout


def test_results_that_lie_in_the_bundled_set_are_not_copied(project: Path) -> None:
    (project / "examples" / "traceset" / "solutions").mkdir()
    (project / "examples" / "traceset" / "traces").mkdir()
    demo(project)
    copied = {path.name for path in (project / "demo" / "traceset").iterdir()}
    assert copied == {"definitions", "workloads", "blob"}


def test_bad_input_is_an_error_of_make(project: Path) -> None:
    done = demo(project, "MODEL=builtin:unknown")
    assert done.returncode != 0
    assert "unknown builtin model" in done.stderr


# --- the walkthrough -------------------------------------------------------------------------


def walk(folder: Path, *paths: object, **keys: str) -> subprocess.CompletedProcess[str]:
    return run(folder, *WALKTHROUGH, *paths, **keys)


def test_the_walkthrough_reports_a_bad_path_and_goes_on(tmp_path: Path) -> None:
    a_traceset(tmp_path / "set", sizes=())
    done = walk(tmp_path, "nowhere", "set", LLM_API_KEY="sk-planted")
    assert done.returncode == 2
    assert "there is no trace set at 'nowhere'" in done.stderr
    assert "the embedded model" in done.stdout
    assert "[1/1] Processing definition: scale_add" in done.stdout
    assert "No workloads found for definition 'scale_add' - SKIPPING" in done.stdout
    assert done.stdout.rstrip().endswith(
        "Processed: 1, successful: 0, failed: 1, success rate: 0 %"
    )


def test_the_walkthrough_interrupted_prints_its_statistics(tmp_path: Path) -> None:
    a_traceset(tmp_path / "set")
    write_definition(tmp_path / "set", reference=NEVER_ENDS)
    program = start(tmp_path, *WALKTHROUGH, "set")
    wait_until_one_runs(program.pid)
    program.send_signal(signal.SIGINT)
    done = end(program)
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    assert "Processed: 1, successful: 0" in done.stdout


@pytest.mark.slow
def test_the_walkthrough_keeps_what_it_cannot_save(tmp_path: Path) -> None:
    a_traceset(tmp_path / "set", sizes=(3,))
    (tmp_path / "set" / "solutions").mkdir()
    (tmp_path / "set" / "solutions" / OP_TYPE).write_text("in the way")
    (tmp_path / "shelter").mkdir()
    done = walk(tmp_path, "set", TMPDIR=str(tmp_path / "shelter"))
    assert done.returncode == 1, done.stderr
    [kept] = (tmp_path / "shelter").glob("rescued_*.json")
    assert str(kept) in done.stderr
