"""The references of the bundled trace set answer everything that is drawn for them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from flashinfer_bench import TraceSet, Workload

from kernel_generator.evaluation.values import draw, edge_workloads, variants, vary
from tests.evaluation.values import checks

ROOT = Path(__file__).parents[3] / "examples" / "traceset"
TRACESET = TraceSet.from_path(str(ROOT))
ANY_DEFINITION = pytest.mark.parametrize("name", sorted(TRACESET.definitions))
MAY_BE_INFINITE = "lse"
"""The logarithm of an empty sequence's sum is minus infinity."""


def workloads(name: str) -> list[Workload]:
    found = [trace.workload for trace in TRACESET.workloads[name]]
    return sorted(found, key=lambda w: math.prod(w.axes.values()))


def answers(name: str, which: Workload, variant: str) -> None:
    definition = TRACESET.definitions[name]
    values = draw(definition, which, ROOT, torch.Generator().manual_seed(1), variant)
    assert values.synthetic == ()
    assert values.unvaried == ()
    for one in (values, vary(definition, which, values, torch.Generator().manual_seed(2))):
        checks.assert_fits(definition, which, one)
        for output, tensor in checks.run_reference(definition, one).items():
            assert not tensor.isnan().any(), (which.uuid, variant, output)
            if output != MAY_BE_INFINITE:
                assert tensor.isfinite().all(), (which.uuid, variant, output)


@ANY_DEFINITION
def test_its_smallest_workload_in_every_variant(name: str) -> None:
    for variant in variants(TRACESET.definitions[name]):
        answers(name, workloads(name)[0], variant)


@pytest.mark.slow
@ANY_DEFINITION
def test_its_edge_workloads_in_every_variant(name: str) -> None:
    definition = TRACESET.definitions[name]
    edges = edge_workloads(definition, workloads(name))
    assert len(edges) == 6
    for which in edges:
        for variant in variants(definition):
            answers(name, which, variant)


@pytest.mark.slow
@ANY_DEFINITION
def test_its_captured_workloads(name: str) -> None:
    for which in workloads(name)[:-1]:
        answers(name, which, "random")
