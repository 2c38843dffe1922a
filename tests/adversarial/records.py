"""The records of the corpus: an idea, the source that carries it out, and how it must end.

A cheat that wants to get at something gives up, by an error or by zeros, where it does not get at
it: a result means that it did.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from kernel_generator.domain.outcome import Outcome

WRONG = frozenset({Outcome.WRONG_VALUES})
UNSTEADY = frozenset({Outcome.WRONG_VALUES, Outcome.NOT_REPRODUCIBLE})
NOTHING_FOUND = frozenset({Outcome.RUNTIME_ERROR})


FOUND_OUT = UNSTEADY | {Outcome.TAMPERED, Outcome.TIMING_UNTRUSTED, Outcome.INPUT_MODIFIED}
"""A cheat that fails in another way was not tried: its source is out of date."""


@dataclass(frozen=True)
class Rejected:
    """Ends as one of these outcomes."""

    outcomes: frozenset[Outcome]


@dataclass(frozen=True)
class Neutralised:
    """Passes, credited no more than its honest twin; being found out is as good."""

    twin: str = ""
    """Name of the honest case that does the same work; empty: the definition's reference."""
    found_out: frozenset[Outcome] = FOUND_OUT


@dataclass(frozen=True)
class Labelled:
    """Passes, and a label that contains these words says what it did."""

    words: str


Expectation = Rejected | Neutralised | Labelled


@dataclass(frozen=True)
class Case:
    """What both kinds of record have."""

    name: str
    idea: str
    """One sentence."""
    definition: str
    source: str
    language: str = "python"
    device: str = "any"
    """'any': judged on a CPU, and on a GPU where there is one; 'cpu', 'cuda': there only. C++ is
    judged on a CPU wherever it is."""
    passing: bool = False
    """It is given its outputs (destination passing)."""
    certified: bool = field(default=False, kw_only=True)
    """Its credit is that of a certification: in the short profile it might have more."""
    quick: bool = field(default=False, kw_only=True)
    """Judged in the short run of the tests too."""


@dataclass(frozen=True)
class Cheat(Case):
    """A cheat or a bug."""

    ends: Expectation = field(kw_only=True)
    stopped_by: str = field(kw_only=True)
    """The check that stops it, as the table of docs/trust.md names it."""
    contained: bool = field(default=False, kw_only=True)
    """Does harm without a sandbox: never run but at isolation level 'strict'."""


@dataclass(frozen=True)
class Honest(Case):
    """An unusual solution that must not be turned away."""

    label: str = field(default="", kw_only=True)
    """Words of a label that it must carry; empty: any labels will do."""
