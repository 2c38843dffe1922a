"""`--json-events`: what happens, a line each, for programs."""

from __future__ import annotations

import errno
import io
import json
from pathlib import Path

import pytest

from kernel_generator.domain.conversation import Finish, Reply
from kernel_generator.domain.events import Replied, RunStarted, Saved
from kernel_generator.domain.proposal import Proposal, Purpose
from kernel_generator.reporting.lines import EventLines
from kernel_generator.runs.observers import each
from tests.cli.commands import KEY, UNTIMED, Shell, at, start
from tests.loopback import LoopbackServer, says
from tests.runs.sets import RIGHT, WRONG

KINDS = [
    *("run_started", "asked", "replied", "evaluating", "attempted"),
    *("asked", "replied", "evaluating", "attempted", "run_finished", "saved"),
]


def test_a_run_is_told_line_by_line_and_people_read_the_rest_on_stderr(shell: Shell) -> None:
    with LoopbackServer([says(WRONG), says(RIGHT)]) as server:
        ran = shell.run("optimize", "set", *at(server), *UNTIMED, "--json-events")
    assert ran.code == 0, ran.err
    lines = [json.loads(line) for line in ran.out.splitlines()]
    assert [line["event"] for line in lines if line["event"] != "notice"] == KINDS
    assert {line["run"] for line in lines if line["event"] != "notice"} == {lines[-1]["run"]}
    attempts = [line["attempt"] for line in lines if line["event"] == "attempted"]
    assert [a["outcome"] for a in attempts] == ["WRONG_VALUES", "CORRECT_NOT_MEASURED"]
    assert attempts[0]["evaluation"]["workloads"]
    assert lines[-1]["path"].endswith(".json")
    assert "processed 1 of 1" in ran.err


def test_resuming_tells_in_the_same_way(shell: Shell) -> None:
    with LoopbackServer([says(WRONG), says(RIGHT)]) as server:
        shell.run("optimize", "set", *at(server), *UNTIMED, "--max-tokens", 1)
        ran = shell.run("resume", "--all", "--base-url", server.base_url, "--json-events")
    assert ran.code == 0, ran.err
    events = [json.loads(line)["event"] for line in ran.out.splitlines()]
    assert events.count("attempted") == 2
    assert events[-1] == "saved"


@pytest.mark.slow
def test_a_reader_that_goes_away_changes_nothing_else(
    shell: Shell, tmp_path: Path, own_store: Path
) -> None:
    with LoopbackServer([says(WRONG), says(RIGHT)]) as server:
        program = start(
            *("optimize", "set", *at(server), *UNTIMED, "--json-events"),
            folder=tmp_path,
            LLM_API_KEY=KEY,
            KERNEL_GENERATOR_STORE=str(own_store),
        )
        assert program.stdout is not None
        assert program.stderr is not None
        assert json.loads(program.stdout.readline())["event"]
        program.stdout.close()
        said = program.stderr.read()
        assert program.wait(60) == 0, said
    assert "BrokenPipeError" not in said
    assert "processed 1 of 1, successful 1" in said
    assert len(list((tmp_path / "set" / "solutions").rglob("*.json"))) == 1


def test_a_stream_that_takes_no_more_is_left_alone() -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            tried.append(text)
            raise OSError(errno.ENOSPC, "No space left on device")

    tried: list[str] = []
    tell = EventLines(Full())
    for _ in range(2):
        tell(Saved("r1", Path("a"), "n"))
    assert len(tried) == 1


def test_one_document_and_lines_at_once_are_refused(shell: Shell) -> None:
    for command in (("optimize", "set"), ("resume", "--all")):
        ran = shell.run(*command, "--json", "--json-events")
        assert ran.code == 2
        assert "choose one" in ran.err


def test_every_line_is_ascii_whatever_a_reply_holds() -> None:
    stream, seen = io.StringIO(), []
    tell = each(seen.append, EventLines(stream))
    proposal = Proposal(Purpose.DRAFT, 1)
    tell(RunStarted("r1", "d", "m", "python", "CPU", 1, 1, 0))
    tell(
        Replied(
            "r1", proposal, Reply("\ud800\n\u2028", Finish.COMPLETE, "m", cost_usd=float("inf"))
        )
    )
    tell(Saved("r1", Path("a"), "n"))
    lines = stream.getvalue().splitlines()
    assert len(lines) == len(seen) == 3
    assert stream.getvalue().isascii()
    assert [json.loads(line)["run"] for line in lines] == ["r1"] * 3
    assert json.loads(lines[1])["reply"]["text"] == "\ud800\n\u2028"
