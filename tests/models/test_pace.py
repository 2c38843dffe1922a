"""How many questions are under way at once, at a provider that limits them."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pytest

from kernel_generator.domain.errors import BudgetSpent, ProviderRefused, ProviderUnavailable
from kernel_generator.models import pace as pace_module
from kernel_generator.models.answer import Limited
from kernel_generator.models.credentials import resolve
from kernel_generator.models.endpoint_model import EndpointModel
from kernel_generator.models.pace import CEILING, START, Pace, pace_of
from tests.loopback import (
    LoopbackServer,
    fails,
    is_a_web_page,
    resets_midway,
    says,
    stalls_midway,
    streams_an_error,
    streams_garbage,
)
from tests.models.asking import HURRY, a_request, ask, ask_together, at, model_at

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from kernel_generator.domain.conversation import Reply
    from kernel_generator.domain.errors import ProviderError
    from kernel_generator.models.pace import Turn
    from tests.loopback import Behaviour
    from tests.loopback_wire import Exchange, Recorded

PATIENT = replace(HURRY, idle_s=30.0)
"""For answers that a test holds back."""
_TAKES_S = 0.02
"""What the provider needs for an answer; as many times that as it works on at once."""


class Rationed:
    """A provider that works on `allowed` requests at once and answers 429 to any other."""

    def __init__(self, allowed: int, retry_after_s: float | None = None) -> None:
        self.refused = 0
        self._allowed, self._under_way = allowed, 0
        self._lock = threading.Lock()
        self._refuses = fails(429, retry_after_s=retry_after_s)

    def __call__(self, _request: Recorded) -> Behaviour:
        with self._lock:
            if self._under_way == self._allowed:
                self.refused += 1
                return self._refuses
            self._under_way += 1
        return self._answer

    def _answer(self, exchange: Exchange) -> None:
        threading.Event().wait(_TAKES_S * self._allowed)
        with self._lock:
            self._under_way -= 1
        says("at last")(exchange)


class Held:
    """A provider that answers nobody before it is told to."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def __call__(self, _request: Recorded) -> Behaviour:
        return self._answer

    def _answer(self, exchange: Exchange) -> None:
        self.go.wait()
        says("at last")(exchange)


async def until(holds: Callable[[], bool]) -> None:
    """Waits for something that happens in another thread or task."""
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110 - no event tells what a thread or server did
            await asyncio.sleep(0.002)


@pytest.mark.slow
def test_a_provider_that_allows_few_at_once_answers_all_and_refuses_few() -> None:
    provider, asked = Rationed(4), 200
    with LoopbackServer(provider, keep_alive=True) as server:
        model, pace = model_at(server.base_url), pace_of(at(server.base_url))
        replies = ask_together(model, [a_request()] * asked)
    assert [reply.text for reply in replies] == ["at last"] * asked
    assert len(server.requests) == asked + provider.refused
    assert 0 < provider.refused <= 0.15 * asked
    assert 2 <= pace.window <= 5
    assert (pace.under_way, pace.waiting) == (0, 0)


@pytest.mark.parametrize("allowed", [1, 4, 12, 10_000])
def test_the_window_settles_near_what_is_allowed(allowed: int) -> None:
    """Without a server: so many questions at once as no loopback server answers in time."""
    asked, under_way, refused, most = 1200, 0, 0, 0

    async def question(pace: Pace) -> None:
        nonlocal under_way, refused, most
        turn = pace.turn(HURRY)
        while True:
            try:
                async with turn:
                    if under_way == allowed:
                        refused += 1
                        raise Limited("too many", "429", 0.0005)
                    under_way += 1
                    most = max(most, under_way)
                    await asyncio.sleep(0)
                    under_way -= 1
                    return
            except Limited:
                assert not turn.is_over

    async def all_of_them() -> Pace:
        pace = Pace()
        await asyncio.gather(*(question(pace) for _ in range(asked)))
        return pace

    pace = asyncio.run(all_of_them())
    assert most == min(allowed, CEILING)
    assert refused <= 0.15 * asked
    assert allowed // 2 <= pace.window <= allowed + 1 or pace.window == CEILING
    assert (pace.under_way, pace.waiting) == (0, 0)


@pytest.mark.parametrize("status", [429, 503, 529])
def test_everybody_waits_as_long_as_the_provider_says(status: int) -> None:
    refuses = fails(status, retry_after_s=0.3)
    with LoopbackServer([refuses] * START + [says("at last")] * 20) as server:
        ask_together(model_at(server.base_url), [a_request()] * 20)
    # By the server's clock: what came back later than it went out was not asked for earlier.
    assert server.gaps()[START - 1] >= 0.3
    assert len(server.requests) == START + 20


def test_a_key_without_requests_left_is_not_used_before_it_has_more() -> None:
    def last_one(exchange: Exchange) -> None:
        exchange.headers = {
            "x-ratelimit-remaining-requests": "0",
            "x-ratelimit-reset-requests": "300ms",
        }
        says("the last one")(exchange)

    with LoopbackServer([last_one, says("at last")]) as server:
        replies = ask(model_at(server.base_url), a_request(), a_request())
    assert [reply.text for reply in replies] == ["the last one", "at last"]
    assert server.gaps()[0] >= 0.3


def test_a_limit_told_inside_a_stream_is_one() -> None:
    told = streams_an_error("slow down", "rate_limit_exceeded")
    patience = replace(HURRY, max_retries=0)
    with LoopbackServer([told, told, says("at last")]) as server:
        [reply] = ask(model_at(server.base_url, patience=patience))
    assert reply.text == "at last"


def test_a_provider_that_limits_for_ever_is_given_up_after_the_stated_time() -> None:
    patience = replace(HURRY, limited_s=0.1)
    with (
        LoopbackServer(lambda _request: fails(429, "slow down")) as server,
        pytest.raises(
            ProviderUnavailable, match=r"kept answering 429 after \d+ retries: slow down"
        ),
    ):
        ask(model_at(server.base_url, patience=patience))
    assert len(server.requests) > 2


def test_a_wait_beyond_all_patience_is_nobody_elses() -> None:
    tomorrow = fails(429, "come back tomorrow", retry_after_s=86400)
    with LoopbackServer([tomorrow, says("at last")]) as server:
        model = model_at(server.base_url)
        with pytest.raises(ProviderUnavailable, match="come back tomorrow"):
            ask(model)
        [reply] = ask(model)
    assert reply.text == "at last"


def test_models_with_one_key_share_a_window_and_other_keys_do_not() -> None:
    provider = Held()

    async def scenario(server: LoopbackServer) -> None:
        one, two = (EndpointModel(at(server.base_url, model=m), patience=PATIENT) for m in "ab")
        pace = pace_of(at(server.base_url))
        asked = [asyncio.create_task(m.ask(a_request())) for m in [one, two] * START]
        await until(lambda: len(server.requests) == START and pace.waiting == START)
        other = resolve("c", api_key="other-key", base_url=server.base_url, environment={})
        three = EndpointModel(other, patience=PATIENT)
        asked += [asyncio.create_task(three.ask(a_request())) for _ in range(2)]
        await until(lambda: len(server.requests) == START + 2)
        assert [r.key for r in server.requests[START:]] == ["other-key"] * 2
        assert pace.under_way == START
        provider.go.set()
        assert {reply.text for reply in await asyncio.gather(*asked)} == {"at last"}
        await asyncio.gather(*(model.close() for model in (one, two, three)))

    with LoopbackServer(provider) as server:
        asyncio.run(scenario(server))


def test_no_key_is_kept_or_shown() -> None:
    endpoint = at("http://127.0.0.1:9/v1")
    pace = pace_of(endpoint)
    assert endpoint.api_key.get_secret_value() not in f"{vars(pace_module)} {vars(pace)} {pace!r}"


def test_who_is_cancelled_while_waiting_or_asking_takes_no_place() -> None:
    provider = Held()

    async def scenario(server: LoopbackServer) -> None:
        model, pace = model_at(server.base_url, patience=PATIENT), pace_of(at(server.base_url))
        asked = [asyncio.create_task(model.ask(a_request())) for _ in range(START + 5)]
        await until(lambda: len(server.requests) == START and pace.waiting == 5)
        await cancelled(asked[START : START + 3])
        assert (pace.under_way, pace.waiting) == (START, 2)
        await cancelled(asked[:1])
        assert (pace.under_way, pace.waiting) == (START, 1)
        provider.go.set()
        kept = asked[1:START] + asked[START + 3 :]
        assert {reply.text for reply in await asyncio.gather(*kept)} == {"at last"}
        assert (pace.under_way, pace.waiting) == (0, 0)
        await model.close()

    with LoopbackServer(provider) as server:
        asyncio.run(scenario(server))


def test_who_is_put_off_can_be_cancelled_at_once() -> None:
    async def scenario(server: LoopbackServer) -> None:
        patience = replace(PATIENT, limited_s=900.0)
        model, pace = model_at(server.base_url, patience=patience), pace_of(at(server.base_url))
        asked = [asyncio.create_task(model.ask(a_request())) for _ in range(START + 5)]
        await until(lambda: pace.waiting == START + 5)
        await cancelled(asked)
        assert (pace.under_way, pace.waiting) == (0, 0)
        await model.close()

    with LoopbackServer(lambda _request: fails(429, retry_after_s=600)) as server:
        asyncio.run(scenario(server))
    assert len(server.requests) == START


@pytest.mark.parametrize(
    ("behaviour", "error"),
    [
        (fails(400), ProviderRefused),
        (fails(429, code="insufficient_quota"), ProviderRefused),
        (is_a_web_page(), ProviderRefused),
        (fails(500), ProviderUnavailable),
        (stalls_midway(), ProviderUnavailable),
        (resets_midway(), ProviderUnavailable),
        (streams_garbage(), ProviderUnavailable),
    ],
    ids=["400", "quota", "page", "500", "stall", "reset", "garbage"],
)
def test_a_request_that_fails_gives_its_place_back(
    behaviour: Behaviour, error: type[ProviderError]
) -> None:
    with LoopbackServer(lambda _request: behaviour) as server:
        model, pace = model_at(server.base_url), pace_of(at(server.base_url))
        with pytest.raises(error):
            ask(model)
    assert (pace.under_way, pace.waiting) == (0, 0)
    assert pace.window == START


def test_the_oldest_question_goes_first_even_where_it_was_put_off() -> None:
    async def scenario() -> list[str]:
        pace, order = Pace(), list[str]()
        holding = [pace.turn(HURRY) for _ in range(START)]
        for turn in holding:
            await turn.__aenter__()

        async def follow(name: str, turn: Turn) -> None:
            async with turn:
                order.append(name)

        first = [asyncio.create_task(follow(n, pace.turn(HURRY))) for n in "abc"]
        await until(lambda: pace.waiting == 3)
        limited = Limited("slow down", "429", 0.0)
        await holding[0].__aexit__(Limited, limited, None)
        again = asyncio.create_task(follow("put off", holding[0]))
        await until(lambda: pace.waiting == 4)
        for turn in holding[1:]:
            await turn.__aexit__(None, None, None)
        await asyncio.gather(again, *first)
        return order

    assert asyncio.run(scenario()) == ["put off", "a", "b", "c"]


def test_loops_of_several_threads_share_the_window() -> None:
    provider = Rationed(3, retry_after_s=0.01)
    texts: list[str] = []
    with LoopbackServer(provider) as server:
        model, pace = model_at(server.base_url), pace_of(at(server.base_url))

        def in_a_loop_of_its_own() -> None:
            texts.extend(reply.text for reply in ask_together(model, [a_request()] * 10))

        threads = [threading.Thread(target=in_a_loop_of_its_own) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert texts == ["at last"] * 30
    assert (pace.under_way, pace.waiting) == (0, 0)
    assert pace.window < START


def test_a_loop_that_was_dropped_with_a_question_in_line_holds_nobody_up() -> None:
    pace = Pace()
    loop = asyncio.new_event_loop()

    async def waits() -> None:
        async with pace.turn(HURRY):
            raise AssertionError("its turn never comes")

    async def scenario() -> None:
        holding = [pace.turn(HURRY) for _ in range(START)]
        for turn in holding:
            await turn.__aenter__()
        dropped = waits()
        await asyncio.to_thread(begin, dropped)
        assert pace.waiting == 1
        loop.close()
        for turn in holding:
            await turn.__aexit__(None, None, None)
        assert (pace.under_way, pace.waiting) == (0, 0)
        dropped.close()
        assert pace.under_way == 0

    def begin(coroutine: Coroutine[None, None, None]) -> None:
        async def one_step() -> None:
            coroutine.send(None)

        loop.run_until_complete(one_step())

    asyncio.run(scenario())


async def cancelled(tasks: list[asyncio.Task[Reply]]) -> None:
    """Cancels, and waits until they have ended so."""
    for task in tasks:
        task.cancel()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(one) for one in ended} == {asyncio.CancelledError}


@dataclass
class Purse:
    """A permit for what is begun before it is empty, or within some seconds."""

    limit_s: float | None = None
    is_empty: bool = False
    began: float = field(default_factory=time.monotonic)

    @property
    def left_s(self) -> float | None:
        if self.limit_s is None:
            return None
        return max(0.0, self.began + self.limit_s - time.monotonic())

    def check(self) -> None:
        if self.is_empty or self.left_s == 0.0:
            raise BudgetSpent("the purse is empty")


def test_whoever_waited_while_the_budget_was_spent_does_not_begin() -> None:
    provider, purse = Held(), Purse()

    async def all_of_them(base_url: str) -> list[Reply | BaseException]:
        model, pace = model_at(base_url, patience=PATIENT), pace_of(at(base_url))
        request = replace(a_request(), permit=purse)
        asked = [asyncio.create_task(model.ask(request)) for _ in range(START + 5)]
        await until(lambda: len(server.requests) == START and pace.waiting == 5)
        purse.is_empty = True
        provider.go.set()
        replies = await asyncio.gather(*asked, return_exceptions=True)
        await model.close()
        assert (pace.under_way, pace.waiting) == (0, 0)
        return replies

    with LoopbackServer(provider, keep_alive=True) as server:
        replies = asyncio.run(all_of_them(server.base_url))
        assert len(server.requests) == START
    refused = [one for one in replies if isinstance(one, BudgetSpent)]
    assert len(refused) == 5


def test_a_provider_that_always_limits_is_asked_no_longer_than_there_is_time() -> None:
    purse = Purse(limit_s=0.3)
    with LoopbackServer(lambda _: fails(429, retry_after_s=0.1)) as server:
        model = model_at(server.base_url)
        with pytest.raises(BudgetSpent):
            ask(model, replace(a_request(), permit=purse))
        assert 1 <= len(server.requests) <= 4


def test_a_pause_that_the_provider_asks_for_ends_with_the_time() -> None:
    purse = Purse(limit_s=0.3)
    with LoopbackServer([fails(429, retry_after_s=50.0)]) as server:
        with pytest.raises(BudgetSpent):
            ask(model_at(server.base_url, patience=PATIENT), replace(a_request(), permit=purse))
        assert len(server.requests) == 1


@pytest.mark.parametrize("fault", [fails(500), resets_midway()], ids=["status", "stream"])
def test_nothing_is_asked_again_once_the_budget_is_spent(fault: Behaviour) -> None:
    purse = Purse()

    def answer(exchange: Exchange) -> None:
        purse.is_empty = True
        fault(exchange)

    with LoopbackServer([answer]) as server:
        with pytest.raises(BudgetSpent):
            ask(model_at(server.base_url), replace(a_request(), permit=purse))
        assert len(server.requests) == 1
