"""The table of tolerances against its mutants, family by family.

How the table's values were found: for every variant the two figures that decide are measured, the
largest |y - r| / (|r| + rms of row) and the relative L2 error; a failure prints them, and
`python -m tests.evaluation.test_mutants` prints all. Each entry lies between what its honest
variants need and what its mutants reach in at least one of the two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kernel_generator.evaluation.compare import compare
from kernel_generator.evaluation.tolerance import _TABLE
from tests.evaluation.specimens import SPECIMENS

if TYPE_CHECKING:
    from tests.evaluation.specimens import Outputs, Specimen


@pytest.fixture(scope="module", params=SPECIMENS)
def specimen(request: pytest.FixtureRequest) -> Specimen:
    made = SPECIMENS[request.param]()
    entries_of(request.param, made)
    return made


_entries: dict[str, set[int]] = {}


def entries_of(name: str, made: Specimen | None = None) -> set[int]:
    """The table's entries that a specimen uses. What was made once is not made again."""
    if name not in _entries:
        made = made or SPECIMENS[name]()
        _entries[name] = {id(made.tolerance(d)) for d in made.dtypes if d.is_floating_point}
    return _entries[name]


def verdicts(specimen: Specimen, variant: Outputs) -> list[bool]:
    """By output: whether it is accepted."""
    return [
        compare("y", got, expected, specimen.tolerance(got.dtype)).mismatch is None
        for got, expected in zip(specimen.written(variant), specimen.expected, strict=True)
    ]


def margins(specimen: Specimen, variants: dict[str, Outputs]) -> str:
    """The figures behind the verdicts, with the table's entries."""
    lines: list[str] = []
    for name, variant in variants.items():
        lines.append(name)
        for got, expected in zip(specimen.written(variant), specimen.expected, strict=True):
            if not got.dtype.is_floating_point:
                lines.append(f"    {int((got != expected).sum())} of {got.numel()} differ")
                continue
            y, r = (t.double().nan_to_num(posinf=0.0, neginf=0.0) for t in (got, expected))
            row = r.square().mean(dim=-1, keepdim=True).sqrt()
            worst = ((y - r).abs() / (r.abs() + row).clamp_min(1e-300)).max()
            limit = specimen.tolerance(got.dtype)
            lines.append(
                f"    largest {worst:.1e} (a {limit.relative}, b {limit.of_row_rms}), "
                f"L2 {(y - r).norm() / r.norm():.1e} (l {limit.relative_l2})"
            )
    return "\n".join(lines)


def test_the_plain_reference_is_accepted(specimen: Specimen) -> None:
    returned = specimen.reference(*specimen.inputs)
    outputs = list(returned) if isinstance(returned, tuple) else [returned]
    assert all(verdicts(specimen, outputs)), margins(specimen, {"reference": outputs})


def test_honest_variants_are_accepted(specimen: Specimen) -> None:
    refused = {n: v for n, v in specimen.honest.items() if not all(verdicts(specimen, v))}
    assert not refused, margins(specimen, refused)


def test_mutants_are_rejected(specimen: Specimen) -> None:
    missed = {n: v for n, v in specimen.mutants.items() if all(verdicts(specimen, v))}
    assert not missed, margins(specimen, missed)


def test_every_entry_of_the_table_has_specimens_of_its_own() -> None:
    entries = {id(t) for by_family in _TABLE.values() for t in by_family.values()}
    assert set().union(*map(entries_of, SPECIMENS)) == entries


if __name__ == "__main__":
    for name, make in SPECIMENS.items():
        made = make()
        print(f"== {name}", "-- honest", margins(made, made.honest), sep="\n")
        print("-- mutants", margins(made, made.mutants), sep="\n")
