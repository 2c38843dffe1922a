"""What every command has: help, and the two that only look."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kernel_generator.cli.app import main

if TYPE_CHECKING:
    from tests.cli.commands import Shell

EXAMPLE = Path(__file__).parents[2] / "examples" / "traceset"


# --- help ------------------------------------------------------------------------------------

OPTIONS = {
    "list": ["--json"],
    "generate": ["--definition", "--pass-k", "--model", "--language", "--target", "--json"],
    "optimize": [
        *("--definition", "--model", "--language", "--target", "--rounds", "--keep-improving"),
        *("--target-speedup", "--base-url", "--dialect", "--reasoning-effort", "--json"),
    ],
    "evaluate": [
        *("--definition", "--solution", "--target", "--language", "--save-traces", "--json")
    ],
    "doctor": ["--json"],
}


@pytest.mark.parametrize("command", OPTIONS)
def test_help_names_every_option(shell: Shell, command: str) -> None:
    ran = shell.run(command, "--help")
    assert ran.code == 0
    assert [o for o in OPTIONS[command] if o not in ran.out] == []


def test_the_programs_help_names_commands_exit_codes_and_keys(shell: Shell) -> None:
    words = " ".join(shell.run("--help").out.split())
    assert all(command in words for command in OPTIONS)
    assert "0 all solved, 1 some unsolved, 2 bad input, 3 the provider refused" in words
    assert "LLM_API_KEY" in words


def test_nothing_at_all_shows_the_help(shell: Shell) -> None:
    ran = shell.run()
    assert ran.code == 2
    assert "optimize" in ran.out + ran.err


# --- list ------------------------------------------------------------------------------------


def test_list_shows_a_line_a_definition(shell: Shell) -> None:
    ran = shell.run("list", EXAMPLE)
    assert ran.code == 0
    assert ran.err == ""
    names = sorted(p.stem for p in (EXAMPLE / "definitions").rglob("*.json"))
    assert [name for name in names if name not in ran.out] == []


# --- doctor ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_doctor_tells_of_keys_whether_they_are_there_and_nothing_more(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-planted-0815")
    ran = shell.run("doctor", "--json")
    assert ran.code == 0
    found = {check["name"]: check for check in ran.document["checks"]}
    assert found["LLM_API_KEY"]["detail"] == "present"
    assert found["ANTHROPIC_API_KEY"]["detail"] == "present"
    assert found["GEMINI_API_KEY"]["detail"] == "not set"
    assert found["python on CPU"]["status"] == "works"
    assert all(check["advice"] for check in ran.document["checks"] if check["status"] == "limited")
    assert "planted" not in ran.out + ran.err


# --- faults ----------------------------------------------------------------------------------


def test_a_fault_of_the_program_is_no_unsolved_definition(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object) -> None:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr("kernel_generator.runs.tracesets.load_traceset", fails)
    monkeypatch.setattr("sys.argv", ["kernel-generator", "list", "set", "--json"])
    with pytest.raises(SystemExit) as end:
        main()
    said = capsys.readouterr()
    assert end.value.code == 70
    assert "Traceback" in said.err, "it is ours to mend, so it is shown where it happened"
    assert json.loads(said.out)["error"]["message"].endswith("ZeroDivisionError: planted")
