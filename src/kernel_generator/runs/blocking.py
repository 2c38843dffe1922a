"""Runs a coroutine to its end for a synchronous caller, inside a notebook's event loop too.

Ctrl-C cancels the work wherever it runs, so that what it has finished is kept and nothing goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

_T = TypeVar("_T")

_BEGIN_S = 5.0
"""Ctrl-C may come while the thread is being started; it begins within this time or not at all."""


def run_blocking(work: Coroutine[Any, Any, _T]) -> _T:
    """The result of `work`. Raises what it raises, and `KeyboardInterrupt` once it has stopped."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    return _in_a_thread(work)


def _in_a_thread(work: Coroutine[Any, Any, _T]) -> _T:
    results: list[_T] = []
    errors: list[BaseException] = []
    running: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = []
    begun = threading.Event()
    # Not Thread.join: interrupted once, it takes the thread for ended (Python 3.11).
    ended = threading.Event()

    async def watched() -> _T:
        task = asyncio.current_task()
        assert task is not None
        running.append((asyncio.get_running_loop(), task))
        begun.set()
        return await work

    def target() -> None:
        try:
            results.append(asyncio.run(watched()))
        except BaseException as caught:  # noqa: BLE001 - handed over to the calling thread
            errors.append(caught)
        finally:
            ended.set()

    thread = threading.Thread(target=target)
    try:
        thread.start()
        ended.wait()
    except KeyboardInterrupt:
        if begun.wait(_BEGIN_S):
            loop, task = running[0]
            with contextlib.suppress(RuntimeError):  # it has just ended by itself
                loop.call_soon_threadsafe(task.cancel)
            ended.wait()
        raise
    if errors:
        raise errors[0]
    return results[0]
