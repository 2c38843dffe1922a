"""How a run stopped that did not come to its end, as an event of its own."""

from __future__ import annotations

import asyncio

from kernel_generator.domain.errors import (
    BudgetSpent,
    InvalidInput,
    NeverAnswered,
    ProviderError,
    ReplyPending,
    SandboxError,
    ScriptExhausted,
    StoreError,
)
from kernel_generator.domain.events import RunStopped, StopKind

_KINDS: tuple[tuple[type[BaseException], StopKind], ...] = (
    (ProviderError, StopKind.PROVIDER),
    (NeverAnswered, StopKind.PROVIDER),
    (ScriptExhausted, StopKind.PROVIDER),
    (BudgetSpent, StopKind.BUDGET),
    (ReplyPending, StopKind.PENDING),
    (SandboxError, StopKind.DEVICE),
    (StoreError, StopKind.STORE),
    (InvalidInput, StopKind.INPUT),
    (asyncio.CancelledError, StopKind.INTERRUPTED),
    (KeyboardInterrupt, StopKind.INTERRUPTED),
)


def stop_kind(error: BaseException) -> StopKind:
    """What sort of thing stopped it."""
    return next((kind for of, kind in _KINDS if isinstance(error, of)), StopKind.FAULT)


def stopped(run_id: str, error: BaseException) -> RunStopped:
    """The event for a run that this ends."""
    kind = stop_kind(error)
    if kind is StopKind.INTERRUPTED:
        return RunStopped(run_id, "interrupted", kind)
    reason = str(error)
    if kind is StopKind.FAULT:
        reason = f"a fault of this program, {type(error).__name__}: {error}"
    return RunStopped(run_id, reason, kind)
