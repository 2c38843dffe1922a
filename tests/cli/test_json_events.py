"""`--json-events`: what happens, a line each, for programs."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import pytest

from kernel_generator.domain.conversation import Finish, Reply
from kernel_generator.domain.events import Notice, Replied, RunStarted, Saved
from kernel_generator.domain.proposal import Proposal, Purpose
from kernel_generator.reporting.lines import EventLines
from kernel_generator.runs.observers import each
from tests.cli.commands import KEY, UNTIMED, Shell, at, start
from tests.loopback import LoopbackServer, fails, says, stalls_before_answering
from tests.running import soon
from tests.runs.sets import RIGHT, WRONG, python_reply

if TYPE_CHECKING:
    from collections.abc import Iterator

KINDS = [
    *("run_started", "asked", "replied", "evaluating", "attempted"),
    *("asked", "replied", "evaluating", "attempted", "run_finished", "saved"),
    "campaign_ended",
]


def never(told: str) -> None:
    raise AssertionError(told)


def test_a_run_is_told_line_by_line_and_people_read_the_rest_on_stderr(shell: Shell) -> None:
    with LoopbackServer([says(WRONG), says(RIGHT)]) as server:
        ran = shell.run("optimize", "set", *at(server), *UNTIMED, "--json-events")
    assert ran.code == 0, ran.err
    lines = [json.loads(line) for line in ran.out.splitlines()]
    assert [line["event"] for line in lines if line["event"] != "notice"] == KINDS
    *_, saved, ended = lines
    of_the_run = {line["run"] for line in lines[:-1] if line["event"] != "notice"}
    assert of_the_run == {saved["run"]}
    attempts = [line["attempt"] for line in lines if line["event"] == "attempted"]
    assert [a["outcome"] for a in attempts] == ["WRONG_VALUES", "CORRECT_NOT_MEASURED"]
    assert attempts[0]["evaluation"]["workloads"]
    assert saved["path"].endswith(".json")
    assert (ended["run"], ended["total"], ended["successful"]) == (None, 1, 1)
    assert (ended["prompt_tokens"] > 0, ended["exit_code"]) == (True, 0)
    assert "processed 1 of 1" in ran.err


def test_resuming_tells_in_the_same_way(shell: Shell) -> None:
    with LoopbackServer([says(WRONG), says(RIGHT)]) as server:
        shell.run("optimize", "set", *at(server), *UNTIMED, "--max-tokens", 1)
        more = ("--max-tokens", 10_000, "--json-events")
        ran = shell.run("resume", "--all", "--base-url", server.base_url, *more)
    assert ran.code == 0, ran.err
    lines = [json.loads(line) for line in ran.out.splitlines()]
    assert [x["recalled"] for x in lines if x["event"] == "attempted"] == [True, False]
    assert [line["event"] for line in lines][-2:] == ["saved", "campaign_ended"]


@pytest.mark.parametrize(
    ("arguments", "kind", "code"),
    [
        (("--model", "some/model:1"), "provider", 3),
        (("--model", "some/model:1", "--max-tokens", 1), "budget", 1),
        (("--model", "offline"), "pending", 1),
    ],
)
def test_a_run_that_stops_before_its_end_says_why(
    shell: Shell, arguments: tuple[object, ...], kind: str, code: int
) -> None:
    with LoopbackServer([says(WRONG), fails(401)]) as server:
        base = ("--base-url", server.base_url)
        ran = shell.run("optimize", "set", *arguments, *base, *UNTIMED, "--json-events")
    assert ran.code == code, ran.err
    *_, stopped, ended = (json.loads(line) for line in ran.out.splitlines())
    assert (stopped["event"], stopped["kind"]) == ("run_stopped", kind)
    assert stopped["reason"]
    assert (ended["event"], ended["exit_code"]) == ("campaign_ended", code)
    assert (ended["waiting"], ended["failed"]) == ((1, 0) if kind == "pending" else (0, 1))


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
    tell = EventLines(Full(), never)
    for _ in range(2):
        tell(Saved("r1", Path("a"), "n"))
    tell.close()
    assert len(tried) == 1


@pytest.fixture
def pipe() -> Iterator[tuple[int, TextIO]]:
    """The reading end, and a stream into the other."""
    reads, writes = os.pipe()
    with os.fdopen(writes, "w") as stream:
        yield reads, stream
    os.close(reads)


LONG = Notice("x" * 300_000)
"""More than a pipe holds."""


def test_a_reader_that_stops_reading_is_given_up_with_a_word(pipe: tuple[int, TextIO]) -> None:
    told: list[str] = []
    tell = EventLines(pipe[1], told.append, patience_s=0.01)
    for _ in range(3):
        tell(LONG)
    tell.close()
    assert told == [
        "the reader of the events took nothing for a while: it is told of no further one"
    ]
    tell(LONG)
    tell.close()


def test_after_ctrl_c_nobody_waits_for_the_reader(pipe: tuple[int, TextIO]) -> None:
    told: list[str] = []
    tell = EventLines(pipe[1], told.append, patience_s=3600)
    tell(LONG)
    tell.close(hurry=True)
    assert len(told) == 1


def test_a_slow_reader_gets_everything_in_order(pipe: tuple[int, TextIO]) -> None:
    reads, stream = pipe
    tell = EventLines(stream, never)
    events = [Notice(f"{number} {LONG.text}") for number in range(3)]
    for event in events:
        tell(event)
    found = b""
    while found.count(b"\n") < len(events):
        found += os.read(reads, 1 << 16)
    tell.close()
    assert [json.loads(line)["text"] for line in found.splitlines()] == [e.text for e in events]


@pytest.mark.slow
def test_a_reader_that_stops_reading_holds_up_neither_the_run_nor_ctrl_c(
    shell: Shell, tmp_path: Path, own_store: Path
) -> None:
    long = says(python_reply("def run(x):\n    return x * 2\n# " + "y" * 300_000))
    with LoopbackServer([long, stalls_before_answering()]) as server:
        program = start(
            *("optimize", "set", *at(server), *UNTIMED, "--json-events"),
            folder=tmp_path,
            LLM_API_KEY=KEY,
            KERNEL_GENERATOR_STORE=str(own_store),
        )
        assert program.stderr is not None
        assert soon(lambda: len(server.requests) == 2), "the run goes on beside the reader"
        program.send_signal(signal.SIGINT)
        assert program.wait(60) == 130
        assert "the reader of the events took nothing for a while" in program.stderr.read()


def test_one_document_and_lines_at_once_are_refused(shell: Shell) -> None:
    for command in (("optimize", "set"), ("resume", "--all")):
        ran = shell.run(*command, "--json", "--json-events")
        assert ran.code == 2
        assert "choose one" in ran.err


def test_every_line_is_ascii_whatever_a_reply_holds() -> None:
    stream, seen = io.StringIO(), []
    lines = EventLines(stream, never)
    tell = each(seen.append, lines)
    proposal = Proposal(Purpose.DRAFT, 1)
    tell(RunStarted("r1", "d", "m", "python", "CPU", 1, 1, 0))
    tell(
        Replied(
            "r1", proposal, Reply("\ud800\n\u2028", Finish.COMPLETE, "m", cost_usd=float("inf"))
        )
    )
    tell(Saved("r1", Path("a"), "n"))
    lines.close()
    written = stream.getvalue().splitlines()
    assert len(written) == len(seen) == 3
    assert stream.getvalue().isascii()
    assert [json.loads(line)["run"] for line in written] == ["r1"] * 3
    assert json.loads(written[1])["reply"]["text"] == "\ud800\n\u2028"
