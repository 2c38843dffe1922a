"""`--model replay:RUN`: the replies of a stored run are judged again."""

from __future__ import annotations

import pytest

from tests.cli.commands import UNTIMED, Shell, at
from tests.loopback import LoopbackServer, fails, says
from tests.runs.sets import RIGHT, WRONG, write_definition


@pytest.fixture
def run(shell: Shell) -> str:
    """A run with a wrong version and a right one."""
    with LoopbackServer([says(WRONG), says(RIGHT)]) as server:
        assert shell.run("optimize", "set", *at(server), *UNTIMED).code == 0
    [found] = shell.run("runs", "--json").document["runs"]
    return found["run"]


def test_the_same_replies_are_judged_again_for_nothing(shell: Shell, run: str) -> None:
    target = UNTIMED[2:]
    ran = shell.run("optimize", "set", "--model", f"replay:{run}", *target, "--json")
    assert ran.code == 0, ran.err
    assert ran.document["statistics"]["cost_usd"] == 0.0
    again = shell.run("runs", "--json").document["runs"][-1]
    assert (again["model"], again["made"], again["language"]) == (f"replay:{run}", 2, "python")
    shown = shell.run("show", again["run"], "--json").document
    assert [a["outcome"] for a in shown["attempts"]] == ["WRONG_VALUES", "CORRECT_NOT_MEASURED"]


def test_what_was_never_answered_is_an_error_that_shows_the_difference(shell: Shell) -> None:
    with LoopbackServer([says(WRONG), fails(401)]) as server:
        shell.run("optimize", "set", *at(server), *UNTIMED)
    [found] = shell.run("runs", "--json").document["runs"]
    ran = shell.run("optimize", "set", "--model", f"replay:{found['run']}", *UNTIMED)
    assert ran.code == 1
    assert f"round 2 was never answered in run {found['run']}, which has replies of 1" in ran.err


def test_a_run_that_is_asked_beyond_its_end_shows_what_is_asked_now(shell: Shell, run: str) -> None:
    write_definition(shell.folder / "set", reference="def run(x):\n    return x * 2 + 3\n")
    ran = shell.run("optimize", "set", "--model", f"replay:{run}", *UNTIMED)
    assert ran.code == 1
    assert "round 3 was never answered" in ran.err
    assert "+++ round 3 now" in ran.err


def test_another_definition_is_refused(shell: Shell, run: str) -> None:
    write_definition(shell.folder / "set", "second")
    ran = shell.run("optimize", "set", "-d", "second", "--model", f"replay:{run}", *UNTIMED)
    assert ran.code == 1
    assert f"run {run} is of 'scale_add', not of 'second': -d scale_add" in ran.err


def test_an_unknown_run_is_told(shell: Shell) -> None:
    ran = shell.run("optimize", "set", "--model", "replay:nothing", *UNTIMED)
    assert ran.code == 2
    assert "unknown run 'nothing'" in ran.err
