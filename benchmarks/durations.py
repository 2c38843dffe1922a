"""How long calls take in a plain process, without the judge: the truth that it is held against.

    python benchmarks/durations.py ORDER ANSWERS

`ORDER` is a JSON file written by `repeatability.py`: RMSNorm solutions, each with a number of
rows, called in turn `calls` times. `ANSWERS` gets a JSON line of microseconds for each of them, one
figure a call. On a GPU the figures are CUPTI's durations of the kernel (through `torch.profiler`),
with 256 MiB zeroed before each call so that L2 holds nothing of it; on a CPU they are the clock
around a call.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from flashinfer_bench.compile import BuilderRegistry
from flashinfer_bench.data import Definition, Solution
from flashinfer_bench.utils import dtype_str_to_torch_dtype

_FLUSHED_BYTES = 256 * 2**20
"""Several times the L2 of any GPU."""
_WARM_UP = 3

Call = Callable[[], None]


def main() -> None:
    """Run the order."""
    order = json.loads(Path(sys.argv[1]).read_text())
    definition = Definition.model_validate(order["definition"])
    calls = [
        _call(definition, Solution.model_validate(one["solution"]), one["rows"], order["device"])
        for one in order["cases"]
    ]
    for call in calls:
        for _ in range(_WARM_UP):
            call()
    if order["device"] == "cpu":
        found = _by_clock(calls, order["calls"])
    else:
        found = _by_cupti(calls, order["calls"], order["kernel"])
    Path(sys.argv[2]).write_text("".join(json.dumps(one) + "\n" for one in found))


def _call(definition: Definition, solution: Solution, rows: int, device: str) -> Call:
    runnable = BuilderRegistry.get_instance().build(definition, solution)
    dtype = dtype_str_to_torch_dtype(definition.inputs["hidden_states"].dtype)
    columns = definition.const_axes["hidden_size"]
    x = torch.randn(rows, columns, device=device).to(dtype)
    w = torch.randn(columns, device=device).to(dtype)
    y = torch.empty_like(x)

    def call() -> None:
        runnable(x, w, y)

    return call


def _by_clock(calls: list[Call], times: int) -> list[list[float]]:
    found: list[list[float]] = [[] for _ in calls]
    for _ in range(times):
        for figures, call in zip(found, calls, strict=True):
            began = time.perf_counter()
            call()
            figures.append((time.perf_counter() - began) * 1e6)
    return found


def _by_cupti(calls: list[Call], times: int, kernel: str) -> list[list[float]]:
    flushed = torch.empty(_FLUSHED_BYTES // 4, dtype=torch.int32, device="cuda")
    activities = [torch.profiler.ProfilerActivity.CUDA]
    # The first profile starts CUPTI, and its records may lack a call.
    with torch.profiler.profile(activities=activities):
        for call in calls:
            call()
        torch.cuda.synchronize()
    with torch.profiler.profile(activities=activities) as profile:
        for _ in range(times):
            for call in calls:
                flushed.zero_()
                call()
        torch.cuda.synchronize()
    spans = sorted(
        (event.time_range.start, event.time_range.elapsed_us())
        for event in profile.events() or []
        if event.device_type.name == "CUDA" and event.name.startswith(kernel)
    )
    if len(spans) != times * len(calls):
        raise RuntimeError(
            f"CUPTI recorded {len(spans)} runs of '{kernel}', {times * len(calls)} were made"
        )
    return [[span for _, span in spans[i :: len(calls)]] for i in range(len(calls))]


if __name__ == "__main__":
    main()
