"""`optimize --batch` and `resume`: requests go out together, and runs go on once they are answered.

The server is an imitation on this machine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kernel_generator.runs.store import Store
from tests.cli.commands import KEY, UNTIMED, Shell
from tests.loopback_batch import BatchServer, answered
from tests.runs.sets import OP_TYPE, RIGHT, WRONG

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from tests.cli.commands import Ran


@pytest.fixture
def server() -> Generator[BatchServer]:
    with BatchServer() as found:
        yield found


def optimize(shell: Shell, server: BatchServer, *options: object) -> Ran:
    at = ("--model", "some/model:1", "--base-url", server.base_url)
    return shell.run("optimize", "set", *at, *UNTIMED, "--batch", *options)


def resume(shell: Shell, server: BatchServer, run: str = "--all") -> Ran:
    return shell.run("resume", run, "--base-url", server.base_url)


@pytest.mark.slow
def test_the_round_trip(shell: Shell, tmp_path: Path, own_store: Path, server: BatchServer) -> None:
    ran = optimize(shell, server)
    assert ran.code == 1
    assert "waiting for replies of 'some/model:1': 1 request, in batch batch_1" in ran.err
    assert "to go on, within a day: kernel-generator resume --all" in ran.err
    [run] = shell.run("runs", "--json").document["runs"]
    assert run["state"] == "waits for a reply"

    ran = resume(shell, server)
    assert ran.code == 1
    assert "batch batch_1 is in_progress: 0 of 1 requests done" in ran.err
    assert server.asked.count("POST /v1/batches") == 1

    server.end(lambda line: answered(line, WRONG))
    ran = resume(shell, server)
    assert ran.code == 1
    assert "1 of 1 replies taken" in ran.err
    assert "100 + 20 tokens" in ran.out
    assert "1 request, in batch batch_2" in ran.err
    [line] = server.requests()
    assert "wrong values" in str(line["body"])
    assert "stream" not in line["body"]

    server.end(lambda line: answered(line, RIGHT))
    ran = resume(shell, server, run["run"])
    assert ran.code == 0, ran.err
    assert len(list((tmp_path / "set" / "solutions" / OP_TYPE).rglob("*.json"))) == 1
    assert server.keys == {KEY}
    content = own_store.read_bytes() + own_store.with_name("runs.db-wal").read_bytes()
    assert KEY.encode() not in content
    assert b"127.0.0.1" not in content


@pytest.mark.parametrize(
    ("status", "code", "says_what"),
    [(404, 2, "has no Batch API (404"), (401, 3, "rejected the key from LLM_API_KEY (401)")],
)
def test_an_endpoint_that_takes_no_batches_is_told_before_anything_is_stored(
    shell: Shell, own_store: Path, server: BatchServer, status: int, code: int, says_what: str
) -> None:
    server.refusal = status
    ran = optimize(shell, server)
    assert ran.code == code
    assert says_what in ran.err
    assert KEY not in ran.err
    assert Store(own_store).runs() == []


@pytest.mark.parametrize(
    ("arguments", "says_what"),
    [
        (["--model", "offline"], "'offline' is not asked in batches: leave --batch out"),
        (["--model", "builtin:compiler"], "'builtin:compiler' is not asked in batches"),
    ],
    ids=["offline", "embedded"],
)
def test_a_model_without_batches_is_told(
    shell: Shell, own_store: Path, arguments: list[str], says_what: str
) -> None:
    ran = shell.run("optimize", "set", *arguments, "--target", "CPU", "--batch")
    assert ran.code == 2
    assert says_what in ran.err
    assert Store(own_store).runs() == []


@pytest.mark.slow
def test_a_provider_that_fails_at_the_end_loses_nothing(shell: Shell, server: BatchServer) -> None:
    server.loses = 0
    ran = optimize(shell, server)
    assert ran.code == 3
    assert "could not be reached" in ran.err
    assert "processed 1 of 1" in ran.out
    server.loses = None
    ran = resume(shell, server)
    assert "batch batch_1 is in_progress: 0 of 1 requests done" in ran.err
    assert len(server.batches) == 1
    server.refusal = 401
    assert resume(shell, server).code == 3
    [run] = shell.run("runs", "--json").document["runs"]
    ran = resume(shell, server, run["run"])
    assert ran.code == 3
    assert len(ran.errors) == 1
