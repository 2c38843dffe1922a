"""`optimize --batch` and `resume` at Anthropic and at Google, whose batches are of other kinds.

The servers are imitations on this machine; the table of providers names them in the place of the
real ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from kernel_generator.models.open_model import open_batches
from kernel_generator.runs.store import Store
from tests import loopback_batch_anthropic as anthropic
from tests import loopback_batch_gemini as gemini
from tests.cli.commands import KEY, UNTIMED, Shell
from tests.loopback_batch_anthropic import AnthropicServer
from tests.loopback_batch_gemini import GeminiServer
from tests.models.asking import directory_at
from tests.runs.sets import OP_TYPE, RIGHT

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from tests.cli.commands import Ran
    from tests.loopback_host import Line


@dataclass(frozen=True)
class Desk:
    """A provider, as one user meets it."""

    shell: Shell
    server: AnthropicServer | GeminiServer
    model: str
    batches: str
    """What names of batches begin with."""
    not_ready: str
    """What is told of a batch that was made, not noted and not answered."""
    cut: Line
    right: Line

    def optimize(self, *options: object) -> Ran:
        at = ("--model", self.model, *UNTIMED)
        return self.shell.run("optimize", "set", *at, "--batch", *options)

    def resume(self) -> Ran:
        return self.shell.run("resume", "--all")


def at_anthropic(shell: Shell) -> Desk:
    unclear = "a batch of 1 request was made cannot be told before msgbatch_1 ended, which may be"
    cut = anthropic.says("half a", stop="max_tokens")
    right = anthropic.says(RIGHT)
    model = "claude-sonnet-4-5"
    return Desk(shell, AnthropicServer(), model, "msgbatch_", unclear, cut, right)


def at_google(shell: Shell) -> Desk:
    found = "batch batches/1 is pending: 0 of 1 requests done"
    cut = gemini.says("half a", finish="MAX_TOKENS")
    right = gemini.says(RIGHT)
    return Desk(shell, GeminiServer(), "gemini-2.5-pro", "batches/", found, cut, right)


@pytest.fixture(params=["anthropic", "gemini"])
def desk(
    request: pytest.FixtureRequest, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> Generator[Desk]:
    made = (at_anthropic if request.param == "anthropic" else at_google)(shell)
    with made.server as server:
        directory = directory_at(**{request.param: server.base_url})
        monkeypatch.setitem(open_batches.__kwdefaults__, "directory", directory)
        yield made


@pytest.mark.slow
def test_the_round_trip(desk: Desk, tmp_path: Path, own_store: Path) -> None:
    desk.server.loses = 0
    ran = desk.optimize()
    assert ran.code == 3
    assert "could not be reached" in ran.err
    desk.server.loses = None

    first, second = f"{desk.batches}1", f"{desk.batches}2"
    ran = desk.resume()
    assert ran.code == 1
    assert desk.not_ready in ran.err
    assert list(desk.server.batches) == [first], "it may have been made, and was"

    desk.server.end(lambda _: desk.cut)
    desk.server.hiccups = [429, 503]
    before = str(desk.server.requests())
    ran = desk.resume()
    assert ran.code == 1
    assert "1 of 1 replies taken" in ran.err
    assert "100 + 20 tokens" in ran.out
    assert f"waiting for replies of '{desk.model}': 1 request, in batch {second}" in ran.err
    assert "to go on, within a day: kernel-generator resume --all" in ran.err
    assert str(desk.server.requests()) != before, "the cut is told to the model"

    desk.server.end(lambda _: desk.right)
    ran = desk.resume()
    assert ran.code == 0, ran.err
    assert len(list((tmp_path / "set" / "solutions" / OP_TYPE).rglob("*.json"))) == 1
    assert desk.server.keys == {KEY}
    content = own_store.read_bytes() + own_store.with_name("runs.db-wal").read_bytes()
    assert KEY.encode() not in content
    assert b"127.0.0.1" not in content


def test_a_refused_key_is_told_before_anything_is_stored(desk: Desk, own_store: Path) -> None:
    desk.server.refusal = 401
    ran = desk.optimize()
    assert ran.code == 3
    assert "rejected the key from LLM_API_KEY (401)" in ran.err
    assert KEY not in ran.err
    assert Store(own_store).runs() == []


def test_an_effort_that_is_not_taken_is_told_before_anything_is_stored(
    desk: Desk, own_store: Path
) -> None:
    ran = desk.optimize("--reasoning-effort", "tremendous")
    assert ran.code == 2
    assert f"model '{desk.model}' takes no reasoning_effort 'tremendous'" in ran.err
    assert Store(own_store).runs() == []
