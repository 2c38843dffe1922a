"""Whether the GPU still answers after a candidate that ended badly."""

from __future__ import annotations

import threading

import torch

from kernel_generator.domain.errors import SandboxError

_LIMIT_S = 60.0
"""The driver takes seconds to end the kernels of a process that was killed."""


def wait_until_healthy() -> None:
    """Wait until a kernel of the judge's own runs through.

    A candidate's errors stay in its own context, which went with its process; a kernel of it that
    never ends keeps others waiting until the driver has ended it. Raises `SandboxError` where that
    does not happen: the GPU hangs, and nothing here can mend it.
    """
    answered = threading.Event()

    def ask() -> None:
        ones = torch.ones(256, device="cuda")
        if float(ones.sum()) == ones.numel():
            answered.set()

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_LIMIT_S)
    if not answered.is_set():
        raise SandboxError(
            f"the GPU has not answered for {_LIMIT_S:.0f} s after a candidate's failure: look at "
            "`nvidia-smi` and the system's log (Xid), and reset the GPU or restart the machine"
        )
