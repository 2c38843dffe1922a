"""How fast a workload can be: each family by a hand-computed example, then what holds for all.

bfloat16 products pass at 800 TFLOP/s (shown) and at most 1.2 times 989 (refusing).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel_generator.domain.evaluation import Floors
from kernel_generator.domain.target import TARGETS
from kernel_generator.evaluation.floors import find_floors, least_of
from kernel_generator.evaluation.inputs import plan_call
from kernel_generator.evaluation.values import draw, edge_workloads
from tests.adversarial.definitions import bundled
from tests.evaluation.floored import H100, found, ints
from tests.evaluation.judging import DOUBLE
from tests.evaluation.values import attention, families
from tests.evaluation.values.defining import defined, with_scalars, workload

if TYPE_CHECKING:
    from flashinfer_bench import Definition, Workload

    from kernel_generator.domain.target import Target

PAGED, RAGGED, NORM, GEMM, FUSED, ROPE, SILU, ROUTING, SAMPLING = (
    bundled().definitions[name]
    for name in (
        "gqa_paged_decode_h8_kv2_d64_ps16",
        "gqa_ragged_prefill_causal_h8_kv2_d64",
        "rmsnorm_h2048",
        "gemm_n1024_k1024",
        "fused_add_rmsnorm_h1536",
        "rope_neox_d64",
        "silu_and_mul_i2816",
        "moe_topk_routing_e64_k6",
        "top_k_top_p_sampling_v32000",
    )
)


class TestWholeInputs:
    def test_a_norm_reads_rows_and_weights_and_writes_rows(self) -> None:
        one = found(NORM, workload(NORM, batch_size=10))
        rows, weight = 10 * 2048 * 2, 2048 * 2
        assert one.moved == 2 * rows + weight
        assert one.compulsory == rows + weight

    def test_a_fused_norm_reads_and_writes_two_tensors(self) -> None:
        one = found(FUSED, workload(FUSED, batch_size=10))
        rows, weight = 10 * 1536 * 2, 1536 * 2
        assert (one.moved, one.compulsory) == (4 * rows + weight, 2 * rows + weight)

    def test_an_activation_reads_both_halves(self) -> None:
        one = found(SILU, workload(SILU, num_tokens=10))
        assert (one.moved, one.compulsory) == (10 * 2816 * 2 * 3, 10 * 2816 * 2 * 2)

    def test_an_input_that_the_reference_only_asks_for_its_shape_is_not_read(self) -> None:
        definition = defined(
            "scaled_norm",
            "rmsnorm",
            {"rows": None, "width": 64},
            {"x": "float32 rows width", "like": "float32 rows width"},
            {"y": "float32 rows width"},
            "\ndef run(x, like):\n    assert like.sum() < 1\n    return x.view(like.shape)\n",
        )
        one = found(definition, workload(definition, rows=8))
        assert (one.moved, one.compulsory) == (2 * 8 * 64 * 4, 8 * 64 * 4)

    def test_choosing_experts_reads_all_logits(self) -> None:
        one = found(ROUTING, workload(ROUTING, num_tokens=10))
        assert one.compulsory == 10 * 64 * 4
        assert one.moved == 10 * 64 * 4 + 10 * 6 * (4 + 4)

    def test_a_rotation_reads_the_rows_of_its_table_that_positions_name(self) -> None:
        which = workload(ROPE, num_tokens=4, max_positions=4096)
        positions = ints(7, 7, 4095, 0, dtype=torch.int64)
        one = found(ROPE, which, {"positions": positions})
        tokens = 4 * (8 + 2) * 64 * 2
        assert one.moved == 2 * tokens + 3 * 64 * 4 + 4 * 8
        assert one.compulsory == tokens

    def test_an_embedding_reads_each_row_once(self) -> None:
        definition = defined(
            "embedding",
            "embedding",
            {"tokens": None, "vocab_size": 1000, "hidden": 64},
            {"input_ids": "int64 tokens", "weight": "bfloat16 vocab_size hidden"},
            {"y": "bfloat16 tokens hidden"},
            "\ndef run(input_ids, weight):\n    return weight[input_ids]\n",
        )
        ids = ints(5, 5, 9, dtype=torch.int64)
        one = found(definition, workload(definition, tokens=3), {"input_ids": ids})
        assert one.moved == 2 * 64 * 2 + 3 * 8 + 3 * 64 * 2
        assert one.floors.refusing_us is None

    def test_a_sampler_reads_its_probabilities_but_nothing_is_refused(self) -> None:
        # One that trusts the row's sum to be 1 can draw before it has seen the whole row.
        one = found(SAMPLING, workload(SAMPLING, batch_size=8))
        assert one.moved == 8 * 32000 * 4 + 8 * 4 + 8 * 4 + 8 * 8
        assert one.floors.refusing_us is None


class TestProducts:
    def test_a_small_one_is_bound_by_its_weights(self) -> None:
        one = found(GEMM, workload(GEMM, M=4), operations=2 * 4 * 1024 * 1024)
        assert one.moved == (4 + 1024 + 4) * 1024 * 2
        assert one.compulsory == (4 + 1024) * 1024 * 2

    def test_a_large_one_is_bound_by_its_operations(self) -> None:
        operations = 2 * 32768 * 1024 * 1024
        one = found(GEMM, workload(GEMM, M=32768), operations=operations)
        assert one.floors.shown_us == pytest.approx(operations / 800e6)
        assert one.floors.refusing_us == pytest.approx(operations / (1.2 * 989e6))

    def test_nothing_is_refused_for_operations_that_only_the_reference_makes(self) -> None:
        needed = 2 * 32768 * 1024 * 1024
        one = found(GEMM, workload(GEMM, M=32768), operations=10 * needed)
        assert one.floors.shown_us == pytest.approx(10 * needed / 800e6)
        assert one.floors.refusing_us == pytest.approx(needed / (1.2 * 989e6))

    def test_nothing_is_refused_for_operations_that_the_reference_does_not_make(self) -> None:
        which = workload(GEMM, M=32768)
        uncounted, fewer = found(GEMM, which), found(GEMM, which, operations=10)
        assert uncounted.compulsory == fewer.compulsory == (32768 + 1024) * 1024 * 2

    def test_what_is_added_is_touched_but_not_compulsory(self) -> None:
        definition = defined(
            "gemm_add",
            "gemm",
            {"M": None, "N": 64, "K": 32},
            {"A": "float16 M K", "B": "float16 N K", "C": "float16 M N"},
            {"D": "float16 M N"},
            "\ndef run(A, B, C):\n    return A @ B.T + 0.0 * C\n",
        )
        one = found(definition, workload(definition, M=8))
        assert one.moved == 2 * (8 * 32 + 64 * 32 + 2 * 8 * 64)
        assert one.compulsory == 2 * (8 * 32 + 64 * 32)

    def test_of_nothing_refuses_nothing(self) -> None:
        assert found(GEMM, workload(GEMM, M=0)).floors.refusing_us is None


class TestWhatIsNotKnown:
    def test_integers_of_unknown_meaning_leave_nothing(self) -> None:
        definition = families.UNKNOWN
        one = found(definition, workload(definition, rows=9), operations=100)
        assert one.floors == Floors()

    def test_an_operator_of_unknown_meaning_refuses_nothing(self) -> None:
        unknown = DOUBLE.model_copy(update={"op_type": "mystery"})
        one = found(unknown, workload(unknown, n=10))
        assert one.moved == 2 * 10 * 64 * 4
        assert one.floors.refusing_us is None

    def test_operations_of_a_reference_whose_indices_decide_are_not_shown(self) -> None:
        which = workload(ROPE, num_tokens=1, max_positions=8)
        positions = {"positions": ints(0, dtype=torch.int64)}
        assert found(ROPE, which, positions, operations=10**12) == found(ROPE, which, positions)


class TestTarget:
    WHICH = workload(NORM, batch_size=100_000)
    ROWS = 100_000 * 2048 * 2

    def floors(self, target: Target) -> Floors:
        return found(NORM, self.WHICH, target=target).floors

    def test_without_a_measured_copy_takes_a_share_of_the_peak(self) -> None:
        floors = self.floors(TARGETS["A100"])
        assert floors.shown_us == pytest.approx((2 * self.ROWS + 4096) / (0.9 * 2039e3))
        assert floors.refusing_us == pytest.approx((self.ROWS + 4096) / 2039e3)

    def test_refuses_by_the_fastest_product_of_that_name(self) -> None:
        faster = replace(H100, ceiling_gb_s=5000.0)
        assert self.floors(faster).refusing_us == pytest.approx((self.ROWS + 4096) / 5e6)
        assert self.floors(faster).shown_us == self.floors(H100).shown_us

    def test_refuses_by_the_fastest_way_to_accumulate(self) -> None:
        which, operations = workload(GEMM, M=32768), 2 * 32768 * 1024 * 1024
        floors = found(GEMM, which, operations=operations, target=TARGETS["RTX4090"]).floors
        assert floors.refusing_us == pytest.approx(operations / (1.2 * 330.3e6))
        assert floors.shown_us == pytest.approx(operations / (0.8 * 165.2e6))

    def test_a_processor_refuses_nothing_since_its_rates_are_measured(self) -> None:
        processor = replace(TARGETS["CPU"], bandwidth_gb_s=10.0, l2_mib=1.0)
        floors = self.floors(processor)
        assert floors.shown_us == pytest.approx((2 * self.ROWS + 4096) / 10e3)
        assert floors.refusing_us is None

    def test_what_a_processor_has_in_its_caches_is_no_bound(self) -> None:
        processor = replace(TARGETS["CPU"], bandwidth_gb_s=10.0, l2_mib=2000.0)
        assert self.floors(processor) == Floors()

    def test_without_rates_nothing_is_known(self) -> None:
        assert self.floors(TARGETS["CPU"]) == Floors()


class TestLeastOf:
    def test_takes_the_lowest_of_each(self) -> None:
        several = [Floors(shown_us=3.0, refusing_us=2.0), Floors(shown_us=2.5, refusing_us=2.2)]
        assert least_of(several) == Floors(shown_us=2.5, refusing_us=2.0)

    def test_refuses_nothing_where_one_set_of_inputs_does_not(self) -> None:
        several = [Floors(shown_us=3.0, refusing_us=2.0), Floors(shown_us=2.5)]
        assert least_of(several) == Floors(shown_us=2.5)

    def test_of_none_knows_nothing(self) -> None:
        assert least_of([]) == Floors()


EVERY = {**families.FAMILIES, **bundled().definitions}
PAGED_FAMILIES = {
    d.name: d
    for d in (
        PAGED,
        attention.MLA_DECODE,
        attention.GQA_PREFILL,
        attention.DSA_ATTENTION,
        attention.DSA_INDEXER,
        attention.TABLED,
    )
}


def edges(definition: Definition) -> list[Workload]:
    """With a softmax scale where there is one: a drawn one would be another in each plan."""
    given = {n: 0.1 for n in ("sm_scale", "bmm1_scale") if n in definition.inputs}
    return [with_scalars(which, **given) for which in edge_workloads(definition, ())]


def drawn(definition: Definition, which: Workload, seed: int) -> dict[str, torch.Tensor]:
    return draw(definition, which, None, torch.Generator().manual_seed(seed)).tensors


@pytest.mark.parametrize("name", EVERY)
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**30), operations=st.none() | st.integers(1, 10**15))
def test_refuses_no_more_than_is_shown(name: str, seed: int, operations: int | None) -> None:
    definition = EVERY[name]
    for which in edges(definition):
        floors = found(definition, which, drawn(definition, which, seed), operations).floors
        if floors.refusing_us is not None:
            assert floors.shown_us is not None
            assert 0 <= floors.refusing_us <= floors.shown_us


@pytest.mark.parametrize("name", PAGED_FAMILIES)
@given(seed=st.integers(0, 2**30), more=st.integers(1, 1000))
@settings(max_examples=3, deadline=None)
def test_pages_that_nothing_points_at_change_nothing(name: str, seed: int, more: int) -> None:
    definition = PAGED_FAMILIES[name]
    for which in edges(definition):
        tensors = drawn(definition, which, seed)
        indices = {n: t for n, t in tensors.items() if not t.is_floating_point() and t.dim() < 3}
        axes = {**which.axes, "num_pages": which.axes["num_pages"] + more}
        larger = which.model_copy(update={"axes": axes})
        before = find_floors(definition, which, plan_call(definition, which), indices, H100, None)
        after = find_floors(definition, larger, plan_call(definition, larger), indices, H100, None)
        assert before.shown_us is not None
        assert after == before


@pytest.mark.parametrize("name", EVERY)
def test_every_family_is_counted(name: str) -> None:
    definition = EVERY[name]
    for which in edges(definition):
        floors = found(definition, which, drawn(definition, which, 1)).floors
        # Of this one, how many experts are chosen is not told.
        assert (floors.shown_us is None) == (name == families.MOE.name)
