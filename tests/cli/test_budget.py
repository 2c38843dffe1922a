"""Budgets on the command line: hard stops, told, and runs that can go on with more."""

from __future__ import annotations

import pytest

from tests.cli.commands import UNTIMED, Shell, at
from tests.loopback import LoopbackServer, says
from tests.runs.sets import RIGHT, WRONG, write_definition


def test_tokens_end_a_run_that_goes_on_with_more(shell: Shell) -> None:
    with LoopbackServer([says(WRONG), says(WRONG)]) as server:
        ran = shell.run("optimize", "set", *at(server), *UNTIMED, "--max-tokens", 150)
    assert ran.code == 1
    assert len(server.requests) == 2
    assert "the budget is spent: 240 of 150 tokens" in ran.err
    assert "to go on with more: kernel-generator resume" in ran.err
    with LoopbackServer([says(RIGHT)]) as server:
        ran = shell.run("resume", "--all", "--base-url", server.base_url, "--max-tokens", 150)
    assert ran.code == 0, ran.err


def test_a_run_goes_on_with_what_is_left_of_its_commands_budget(shell: Shell) -> None:
    write_definition(shell.folder / "set", "second", sizes=(3,))
    with LoopbackServer([says(WRONG), says(WRONG)]) as server:
        ran = shell.run("optimize", "set", *at(server), *UNTIMED, "--jobs", 2, "--max-tokens", 200)
        assert ran.code == 1, ran.err
        assert len(server.requests) == 2
        ran = shell.run("resume", "--all", "--base-url", server.base_url)
        assert ran.code == 1
        assert len(server.requests) == 2
        assert "that was given when runs were begun: 240 of 200 tokens;" in ran.err
        assert ran.err.count("the budget is spent: 240 of 200 tokens") == 2
    with LoopbackServer([says(RIGHT), says(RIGHT)]) as server:
        ran = shell.run("resume", "--all", "--base-url", server.base_url, "--max-tokens", 1000)
        assert ran.code == 0, ran.err
        assert "when runs were begun" not in ran.err


def test_no_further_definition_is_begun_once_it_is_spent(shell: Shell) -> None:
    write_definition(shell.folder / "set", "second", sizes=(3,))
    with LoopbackServer([says(RIGHT)]) as server:
        ran = shell.run("optimize", "set", *at(server), *UNTIMED, "--jobs", 1, "--max-tokens", 1)
    assert ran.code == 1
    assert len(server.requests) == 1
    assert "successful 1" in ran.out


def test_a_price_that_nobody_knows_is_asked_for_before_anything_is_sent(shell: Shell) -> None:
    with LoopbackServer([says(RIGHT)]) as server:
        ran = shell.run("optimize", "set", *at(server), *UNTIMED, "--max-usd", 5)
        assert ran.code == 2
        assert "the price of 'some/model:1' is not known, so a budget of $5" in ran.err
        assert "state it with --price PROMPT,COMPLETION" in ran.err
        assert server.requests == []
        ran = shell.run("optimize", "set", *at(server), *UNTIMED, "--max-usd", 5, "--price", "2,10")
    assert ran.code == 0, ran.err
    assert "$0.0004" in ran.err


@pytest.mark.parametrize(
    ("option", "value", "says_what"),
    [
        ("--max-usd", "-1", "--max-usd is -1.0: give 0 or more"),
        ("--max-usd", "nan", "--max-usd is nan: give 0 or more"),
        ("--max-minutes", "inf", "--max-minutes is inf: give 0 or more"),
        ("--max-tokens", "-5", "--max-tokens is -5: give 0 or more"),
        ("--price", "2", "--price is '2': give US dollars per million tokens"),
        ("--price", "2,-1", "--price is '2,-1': give US dollars"),
        ("--price", "a,b", "--price is 'a,b': give US dollars"),
    ],
)
def test_bad_limits_are_told_before_anything_is_asked(
    shell: Shell, option: str, value: str, says_what: str
) -> None:
    with LoopbackServer() as server:
        ran = shell.run("optimize", "set", *at(server), *UNTIMED, option, value)
    assert ran.code == 2
    assert says_what in ran.err
    assert server.requests == []
