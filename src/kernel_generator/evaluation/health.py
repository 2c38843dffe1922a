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
    said: list[str] = []

    def ask() -> None:
        try:
            ones = torch.ones(256, device="cuda")
            said.append("" if float(ones.sum()) == ones.numel() else "it adds wrongly")
        except RuntimeError as error:
            said.append(str(error).partition("\n")[0])

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_LIMIT_S)
    problem = said[0] if said else f"it has not answered for {_LIMIT_S:.0f} s"
    if problem:
        raise SandboxError(
            f"the GPU is not usable after a candidate's failure ({problem}): look at `nvidia-smi` "
            "and the system's log (Xid), and reset the GPU or restart the machine"
        )
