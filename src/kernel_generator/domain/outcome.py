"""What became of an attempt: one closed list, each with a meaning and an exported status.

Invariant: only `PASSED` and `CORRECT_NOT_MEASURED` may ever be returned or saved as a result.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Outcome(StrEnum):
    """How an attempt, or one workload of it, ended."""

    PASSED = "PASSED"
    CORRECT_NOT_MEASURED = "CORRECT_NOT_MEASURED"
    BUILT_NOT_RUN = "BUILT_NOT_RUN"
    NOT_RUN = "NOT_RUN"
    WRONG_SHAPE = "WRONG_SHAPE"
    WRONG_DTYPE = "WRONG_DTYPE"
    WRONG_VALUES = "WRONG_VALUES"
    NOT_REPRODUCIBLE = "NOT_REPRODUCIBLE"
    INPUT_MODIFIED = "INPUT_MODIFIED"
    OUT_OF_BOUNDS = "OUT_OF_BOUNDS"
    COMPILE_ERROR = "COMPILE_ERROR"
    RUNTIME_ERROR = "RUNTIME_ERROR"
    CRASHED = "CRASHED"
    TIMEOUT = "TIMEOUT"
    RESOURCE_LIMIT = "RESOURCE_LIMIT"
    TIMING_UNTRUSTED = "TIMING_UNTRUSTED"
    TAMPERED = "TAMPERED"
    MALFORMED_REPLY = "MALFORMED_REPLY"
    EMPTY_REPLY = "EMPTY_REPLY"
    TRUNCATED_REPLY = "TRUNCATED_REPLY"
    REFUSED_REPLY = "REFUSED_REPLY"

    @property
    def meaning(self) -> str:
        """One sentence for people."""
        return _TABLE[self].meaning

    @property
    def exported_status(self) -> str | None:
        """Value of `flashinfer_bench.EvaluationStatus` to export to, or None: not exported."""
        return _TABLE[self].status

    @property
    def is_result(self) -> bool:
        """True where a candidate with this outcome may be returned and saved."""
        return self in (Outcome.PASSED, Outcome.CORRECT_NOT_MEASURED)

    @property
    def is_candidates_fault(self) -> bool:
        """True where the author can mend it, so it is worth telling the model."""
        return self not in (
            Outcome.PASSED,
            Outcome.CORRECT_NOT_MEASURED,
            Outcome.BUILT_NOT_RUN,
            Outcome.NOT_RUN,
        )


class _Row(NamedTuple):
    meaning: str
    status: str | None


_TABLE: dict[Outcome, _Row] = {
    Outcome.PASSED: _Row("correct on every workload that was tried, and measured", "PASSED"),
    Outcome.CORRECT_NOT_MEASURED: _Row(
        "correct on every workload that was tried; no believable time can be had here", None
    ),
    Outcome.BUILT_NOT_RUN: _Row("compiled for the target, which is not on this machine", None),
    Outcome.NOT_RUN: _Row("could not be tried on this machine; says nothing of the kernel", None),
    Outcome.WRONG_SHAPE: _Row("an output has the wrong shape or count", "INCORRECT_SHAPE"),
    Outcome.WRONG_DTYPE: _Row("an output has the wrong dtype or type", "INCORRECT_DTYPE"),
    Outcome.WRONG_VALUES: _Row(
        "an output differs from the reference beyond tolerance", "INCORRECT_NUMERICAL"
    ),
    Outcome.NOT_REPRODUCIBLE: _Row(
        "the same inputs gave different bits the second time", "INCORRECT_NUMERICAL"
    ),
    Outcome.INPUT_MODIFIED: _Row("an input was changed by the call", "INCORRECT_NUMERICAL"),
    Outcome.OUT_OF_BOUNDS: _Row("memory outside the declared tensors was written", "RUNTIME_ERROR"),
    Outcome.COMPILE_ERROR: _Row("the source does not build or import", "COMPILE_ERROR"),
    Outcome.RUNTIME_ERROR: _Row("the call raised an error", "RUNTIME_ERROR"),
    Outcome.CRASHED: _Row("the process running the kernel died", "RUNTIME_ERROR"),
    Outcome.TIMEOUT: _Row("building or running took longer than allowed", "TIMEOUT"),
    Outcome.RESOURCE_LIMIT: _Row("memory or another bounded resource ran out", "RUNTIME_ERROR"),
    Outcome.TIMING_UNTRUSTED: _Row("the reported time contradicts the judge's clock", None),
    Outcome.TAMPERED: _Row("the kernel tried to influence its own judgement", None),
    Outcome.MALFORMED_REPLY: _Row("the reply holds no source files that can be read", None),
    Outcome.EMPTY_REPLY: _Row("the model answered with no text", None),
    Outcome.TRUNCATED_REPLY: _Row("the reply was cut by the length limit", None),
    Outcome.REFUSED_REPLY: _Row("the model refused to answer", None),
}
