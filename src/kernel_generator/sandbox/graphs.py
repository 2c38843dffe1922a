"""Captures a call into a CUDA graph, as torch's notes on CUDA graphs prescribe.

Imported by the child only where it is asked for; the judge decides what a replay was worth.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

_WARM_CALLS = 3
"""Calls on a side stream before the capture, torch's own figure for what allocates or tunes."""


def capture(call: Callable[[], None]) -> Callable[[], None]:
    """Capture one call, after a few warm ones. What is returned launches it again.

    Raises what the call raises: the error that broke the capture, not the one of ending it.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_CALLS):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    cause: list[BaseException] = []
    try:
        with torch.cuda.graph(graph):
            try:
                call()
            except BaseException as error:
                cause.append(error)
                raise
    except BaseException as error:
        if cause and error is not cause[0]:
            # Ending a broken capture is an error too, which says nothing of why.
            raise cause[0] from None
        raise
    torch.cuda.synchronize()
    return graph.replay
