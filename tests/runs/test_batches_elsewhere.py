"""Batches at Anthropic, which are known by their results alone, and at Google.

The server is an imitation on this machine; the journals are made by hand, and nothing is judged.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from kernel_generator.domain.errors import ProviderRefused, ProviderUnavailable, StoreError
from kernel_generator.models.batch_anthropic import AnthropicDesk
from kernel_generator.models.batch_gemini import GeminiDesk
from kernel_generator.models.credentials import resolve
from kernel_generator.runs.batches import submit_waiting, take_in
from kernel_generator.runs.store import Store
from tests import loopback_batch_gemini as gemini
from tests.loopback_batch_anthropic import EXPIRED, AnthropicServer, errs, says
from tests.loopback_batch_gemini import GeminiServer
from tests.models.asking import HURRY, directory_at
from tests.runs.test_batches import Dies, Office

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from tests.loopback_host import Line


class Branch(Office):
    """An office at another provider than OpenAI."""

    server: Any

    def submit(self, runs: list[str]) -> str | None:
        spending, told = self.spending, self.events.append
        batch = asyncio.run(submit_waiting(self.store, self._there, runs, spending, told))
        return batch.batch_id if batch is not None else None

    def take_in(self, runs: list[str]) -> str:
        del self.events[:]
        spending, told = self.spending, self.events.append
        asyncio.run(take_in(self.store, self._there, runs, spending, told))
        return self.told

    @property
    def _there(self) -> AnthropicDesk | GeminiDesk:
        if isinstance(self.server, AnthropicServer):
            directory = directory_at(anthropic=self.server.base_url)
            endpoint = resolve("claude-x", api_key="k-4711", environment={}, directory=directory)
            return AnthropicDesk(endpoint, HURRY)
        directory = directory_at(gemini=self.server.base_url)
        endpoint = resolve("gemini-3-x", api_key="k-4711", environment={}, directory=directory)
        return GeminiDesk(endpoint, HURRY)


@pytest.fixture
def office(tmp_path: Path) -> Generator[Branch]:
    store = Store(tmp_path / "runs.db")
    with AnthropicServer() as server:
        yield Branch(store, server)
    store.close()


@pytest.fixture
def at_google(tmp_path: Path) -> Generator[Branch]:
    store = Store(tmp_path / "runs.db")
    with GeminiServer() as server:
        yield Branch(store, server)
    store.close()


def of(run: str, one: Line) -> bool:
    return f"_{run}-" in one["custom_id"]


def test_a_batch_that_expired_in_part_gives_what_it_has(office: Branch) -> None:
    runs = first, second, third = office.begin(3)
    office.submit(runs)
    office.server.end(
        lambda one: says("text") if of(first, one) else EXPIRED if of(second, one) else errs("no")
    )
    told = office.take_in(runs)
    assert "batch msgbatch_1 is ended: 1 of 3 replies taken" in told
    assert f"run {second}, round 1: batch msgbatch_1 gave no answer, try 1 of 3: the batch" in told
    assert office.reply(first) is not None
    assert office.reply(third) is None
    assert office.submit(runs) == "msgbatch_2"
    assert len(office.server.requests()) == 2


def test_a_broken_line_of_results_costs_its_own_request_alone(office: Branch) -> None:
    runs = first, second = office.begin(2)
    office.submit(runs)
    broken = b'{"custom_id": "half'
    office.server.end(lambda one: says("text") if of(first, one) else None, broken)
    told = office.take_in(runs)
    assert "1 of 2 replies taken" in told
    assert "1 result answered nothing that was asked: ignored" in told
    assert office.reply(second) is None


def test_nothing_is_handed_in_while_another_batch_may_be_the_one(office: Branch) -> None:
    theirs = office.server.add(2)
    runs = office.begin(2)
    office.server.loses = 500
    with pytest.raises(ProviderUnavailable):
        office.submit(runs)
    office.server.loses = None
    told = office.take_in(runs)
    assert f"cannot be told before msgbatch_2 and {theirs} ended, which may be it" in told
    assert office.submit(runs) is None
    office.server.end(lambda _: says("theirs"), batch_id=theirs)
    assert "before msgbatch_2 ended" in office.take_in(runs)
    office.server.end(lambda _: says("mine"), batch_id="msgbatch_2")
    assert "batch msgbatch_2 is ended: 2 of 2 replies taken" in office.take_in(runs)
    assert len(office.server.batches) == 2


def test_what_was_never_handed_in_goes_out_once_nothing_may_be_it(office: Branch) -> None:
    others = office.begin()
    assert office.submit(others) == "msgbatch_1"
    theirs = office.server.add(1)
    runs = office.begin()
    doomed = Dies(office.store.path, "submitted", 0)
    office.server.refusal = 500
    with pytest.raises(ProviderUnavailable):
        Branch(doomed, office.server).submit(runs)
    doomed.close()
    office.server.refusal = None
    assert office.submit(runs) == "msgbatch_3", "it was not even tried"

    runs = office.begin()
    store = Dies(office.store.path, "submitted", 0)
    office.server.loses = 0
    with pytest.raises((StoreError, ProviderUnavailable)):
        Branch(store, office.server).submit(runs)
    store.close()
    del office.server.batches["msgbatch_4"]  # as if it had never arrived
    told = office.take_in(runs)
    assert f"cannot be told before {theirs} ended" in told, "batches that were noted are others"
    office.server.end(lambda _: says("theirs"), batch_id=theirs)
    office.take_in(runs)
    office.server.loses = None
    assert office.submit(runs) == "msgbatch_4"


@pytest.mark.parametrize("after", [0, 1, 2])
@pytest.mark.parametrize("before", ["submitting", "submitted"])
def test_a_kill_between_any_two_notes_neither_loses_nor_pays_twice(
    office: Branch, before: str, after: int
) -> None:
    runs = office.begin(3)
    doomed = Dies(office.store.path, before, after)
    with pytest.raises(StoreError):
        Branch(doomed, office.server).submit(runs)
    doomed.close()
    office.take_in(runs)
    office.submit(runs)
    assert len(office.server.batches) == 1
    office.server.end(lambda _: says("text"))
    office.take_in(runs)
    assert len(office.server.batches) == 1
    assert [reply.text for run in runs if (reply := office.reply(run))] == ["text"] * 3


def test_a_run_that_lacks_the_note_takes_the_batch_that_another_has_noted(
    office: Branch,
) -> None:
    first, second = runs = office.begin(2)
    doomed = Dies(office.store.path, "submitted", 1)
    with pytest.raises(StoreError):
        Branch(doomed, office.server).submit(runs)
    doomed.close()
    assert "batch msgbatch_1 is in_progress" in office.take_in([second])
    office.server.end(lambda _: says("text"))
    office.take_in([first])
    office.take_in([second])
    assert office.reply(second) is not None
    assert len(office.server.batches) == 1


def test_a_batch_that_is_unknown_is_told_and_nothing_is_handed_in_instead(office: Branch) -> None:
    runs = office.begin()
    office.submit(runs)
    office.server.batches.clear()
    with pytest.raises(ProviderRefused, match="knows no batch msgbatch_1"):
        office.take_in(runs)
    assert office.submit(runs) is None


def test_a_batch_of_googles_that_failed_in_part_gives_what_it_has(at_google: Branch) -> None:
    runs = first, second = at_google.begin(2)
    assert at_google.submit(runs) == "batches/1"
    at_google.server.end(
        lambda one: gemini.says("text") if one["key"].startswith(first) else gemini.errs("odd"),
        b'{"key": "half',
    )
    told = at_google.take_in(runs)
    assert "batch batches/1 is succeeded: 1 of 2 replies taken" in told
    assert f"run {second}, round 1: batch batches/1 gave no answer, try 1 of 3: " in told
    assert at_google.reply(first) is not None
    assert at_google.submit(runs) == "batches/2"
    assert len(at_google.server.requests()) == 1


def test_a_batch_of_googles_that_expired_is_handed_in_again(at_google: Branch) -> None:
    runs = at_google.begin(2)
    at_google.submit(runs)
    at_google.server.fail("EXPIRED", "it was pending for more than 48 hours", 4)
    told = at_google.take_in(runs)
    assert "batch batches/1 is expired: 0 of 2 replies taken; it was pending for more" in told
    assert at_google.submit(runs) == "batches/2"
    assert len(at_google.server.requests()) == 2


@pytest.mark.parametrize("after", [0, 1])
def test_a_kill_at_google_neither_loses_nor_pays_twice(at_google: Branch, after: int) -> None:
    runs = at_google.begin(2)
    doomed = Dies(at_google.store.path, "submitted", after)
    with pytest.raises(StoreError):
        Branch(doomed, at_google.server).submit(runs)
    doomed.close()
    assert "batch batches/1 is pending" in at_google.take_in(runs)
    assert at_google.submit(runs) is None
    assert len(at_google.server.batches) == 1
