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
from tests.runs.sets import OP_TYPE, RIGHT, WRONG

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    from tests.cli.commands import Ran
    from tests.loopback_host import Line


@dataclass(frozen=True)
class Desk:
    """A provider, as one user meets it."""

    shell: Shell
    server: AnthropicServer | GeminiServer
    model: str
    says: Callable[[str], Line]
    cut: Line
    refused: Line
    failed: Line
    batches: str
    """What names of batches begin with."""

    def optimize(self, *options: object) -> Ran:
        at = ("--model", self.model, *UNTIMED)
        return self.shell.run("optimize", "set", *at, "--batch", *options)

    def resume(self) -> Ran:
        return self.shell.run("resume", "--all")

    def end(self, result: Line | None) -> None:
        self.server.end(lambda _: result)


@pytest.fixture(params=["anthropic", "gemini"])
def desk(
    request: pytest.FixtureRequest, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> Generator[Desk]:
    made: AnthropicServer | GeminiServer
    if request.param == "anthropic":
        made, model = AnthropicServer(), "claude-sonnet-4-5"
        says: Callable[[str], Line] = anthropic.says
        rest = (
            says("```python\nimport", stop="max_tokens"),  # type: ignore[call-arg]
            anthropic.says("", stop="refusal"),
            anthropic.errs("it is odd"),
            "msgbatch_",
        )
    else:
        made, model, says = GeminiServer(), "gemini-2.5-pro", gemini.says
        rest = (
            gemini.says("```python\nimport", finish="MAX_TOKENS"),
            gemini.says("", finish="SAFETY"),
            gemini.errs("it is odd"),
            "batches/",
        )
    with made as server:
        directory = directory_at(**{request.param: server.base_url})
        monkeypatch.setitem(open_batches.__kwdefaults__, "directory", directory)
        yield Desk(shell, server, model, says, *rest)


@pytest.mark.slow
def test_the_round_trip(desk: Desk, tmp_path: Path, own_store: Path) -> None:
    ran = desk.optimize()
    assert ran.code == 1
    first, second = f"{desk.batches}1", f"{desk.batches}2"
    assert f"waiting for replies of '{desk.model}': 1 request, in batch {first}" in ran.err
    assert "to go on, within a day: kernel-generator resume --all" in ran.err

    ran = desk.resume()
    assert ran.code == 1
    assert ": 0 of 1 requests done" in ran.err
    assert len(desk.server.batches) == 1

    desk.end(desk.says(WRONG))
    desk.server.hiccups = [429, 503]
    ran = desk.resume()
    assert ran.code == 1
    assert "1 of 1 replies taken" in ran.err
    assert "100 + 20 tokens" in ran.out
    assert f"1 request, in batch {second}" in ran.err
    [request] = desk.server.requests()
    assert "wrong values" in str(request)

    desk.end(desk.says(RIGHT))
    ran = desk.resume()
    assert ran.code == 0, ran.err
    assert len(list((tmp_path / "set" / "solutions" / OP_TYPE).rglob("*.json"))) == 1
    assert desk.server.keys == {KEY}
    content = own_store.read_bytes() + own_store.with_name("runs.db-wal").read_bytes()
    assert KEY.encode() not in content
    assert b"127.0.0.1" not in content


def test_a_batch_that_was_made_and_not_noted_is_not_made_again(desk: Desk) -> None:
    desk.server.loses = 0
    ran = desk.optimize()
    assert ran.code == 3
    assert "could not be reached" in ran.err
    desk.server.loses = None
    ran = desk.resume()
    assert ran.code == 1
    if desk.batches == "msgbatch_":
        assert (
            "whether a batch of 1 request was made cannot be told before msgbatch_1 ended, which "
            "may be it" in ran.err
        )
    else:
        assert "batch batches/1 is pending: 0 of 1 requests done" in ran.err
    assert len(desk.server.batches) == 1
    desk.end(desk.refused)
    ran = desk.resume()
    assert f"batch {desk.batches}1 is" in ran.err
    assert "1 of 1 replies taken" in ran.err
    assert f"in batch {desk.batches}2" in ran.err, "what follows from the refusal"


def test_what_ended_without_an_answer_is_handed_in_again(desk: Desk) -> None:
    desk.optimize()
    [before] = desk.server.requests()
    desk.end(desk.failed)
    ran = desk.resume()
    assert "0 of 1 replies taken" in ran.err
    assert f"batch {desk.batches}1 gave no answer, try 1 of 3: " in ran.err
    assert "it is odd" in ran.err
    [after] = desk.server.requests()
    assert list(desk.server.batches) == [f"{desk.batches}1", f"{desk.batches}2"]
    said = "params" if desk.batches == "msgbatch_" else "request"
    assert after[said] == before[said]
    desk.end(None)
    assert "without a result" in desk.resume().err


@pytest.mark.parametrize("how", ["cut", "refused"])
def test_an_answer_that_is_cut_or_refused_is_told_to_the_model(desk: Desk, how: str) -> None:
    desk.optimize()
    before = str(desk.server.requests())
    desk.end(getattr(desk, how))
    ran = desk.resume()
    assert "1 of 1 replies taken" in ran.err
    assert f"1 request, in batch {desk.batches}2" in ran.err
    assert str(desk.server.requests()) != before


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


def test_a_batch_that_is_unknown_is_told(desk: Desk) -> None:
    desk.optimize()
    desk.server.batches.clear()
    ran = desk.resume()
    assert ran.code == 3
    assert f"knows no batch {desk.batches}1 (404)" in ran.err
    assert desk.server.batches == {}, "nothing is handed in instead"
