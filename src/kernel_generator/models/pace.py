"""How many requests to one endpoint with one key may be under way, and when the next may start.

Providers limit keys, so all models of this process with the same origin and key share one pace:
what one is refused slows all of them down. A place that was taken is always given back, and the
oldest question goes first.

The numbers are those of all event loops, behind a lock: a synchronous caller's threads have a loop
each, and the provider counts them together. A question waits in its own loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import secrets
import threading
import time
from bisect import insort
from typing import TYPE_CHECKING
from weakref import WeakSet, WeakValueDictionary

from kernel_generator.domain.budget import UNLIMITED
from kernel_generator.models.answer import Limited

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from kernel_generator.domain.budget import Permit
    from kernel_generator.models.address import Origin
    from kernel_generator.models.credentials import Endpoint
    from kernel_generator.models.protocol import Patience

START = 8
"""At once before anything is known: as many as a few runs at a time need, and few enough to be
refused where a provider allows but one. Doubled by every round of answers, it is at the ceiling
after five."""
CEILING = 256
_ROUNDS_BEFORE_REFUSED = 8
"""Rounds of answers before a window is tried again that was refused, rather than one."""
LONGEST_BACKOFF_S = 8.0
_LONGEST_RESET_S = 60.0
"""A limit by the day resets later, and may let requests through long before."""


class Pace:
    """A window that grows with the answers it gives when full, and halves where the provider
    limits the rate."""

    def __init__(self) -> None:
        # One that is held may be asked for again where a forgotten question is collected.
        self._lock = threading.RLock()
        self._size = float(START)
        self._under_way = 0
        self._waiting: list[Turn] = []
        self._resumes_at = 0.0
        """By the monotonic clock: nothing starts before."""
        self._numbers = itertools.count()
        self._watching = WeakSet[asyncio.AbstractEventLoop]()
        """Loops with a timer for the end of the pause."""
        self._refused = 0
        """The window when the provider last found it too large."""
        self._shrinks = 0
        self._in_vain = 0
        """Shrinks since the last answer."""

    @property
    def window(self) -> int:
        """How many requests may be under way."""
        return int(self._size)

    @property
    def under_way(self) -> int:
        """How many are."""
        return self._under_way

    @property
    def waiting(self) -> int:
        """How many questions wait for their turn."""
        return len(self._waiting)

    def turn(self, patience: Patience, permit: Permit = UNLIMITED) -> Turn:
        """A question's place in the line, which it keeps when it has to be asked again."""
        return Turn(self, next(self._numbers), patience, permit)

    def resets_in(self, seconds: float) -> None:
        """No request is left to this key until then."""
        with self._lock:
            self._pause(min(seconds, _LONGEST_RESET_S))

    async def enter(self, turn: Turn) -> None:
        """Waits until the turn has come. Raises what the turn's permit does, then or before."""
        with self._lock:
            insort(self._waiting, turn, key=lambda one: one.number)
            self._start_next()
            self._watch_pause(turn.loop)
        try:
            while not turn.woken.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(turn.permit.left_s):
                        await turn.woken.wait()
                turn.permit.check()
        except BaseException:
            with self._lock:
                if turn.started:
                    self._give_back(turn)
                elif turn in self._waiting:
                    self._waiting.remove(turn)
            raise

    def leave(self, turn: Turn, error: BaseException | None) -> None:
        """Gives the place back. `error`: what the request ended with; None where it was answered.

        Only an answer and a rate limit say anything of how many requests there may be.
        """
        with self._lock:
            if error is None:
                self._grow()
            elif isinstance(error, Limited):
                self._shrink(turn)
                backoff_s = turn.patience.backoff_s * 2.0 ** max(0, min(self._in_vain - 1, 10))
                self._pause(turn.put_off(error.after_s, min(backoff_s, LONGEST_BACKOFF_S)))
            self._give_back(turn)

    # -- under the lock -------------------------------------------------------------------------

    def _give_back(self, turn: Turn) -> None:
        turn.started = False
        self._under_way -= 1
        self._start_next()

    def _grow(self) -> None:
        self._in_vain = 0
        if self._under_way < self.window:  # nothing is known of more
            return
        if not self._shrinks:
            step = 1.0
        elif self._refused - 1 <= self._size < self._refused:
            step = 1 / (_ROUNDS_BEFORE_REFUSED * self._size)
        else:
            step = 1 / self._size
        self._size = min(self._size + step, CEILING)

    def _shrink(self, turn: Turn) -> None:
        if turn.shrinks == self._shrinks:  # else it was sent before the last time
            self._refused = max(2, self.window)
            self._size = max(1.0, self._size / 2)
            self._shrinks += 1
            self._in_vain += 1

    def _pause(self, seconds: float) -> None:
        resumes_at = time.monotonic() + seconds
        if resumes_at > self._resumes_at:
            self._resumes_at = resumes_at
            for loop in {turn.loop for turn in self._waiting}:
                _call(loop, self._look_again, loop)

    def _start_next(self) -> None:
        while self._waiting and self._under_way < self.window:
            if time.monotonic() < self._resumes_at:
                return
            turn = self._waiting.pop(0)
            if _call(turn.loop, turn.woken.set):
                turn.started, turn.shrinks = True, self._shrinks
                self._under_way += 1

    def _watch_pause(self, loop: asyncio.AbstractEventLoop) -> None:
        """In the loop itself: whoever waits in it goes on when the pause is over."""
        pause_s = self._resumes_at - time.monotonic()
        here = any(turn.loop is loop for turn in self._waiting)
        if here and pause_s > 0 and loop not in self._watching:
            self._watching.add(loop)
            loop.call_later(pause_s, self._pause_over, loop)

    # -- in an event loop -----------------------------------------------------------------------

    def _pause_over(self, loop: asyncio.AbstractEventLoop) -> None:
        self._watching.discard(loop)
        self._look_again(loop)

    def _look_again(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._lock:
            self._start_next()
            self._watch_pause(loop)


class Turn:
    """One question's place in the line: holds a place under way inside `async with`."""

    loop: asyncio.AbstractEventLoop
    woken: asyncio.Event

    def __init__(self, pace: Pace, number: int, patience: Patience, permit: Permit) -> None:
        self.number = number
        self.patience = patience
        self.permit = permit
        self.started = False
        self.shrinks = 0
        """How often the window had shrunk when it was sent."""
        self.times_limited = 0
        self.is_over = False
        """True where it was put off for as long as its patience goes."""
        self._pace = pace
        self._limited_since = 0.0

    def put_off(self, after_s: float | None, backoff_s: float) -> float:
        """The provider limits the rate. Seconds for which nobody is to ask."""
        now = time.monotonic()
        if not self.times_limited:
            self._limited_since = now
        self.times_limited += 1
        pause_s = backoff_s if after_s is None else after_s
        self.is_over = now - self._limited_since + pause_s > self.patience.limited_s
        # A wait that is not worth it must not be everybody's.
        return pause_s if pause_s <= self.patience.limited_s else backoff_s

    async def __aenter__(self) -> None:
        self.loop, self.woken = asyncio.get_running_loop(), asyncio.Event()
        await self._pace.enter(self)

    async def __aexit__(
        self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None
    ) -> None:
        self._pace.leave(self, error)


def _call(loop: asyncio.AbstractEventLoop, what: Callable[..., object], *arguments: object) -> bool:
    """False where the loop was closed: nobody waits in it any more."""
    try:
        loop.call_soon_threadsafe(what, *arguments)
    except RuntimeError:
        return False
    return True


_SALT = secrets.token_bytes(16)
_paces = WeakValueDictionary[tuple["Origin", bytes], Pace]()
"""For as long as a model uses them."""
_paces_lock = threading.Lock()


def pace_of(endpoint: Endpoint) -> Pace:
    """What all models of this process share that ask there with that key. The key is not kept."""
    key = endpoint.api_key.get_secret_value().encode()
    name = endpoint.origin, hashlib.blake2b(key, key=_SALT).digest()
    with _paces_lock:
        pace = _paces.get(name)
        if pace is None:
            _paces[name] = pace = Pace()
        return pace
