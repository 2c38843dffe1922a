"""A coroutine run to its end for a synchronous caller; Ctrl-C stops it wherever it runs."""

from __future__ import annotations

import asyncio
import signal
import threading

import pytest

from kernel_generator.runs.blocking import run_blocking


def test_ctrl_c_inside_a_running_event_loop_stops_the_work_too() -> None:
    main, seen = threading.main_thread().ident, []

    async def work() -> None:
        try:
            assert main is not None
            signal.pthread_kill(main, signal.SIGINT)
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    async def notebook() -> None:
        run_blocking(work())

    loop = asyncio.new_event_loop()
    try:
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(notebook())
    finally:
        loop.close()
    assert seen == ["cancelled"]
