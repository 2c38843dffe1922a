"""Index structure is valid in every family, for any extents, in every draw and variation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel_generator.evaluation.inputs import InputsUnavailable
from kernel_generator.evaluation.values import Variant, Where, draw, edge_workloads, variants, vary
from tests.evaluation.values import attention, checks, defining, families

if TYPE_CHECKING:
    from flashinfer_bench import Definition

EXTENT = st.integers(1, 40)
SEED = st.integers(0, 2**32)
ANY_FAMILY = pytest.mark.parametrize("name", sorted(families.FAMILIES))


def generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def extents(definition: Definition, data: st.DataObject) -> dict[str, int]:
    """Any extents that a trace set could hold: offsets are one longer than their batch."""
    axes = {name: data.draw(EXTENT, label=name) for name in definition.var_axes}
    batch = axes.get("batch_size", axes.get("num_seqs", axes.get("len_indptr", 1)))
    for name in ("len_indptr", "len_cu_seqlens"):
        if name in axes:
            axes[name] = batch + 1
    if "state_cache_size" in axes:
        axes["state_cache_size"] += batch
    if "total_q" in axes:
        # Enough pages for every query to have a key.
        axes["num_kv_indices"] = axes["total_q"] + batch
    return axes


@defining.EITHER_WAY
@ANY_FAMILY
@settings(max_examples=25, deadline=None)
@given(data=st.data(), seed=SEED)
def test_a_draw_and_its_variation_fit_the_declaration(
    name: str, where: Where, data: st.DataObject, seed: int
) -> None:
    definition = families.FAMILIES[name]
    which = defining.workload(definition, **extents(definition, data))
    values = draw(definition, which, None, generator(seed), where=where)
    checks.assert_fits(definition, which, values)
    checks.assert_fits(definition, which, vary(definition, which, values, generator(seed + 1)))


@ANY_FAMILY
def test_edge_workloads_are_few_and_fit_the_definition(name: str) -> None:
    definition = families.FAMILIES[name]
    edges = edge_workloads(definition, ())
    assert 4 <= len(edges) <= 6
    for which in edges:
        assert set(which.axes) == set(definition.var_axes)
        values = draw(definition, which, None, generator())
        checks.assert_fits(definition, which, values)
        checks.assert_fits(definition, which, vary(definition, which, values, generator(2)))


@defining.EITHER_WAY
@ANY_FAMILY
def test_the_reference_answers_every_edge_workload(name: str, where: Where) -> None:
    definition = families.FAMILIES[name]
    for which in edge_workloads(definition, ()):
        values = draw(definition, which, None, generator(), where=where)
        for one in (values, vary(definition, which, values, generator(2))):
            for output in checks.run_reference(definition, one).values():
                assert not output.isnan().any(), which.uuid


@defining.EITHER_WAY
@ANY_FAMILY
def test_the_reference_stays_finite_in_every_variant(name: str, where: Where) -> None:
    definition = families.FAMILIES[name]
    which = next(w for w in edge_workloads(definition, ()) if w.uuid == "edge-skewed-37")
    for variant in variants(definition):
        values = draw(definition, which, None, generator(), variant, where)
        assert values.variant is variant
        for one in (values, vary(definition, which, values, generator(2))):
            for output in checks.run_reference(definition, one).values():
                assert output.isfinite().all(), variant


@defining.EITHER_WAY
@ANY_FAMILY
def test_the_same_generator_gives_the_same_values(name: str, where: Where) -> None:
    definition = families.FAMILIES[name]
    which = edge_workloads(definition, ())[2]
    first, second = (draw(definition, which, None, generator(5), where=where) for _ in range(2))
    assert first.scalars == second.scalars
    assert {n: checks.raw(t) for n, t in first.tensors.items()} == {
        n: checks.raw(t) for n, t in second.tensors.items()
    }
    moved = [vary(definition, which, first, generator(6)) for _ in range(2)]
    assert {n: checks.raw(t) for n, t in moved[0].tensors.items()} == {
        n: checks.raw(t) for n, t in moved[1].tensors.items()
    }


@defining.EITHER_WAY
@ANY_FAMILY
def test_a_variation_changes_every_float_and_leaves_the_original(name: str, where: Where) -> None:
    definition = families.FAMILIES[name]
    which = edge_workloads(definition, ())[3]
    values = draw(definition, which, None, generator(), where=where)
    before = {n: checks.raw(t) for n, t in values.tensors.items()}
    other = vary(definition, which, values, generator(2))
    assert {n: checks.raw(t) for n, t in values.tensors.items()} == before
    assert other.scalars == values.scalars
    for name_, tensor in other.tensors.items():
        if tensor.dtype.is_floating_point:
            assert checks.raw(tensor) != before[name_], name_


class TestEdges:
    def drawn(self, definition: Definition, uuid: str) -> dict[str, torch.Tensor]:
        which = next(w for w in edge_workloads(definition, ()) if w.uuid == uuid)
        return draw(definition, which, None, generator()).tensors

    def test_sizes_are_odd_and_around_powers_of_two(self) -> None:
        assert [w.axes["M"] for w in edge_workloads(families.GEMM, ())] == [1, 2, 7, 37, 127, 129]

    def test_some_sequences_are_empty(self) -> None:
        lengths = self.drawn(attention.MLA_DECODE, "edge-empty-7")["kv_indptr"].diff()
        assert int((lengths == 0).sum()) >= 2
        assert int((lengths > 0).sum()) >= 2

    def test_empty_sequences_have_neither_queries_nor_pages(self) -> None:
        tensors = self.drawn(attention.GQA_PREFILL, "edge-empty-7")
        empty = tensors["qo_indptr"].diff() == 0
        assert bool(empty.any())
        assert bool((tensors["kv_indptr"].diff()[empty] == 0).all())

    def test_a_sequence_of_a_single_page_is_there(self) -> None:
        assert self.drawn(attention.MLA_DECODE, "edge-single-1")["kv_indptr"].tolist() == [0, 1]

    def test_one_sequence_has_most_of_the_tokens(self) -> None:
        lengths = self.drawn(families.GDN_PREFILL, "edge-skewed-37")["cu_seqlens"].diff()
        assert int(lengths.max()) > 37 // 2

    def test_padding_slots_are_there_where_the_definition_speaks_of_them(self) -> None:
        slots = self.drawn(families.MAMBA, "edge-empty-7")["state_batch_indices"]
        assert 0 < int((slots == -1).sum()) < len(slots)

    def test_rows_without_a_token_are_there(self) -> None:
        chosen = self.drawn(attention.DSA_ATTENTION, "edge-empty-7")["sparse_indices"]
        assert bool((chosen == -1).all(dim=1).any())
        assert bool((chosen != -1).all(dim=1).any())

    def test_no_token_is_for_a_local_expert(self) -> None:
        which = next(w for w in edge_workloads(families.MOE, ()) if w.uuid == "edge-empty-7")
        values = draw(families.MOE, which, None, generator())
        assert checks.run_reference(families.MOE, values)["output"].count_nonzero() == 0

    def test_most_tokens_are_for_one_local_expert(self) -> None:
        which = next(w for w in edge_workloads(families.MOE, ()) if w.uuid == "edge-skewed-37")
        values = draw(families.MOE, which, None, generator())
        first = int(values.scalars["local_expert_offset"])
        favourite = values.tensors["routing_logits"].argmax(dim=1)
        assert favourite.unique().numel() == 1
        assert first <= int(favourite[0]) < first + 4

    def test_scalars_are_those_of_the_workloads(self) -> None:
        base = defining.with_scalars(
            defining.workload(attention.MLA_DECODE, batch_size=1), sm_scale=0.25
        )
        which = edge_workloads(attention.MLA_DECODE, [base])[0]
        assert draw(attention.MLA_DECODE, which, None, generator()).scalars == {"sm_scale": 0.25}

    def test_constraints_between_axes_are_kept(self) -> None:
        assert all(
            w.axes["max_num_pages"] * 8 >= 40 for w in edge_workloads(attention.DSA_INDEXER, ())
        )
        assert all(
            w.axes["state_cache_size"] >= w.axes["batch_size"]
            for w in edge_workloads(families.MAMBA, ())
        )

    def test_there_are_none_where_unknown_integers_were_captured(self) -> None:
        from flashinfer_bench.data import SafetensorsInput

        base = defining.workload(families.UNKNOWN, rows=3)
        assert edge_workloads(families.UNKNOWN, [base]) != ()
        captured = SafetensorsInput(path="x.safetensors", tensor_key="codes")
        base = base.model_copy(update={"inputs": {**base.inputs, "codes": captured}})
        assert edge_workloads(families.UNKNOWN, [base]) == ()


def test_a_workload_without_an_axis_is_refused() -> None:
    with pytest.raises(InputsUnavailable, match="gives no value for axis M"):
        draw(families.GEMM, defining.workload(families.GEMM), None, generator())


def test_routing_never_ties() -> None:
    which = defining.workload(families.MOE, seq_len=200)
    logits = draw(families.MOE, which, None, generator()).tensors["routing_logits"]
    for row in logits:
        assert row.unique().numel() == row.numel()


def test_equal_values_are_not_drawn_where_any_choice_among_ties_is_right() -> None:
    assert Variant.EQUAL not in variants(attention.DSA_INDEXER)
    assert Variant.EQUAL not in variants(families.SAMPLING)
    assert Variant.EQUAL in variants(families.GEMM)
