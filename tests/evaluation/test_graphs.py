"""What is told of a call that cannot be captured into a CUDA graph."""

from __future__ import annotations

import pytest

from kernel_generator.evaluation.graphs import error_of
from kernel_generator.sandbox.orders import Died, Failed, TimedOut
from kernel_generator.sandbox.wire import Fault

SYNCS = """Traceback (most recent call last):
  File "main.py", line 4, in run
    if x.sum().item() > 0:
torch.AcceleratorError: CUDA error: operation not permitted when stream is capturing
CUDA kernel errors might be asynchronously reported at some other API call.
For debugging consider passing CUDA_LAUNCH_BLOCKING=1
Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.
"""


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (
            Failed(Fault.RUN, SYNCS),
            "torch.AcceleratorError: CUDA error: operation not permitted when stream is capturing",
        ),
        (Failed(Fault.RUN, "Traceback:\nKeyboardInterrupt\n"), "KeyboardInterrupt"),
        (Failed(Fault.SHAPE, "returned 2 values, expected 1"), "returned 2 values, expected 1"),
        (Died(-11), "the process was killed by SIGSEGV"),
        (TimedOut(3.0), "a call took longer than 3 s"),
    ],
)
def test_the_line_that_names_the_error_is_told(answer: Failed | Died | TimedOut, told: str) -> None:
    assert error_of(answer) == told
