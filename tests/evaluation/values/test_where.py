"""Values stay where they were drawn, and making others reads nothing back from there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kernel_generator.evaluation.values import CPU, Where, draw, edge_workloads, vary, vary_many
from tests.evaluation.values import attention, defining, families

if TYPE_CHECKING:
    from flashinfer_bench import Definition, Workload

READING = {"_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "_unique2"}
"""Operations whose result Python, or a shape, waits for."""
NORM = defining.defined(
    "norm",
    "rmsnorm",
    {"batch_size": None, "hidden_size": 64},
    {"hidden_states": "bfloat16 batch_size hidden_size", "weight": "bfloat16 hidden_size"},
    {"output": "bfloat16 batch_size hidden_size"},
    "\ndef run(hidden_states, weight):\n    return hidden_states\n",
)


class Watch(TorchDispatchMode):
    """Notes operations but single random integers on the CPU, which Python decides by."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[str] = []
        self.reads: list[str] = []
        self._choices: list[torch.Tensor] = []

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        name = func.overloadpacket.__name__
        made = func(*args, **(kwargs or {}))
        chosen = any(args and args[0] is choice for choice in self._choices)
        if name == "detach":
            # What `int` looks at.
            self._choices += [made] if chosen else []
        elif name == "randint" and made.dim() == 0:
            self._choices.append(made)
        elif not chosen:
            self.operations.append(name)
            self.reads += [name] if name in READING else []
        return made


def watched(definition: Definition, which: Workload) -> Watch:
    """What a variation does where nothing is pooled."""
    generator = torch.Generator().manual_seed(1)
    values = draw(definition, which, None, generator, where=defining.DIRECT)
    with Watch() as watch:
        vary(definition, which, values, generator)
    return watch


def test_reading_back_is_noticed() -> None:
    with Watch() as watch:
        int(torch.ones(3).sum())
    assert watch.reads == ["_local_scalar_dense"]


@pytest.mark.parametrize("name", sorted(families.FAMILIES))
def test_a_variation_reads_nothing_back(name: str) -> None:
    definition = families.FAMILIES[name]
    for which in edge_workloads(definition, ()):
        assert watched(definition, which).reads == [], which.uuid


@pytest.mark.parametrize(
    ("definition", "axes", "most"),
    [
        (NORM, {"batch_size": 170}, 2),
        (
            attention.MLA_DECODE,
            {"batch_size": 8, "num_pages": 900, "len_indptr": 9, "num_kv_indices": 400},
            32,
        ),
    ],
    ids=["norm", "decode"],
)
def test_a_variation_takes_few_operations(
    definition: Definition, axes: dict[str, int], most: int
) -> None:
    watch = watched(definition, defining.workload(definition, **axes))
    assert len(watch.operations) <= most, watch.operations


def test_a_gpu_is_filled_directly_and_the_cpu_from_pools() -> None:
    assert CPU.pooled
    assert Where.on("cuda:1") == Where(torch.device("cuda", 1), pooled=False)


@defining.EITHER_WAY
def test_a_variation_is_made_where_its_values_were_drawn(where: Where) -> None:
    which = defining.workload(NORM, batch_size=2)
    values = draw(NORM, which, None, torch.Generator(), where=where)
    assert vary(NORM, which, values, torch.Generator()).where is values.where is where


@pytest.mark.parametrize(
    ("where", "some_are_copies"),
    [(CPU, True), (defining.DIRECT, False)],
    ids=["pooled", "direct"],
)
def test_large_tensors_repeat_numbers_only_where_pooled(
    where: Where, some_are_copies: bool
) -> None:
    which = defining.workload(NORM, batch_size=40_000)
    values = draw(NORM, which, None, torch.Generator(), where=where)
    varied = vary(NORM, which, values, torch.Generator()).tensors["hidden_states"]
    rows = varied.view(torch.int64)
    # Rotated copies of a row have the same sum of words.
    assert (rows.sum(dim=1).unique().numel() < len(rows)) == some_are_copies


def test_many_sets_are_made_at_once_and_differ() -> None:
    which = defining.workload(NORM, batch_size=5)
    values = draw(NORM, which, None, torch.Generator(), where=defining.DIRECT)
    with Watch() as watch:
        many = vary_many(NORM, which, values, torch.Generator(), 8)
    assert many is not None
    assert {name: tuple(made.shape) for name, made in many.items()} == {
        "hidden_states": (8, 5, 64),
        "weight": (8, 64),
    }
    for made in many.values():
        assert made.reshape(8, -1).unique(dim=0).shape[0] == 8
    assert len(watch.operations) <= 2, watch.operations


@pytest.mark.parametrize("name", sorted(families.FAMILIES))
def test_many_sets_at_once_are_laid_out_as_each_would_be(name: str) -> None:
    definition = families.FAMILIES[name]
    for which in edge_workloads(definition, ()):
        values = draw(definition, which, None, torch.Generator(), where=defining.DIRECT)
        many = vary_many(definition, which, values, torch.Generator(), 3)
        if many is not None:
            assert {n: (m[0].shape, m.dtype) for n, m in many.items()} == {
                n: (t.shape, t.dtype) for n, t in values.tensors.items()
            }


def test_sets_with_an_index_structure_or_from_a_pool_are_made_one_by_one() -> None:
    paged = defining.workload(
        attention.MLA_DECODE, batch_size=8, num_pages=900, len_indptr=9, num_kv_indices=400
    )
    values = draw(attention.MLA_DECODE, paged, None, torch.Generator(), where=defining.DIRECT)
    assert vary_many(attention.MLA_DECODE, paged, values, torch.Generator(), 2) is None
    which = defining.workload(NORM, batch_size=2)
    values = draw(NORM, which, None, torch.Generator(), where=CPU)
    assert vary_many(NORM, which, values, torch.Generator(), 2) is None
