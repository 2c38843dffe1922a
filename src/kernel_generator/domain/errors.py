"""Every exception this package raises on purpose. Each message says what to do.

A failed kernel is never an exception (it is an `Outcome`); these are for bad input and for the
boundaries: provider, sandbox, trace set, store.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flashinfer_bench import Solution

    from kernel_generator.domain.attempt import Attempt


class KernelGeneratorError(Exception):
    """Base of all errors raised by this package."""


class InvalidInput(KernelGeneratorError):
    """A setting, path or name that the caller has to mend."""


class UnknownName(InvalidInput):
    """A definition, language, target or model that does not exist; offers the closest names."""

    def __init__(self, kind: str, name: str, choices: Sequence[str], where: str = "") -> None:
        """`where`: the file that was looked in."""
        close = difflib.get_close_matches(name.lower(), [c.lower() for c in choices], n=3)
        by_lower = {c.lower(): c for c in choices}
        if close:
            hint = "did you mean " + " or ".join(f"'{by_lower[c]}'" for c in close) + "?"
        elif choices:
            hint = "choose one of " + ", ".join(list(choices)[:12])
        else:
            hint = "there are none"
        looked = f"; looked in '{where}'" if where else ""
        super().__init__(f"unknown {kind} '{name}': {hint}{looked}")
        self.kind, self.name, self.choices, self.where = kind, name, tuple(choices), where

    def __reduce__(self) -> tuple[type[UnknownName], tuple[str, str, tuple[str, ...], str]]:
        """Pickled by what it was made of: an exception's own way keeps the message alone."""
        return UnknownName, (self.kind, self.name, self.choices, self.where)


class TraceSetError(InvalidInput):
    """A path that is not a trace set, or one that cannot be read or written."""


class NoWorkloads(InvalidInput):
    """A definition without any workload that can be run."""


class MissingKey(InvalidInput):
    """No API key was given for a model that needs one."""


class UnsupportedTarget(InvalidInput):
    """The installed toolchain cannot serve the target."""


class IsolationUnavailable(InvalidInput):
    """The isolation that was asked for cannot be had on this machine."""


class ReferenceFailed(InvalidInput):
    """The definition's own reference does not run here, so nothing can be judged against it."""


class ProviderError(KernelGeneratorError):
    """The model's provider did not answer usefully. Carries the attempts before it, oldest first.

    A model knows of no attempts: whoever drives the loop fills them in.
    """

    def __init__(self, message: str, attempts: Sequence[Attempt] = ()) -> None:
        super().__init__(message)
        self.attempts: tuple[Attempt, ...] = tuple(attempts)


class ProviderRefused(ProviderError):
    """The provider said no (401, 402, 403, 404): asking again without a change is pointless."""


class RequestRefused(ProviderRefused):
    """The provider said no to what this request asks (400, 413, 422): too long, say. It takes
    others of the same model."""


class ProviderUnavailable(ProviderError):
    """The provider could not be reached or kept failing after all retries."""


class ScriptExhausted(KernelGeneratorError):
    """A scripted model was asked more often than its script has replies."""


class SandboxError(KernelGeneratorError):
    """The sandbox itself failed; says nothing about the candidate."""


class DeviceLost(SandboxError):
    """The device, or the process that judges on it, is gone; says nothing about the candidate."""


class SaveFailed(KernelGeneratorError):
    """A result could not be written; nothing half-written is left behind."""


class StoreError(InvalidInput):
    """The store of runs cannot be read or written; what it holds stays as it is."""


class RunBusy(InvalidInput):
    """Another program moves the run forward."""


class ReplyPending(KernelGeneratorError):
    """The model is asked elsewhere, and its reply is not here yet: the run is suspended."""


class BudgetSpent(KernelGeneratorError):
    """A limit was reached before anything passed; the message says which. The run may go on later,
    with more."""


class NeverAnswered(KernelGeneratorError):
    """A stored run is asked for a reply that it does not have."""


class NoPassingSolution(KernelGeneratorError):
    """No version passed within the rounds. Carries every attempt, oldest first."""

    def __init__(self, message: str, attempts: Sequence[Attempt]) -> None:
        super().__init__(message)
        self.attempts: tuple[Attempt, ...] = tuple(attempts)


class IncompleteGeneration(KernelGeneratorError):
    """Fewer readable solutions than asked for. Carries those that could be read."""

    def __init__(
        self, message: str, solutions: Sequence[Solution], attempts: Sequence[Attempt]
    ) -> None:
        super().__init__(message)
        self.solutions: tuple[Solution, ...] = tuple(solutions)
        self.attempts: tuple[Attempt, ...] = tuple(attempts)
