"""What indices reach: attention, experts and recurrent layers, each by a hand-computed example."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import pytest
import torch
from flashinfer_bench.data import Definition, RandomInput, SafetensorsInput

from kernel_generator.domain.evaluation import Floors
from tests.adversarial.definitions import bundled
from tests.evaluation.floored import H100, found, ints, renamed
from tests.evaluation.values import attention, families
from tests.evaluation.values.defining import defined, with_scalars, workload

if TYPE_CHECKING:
    from flashinfer_bench import Workload

PAGED = bundled().definitions["gqa_paged_decode_h8_kv2_d64_ps16"]
RAGGED = bundled().definitions["gqa_ragged_prefill_causal_h8_kv2_d64"]


class TestPagedAttention:
    """Pages of 16 tokens; keys of 2 x 64 bfloat16 are 256 bytes a token, values as many."""

    INDICES: ClassVar = {
        "kv_indptr": ints(0, 2, 3),
        "kv_indices": ints(5, 2, 7),
        "kv_last_page_len": ints(4, 3),
    }

    @staticmethod
    def call(scale: float = 0.125, pages: int = 1000, **axes: int) -> Workload:
        sizes = {"batch_size": 2, "len_indptr": 3, "num_kv_indices": 3} | axes
        return with_scalars(workload(PAGED, num_pages=pages, **sizes), sm_scale=scale)

    def test_touches_tokens_of_its_sequences_only(self) -> None:
        one = found(PAGED, self.call(), self.INDICES)
        tokens, queries = (16 + 4) + 3, 2 * 8 * 64 * 2
        indices, log_sum_exp = (3 + 3 + 2) * 4, 2 * 8 * 4
        assert one.moved == tokens * 512 + 2 * queries + indices + log_sum_exp
        assert one.compulsory == tokens * 512 + queries

    def test_reads_a_shared_page_once_as_far_as_the_longer_sequence_goes(self) -> None:
        shared = self.INDICES | {"kv_indices": ints(5, 2, 5)}
        one = found(PAGED, self.call(), shared)
        assert one.compulsory == (16 + 4) * 512 + 2 * 8 * 64 * 2

    def test_an_empty_sequence_needs_no_query(self) -> None:
        empty = self.INDICES | {"kv_indptr": ints(0, 3, 3)}
        one = found(PAGED, self.call(), empty)
        assert one.compulsory == (16 + 16 + 4) * 512 + 8 * 64 * 2

    def test_values_are_not_compulsory_where_weights_may_vanish(self) -> None:
        peaked = found(PAGED, self.call(scale=1.0), self.INDICES)
        assert peaked.compulsory == 23 * 256 + 2 * 8 * 64 * 2
        assert peaked.moved == found(PAGED, self.call(), self.INDICES).moved

    def test_values_are_not_compulsory_for_captured_queries(self) -> None:
        which = self.call()
        stored = SafetensorsInput(path="q.safetensors", tensor_key="q")
        captured = which.model_copy(update={"inputs": {**which.inputs, "q": stored}})
        assert found(PAGED, captured, self.INDICES).compulsory == 23 * 256 + 2 * 8 * 64 * 2

    def test_of_one_workload_with_9316_pages_counts_its_73(self) -> None:
        which = self.call(pages=9316, batch_size=1, len_indptr=2, num_kv_indices=73)
        indices = {
            "kv_indptr": ints(0, 73),
            "kv_indices": torch.arange(73, dtype=torch.int32) * 100,
            "kv_last_page_len": ints(16),
        }
        assert found(PAGED, which, indices).compulsory == 73 * 16 * 512 + 8 * 64 * 2

    def test_last_pages_of_unknown_fill_count_whole_as_shown_and_by_one_token_as_refused(
        self,
    ) -> None:
        definition = defined(
            "gqa_paged_no_lengths",
            "gqa_paged",
            {
                "batch_size": None,
                "num_pages": None,
                "len_indptr": None,
                "num_kv_indices": None,
                "page_size": 8,
            },
            {
                "q": "float16 batch_size",
                "k_cache": "float16 num_pages page_size",
                "v_cache": "float16 num_pages page_size",
                "kv_indptr": "int32 len_indptr",
                "kv_indices": "int32 num_kv_indices",
            },
            {"output": "float16 batch_size", "lse": "float32 batch_size"},
            "\ndef run(q, k_cache, v_cache, kv_indptr, kv_indices):\n"
            "    return attend(q, k_cache, v_cache, kv_indptr, kv_indices)\n",
        )
        which = workload(definition, batch_size=1, num_pages=9, len_indptr=2, num_kv_indices=2)
        one = found(definition, which, {"kv_indptr": ints(0, 2), "kv_indices": ints(3, 4)})
        assert one.moved == 16 * 2 * 2 + 2 + 2 * 4 + 2 * 4 + 2 + 4
        # Without a scale nothing is known of the weights, so only keys are compulsory.
        assert one.compulsory == 9 * 2 + 2

    def test_a_prefill_without_log_sum_exp_needs_no_key_that_is_alone(self) -> None:
        definition = attention.MLA_RAGGED
        which = workload(definition, total_tokens=3, len_indptr=3)
        one = found(definition, with_scalars(which, sm_scale=0.2), {"seq_indptr": ints(0, 1, 3)})
        # Sequences of one and of two tokens: of the second, both keys and values and one query.
        assert one.compulsory == 2 * 2 * (24 + 16) * 2 + 2 * 24 * 2

    def test_latent_keys_are_read_once_for_keys_and_values(self) -> None:
        definition = attention.MLA_DECODE
        which = workload(definition, batch_size=1, num_pages=99, len_indptr=2, num_kv_indices=5)
        tensors = {"kv_indptr": ints(0, 5), "kv_indices": ints(1, 2, 3, 5, 8)}
        one = found(definition, which, tensors)
        assert one.compulsory == 5 * (32 + 8) * 2 + 4 * (32 + 8) * 2

    def test_a_page_table_is_read_as_far_as_lengths_go(self) -> None:
        definition = attention.TABLED
        which = workload(definition, batch_size=2, max_pages_per_seq=50, num_pages=100)
        table = torch.arange(100, dtype=torch.int32).view(2, 50)
        one = found(definition, which, {"block_tables": table, "seq_lens": ints(6, 1)})
        assert one.moved == 7 * 2 * 2 * 16 * 2 + 3 * 4 + 2 * 4 + 2 * (2 * 2 * 16 * 2)

    def test_sparse_attention_reads_each_chosen_token_once(self) -> None:
        definition = attention.DSA_ATTENTION
        chosen = torch.full((2, 48), -1, dtype=torch.int32)
        chosen[0, :3], chosen[1, :2] = ints(4, 40, 44), ints(40, 5)
        which = workload(definition, num_tokens=2, num_pages=4)
        one = found(definition, which, {"sparse_indices": chosen})
        query, latent = 4 * (32 + 8) * 2, (32 + 8) * 2
        assert one.compulsory == 4 * latent + 2 * query
        assert one.moved == 4 * latent + 2 * query + 2 * 48 * 4 + 2 * 4 * 32 * 2

    def test_an_indexer_need_not_look_at_what_is_chosen_anyhow(self) -> None:
        definition = attention.DSA_INDEXER
        which = workload(definition, batch_size=2, max_num_pages=10, num_pages=20)
        table = torch.arange(20, dtype=torch.int32).view(2, 10)
        one = found(definition, which, {"block_table": table, "seq_lens": ints(40, 41)})
        # 40 tokens are chosen: only of the sequence of 41 do keys, query and weights matter.
        assert one.compulsory == 41 * 20 + 4 * 16 + 4 * 4

    def test_a_tensor_of_no_axes_is_read_whole(self) -> None:
        inputs = {n: i.model_dump(mode="json") for n, i in PAGED.inputs.items()}
        inputs["k_scale"] = {"shape": [], "dtype": "float32"}
        reference = PAGED.reference.replace("sm_scale):", "sm_scale, k_scale):")
        fields = {"inputs": inputs, "reference": f"{reference}\n    return k_scale\n"}
        scaled = Definition.model_validate(PAGED.model_dump(mode="json") | fields)
        which = self.call()
        given = {**which.inputs, "k_scale": RandomInput()}
        one = found(scaled, which.model_copy(update={"inputs": given}), self.INDICES)
        plain = found(PAGED, which, self.INDICES)
        assert one.moved is not None and plain.moved is not None
        assert (one.moved - plain.moved, one.compulsory) == (4, plain.compulsory)

    def test_offsets_that_do_not_rise_tell_nothing(self) -> None:
        broken = self.INDICES | {"kv_indptr": ints(0, 3, 2)}
        assert found(PAGED, self.call(), broken).floors == Floors()

    def test_pages_beyond_the_cache_tell_nothing(self) -> None:
        assert found(PAGED, self.call(pages=7), self.INDICES).floors == Floors()

    def test_a_sliding_window_tells_nothing(self) -> None:
        sliding = renamed(PAGED, "gqa_paged_decode_sliding")
        assert found(sliding, self.call(), self.INDICES).floors == Floors()

    def test_indices_that_are_not_given_tell_nothing(self) -> None:
        assert found(PAGED, self.call()).floors == Floors()


class TestRaggedAttention:
    @staticmethod
    def call(total_q: int, total_kv: int) -> Workload:
        which = workload(RAGGED, len_indptr=3, total_q=total_q, total_kv=total_kv)
        return with_scalars(which, sm_scale=0.125)

    def test_reads_keys_of_sequences_that_have_queries(self) -> None:
        offsets = {"qo_indptr": ints(0, 2, 2), "kv_indptr": ints(0, 3, 10)}
        one = found(RAGGED, self.call(2, 10), offsets)
        assert one.compulsory == 3 * 512 + 2 * 8 * 64 * 2
        assert one.moved == 3 * 512 + 2 * (8 * 64 * 2) * 2 + 2 * 8 * 4 + 6 * 4

    def test_multiplies_what_the_causal_mask_leaves(self) -> None:
        offsets = {"qo_indptr": ints(0, 4096, 4096), "kv_indptr": ints(0, 4096, 4096)}
        one = found(RAGGED, self.call(4096, 4096), offsets)
        pairs = 4096 * 4097 // 2
        assert one.operations == pytest.approx(2 * pairs * 8 * (64 + 64))

    def test_queries_before_the_first_key_see_nothing(self) -> None:
        offsets = {"qo_indptr": ints(0, 5, 5), "kv_indptr": ints(0, 3, 3)}
        assert found(RAGGED, self.call(5, 3), offsets).compulsory == 3 * 512 + 3 * 8 * 64 * 2


class TestExperts:
    """Experts 8 to 11 of 32 are here: 256 x 256 and 256 x 128 bytes each, and 6 float32 scales."""

    WEIGHTS = 256 * 256 + 256 * 128
    ROUTED = renamed(families.MOE, "moe_topk1")

    @staticmethod
    def logits(*chosen: int) -> torch.Tensor:
        return torch.nn.functional.one_hot(torch.tensor(chosen), 32).float()

    def moved(self, definition: Definition, logits: torch.Tensor) -> int | None:
        which = workload(definition, seq_len=len(logits))
        which = with_scalars(which, local_expert_offset=8, routed_scaling_factor=2.5)
        bias = torch.zeros(32, dtype=torch.bfloat16)
        one = found(definition, which, {"routing_logits": logits, "routing_bias": bias})
        assert one.floors.refusing_us is None
        return one.moved

    def expected(self, tokens: int, local_tokens: int, experts: int) -> int:
        whole = tokens * (32 * 4 + 256 * 2) + 32 * 2
        return whole + experts * (self.WEIGHTS + 6 * 4) + local_tokens * (256 + 2 * 4)

    def test_touches_weights_of_the_experts_that_tokens_are_sent_to(self) -> None:
        assert self.moved(self.ROUTED, self.logits(9, 9, 30)) == self.expected(3, 2, 1)
        assert self.moved(self.ROUTED, self.logits(8, 9, 30)) == self.expected(3, 2, 2)

    def test_touches_none_where_all_tokens_go_elsewhere(self) -> None:
        assert self.moved(self.ROUTED, self.logits(1, 2, 30)) == self.expected(3, 0, 0)

    def test_chooses_within_the_best_groups(self) -> None:
        # The best expert is 0, but the best pair of a group of 8 is that of 8 and 9.
        logits = 4.0 * self.logits(0) + 3.0 * self.logits(8) + 3.0 * self.logits(9) - 2.0
        grouped = renamed(families.MOE, "moe_topk2_ng4_kg1")
        assert self.moved(grouped, logits) == self.expected(1, 1, 2)
        anywhere = renamed(families.MOE, "moe_topk2")
        assert self.moved(anywhere, logits) == self.expected(1, 1, 1)

    def test_multiplies_each_token_with_its_experts_only(self) -> None:
        logits = self.logits(*[9] * 100_000)
        which = with_scalars(workload(self.ROUTED, seq_len=100_000), local_expert_offset=8)
        tensors = {"routing_logits": logits, "routing_bias": torch.zeros(32).bfloat16()}
        one = found(self.ROUTED, which, tensors, target=replace(H100, copy_gb_s=1e9))
        assert one.floors.shown_us == pytest.approx(2 * 1e5 * self.WEIGHTS / (0.8 * 1979e6))

    def test_unknown_choice_tells_nothing(self) -> None:
        assert self.moved(families.MOE, self.logits(9)) is None

    def test_reads_the_experts_of_tokens_that_were_sent_before(self) -> None:
        definition = defined(
            "moe_pre_routed",
            "moe",
            {"tokens": None, "num_experts": 16, "top_k": 2, "hidden": 64},
            {
                "x": "bfloat16 tokens hidden",
                "topk_ids": "int32 tokens top_k",
                "topk_weights": "float32 tokens top_k",
                "w1_weight": "bfloat16 num_experts hidden hidden",
            },
            {"output": "bfloat16 tokens hidden"},
            "\ndef run(x, topk_ids, topk_weights, w1_weight):\n"
            "    return (w1_weight[topk_ids] @ x[:, None, :, None] * topk_weights).sum(1)\n",
        )
        ids = torch.tensor([[3, 5], [5, 3]], dtype=torch.int32)
        one = found(definition, workload(definition, tokens=2), {"topk_ids": ids})
        assert one.moved == 2 * 64 * 64 * 2 + 2 * (2 * 64 * 2) + 2 * 2 * (4 + 4)


class TestRecurrent:
    def test_a_decode_step_reads_all_state(self) -> None:
        definition = families.GDN_DECODE
        one = found(definition, workload(definition, batch_size=3))
        state, rows = 4 * 16 * 16 * 4, (2 * 2 * 16 + 4 * 16 + 4 + 4) * 2
        heads = 4 * (4 + 4)
        assert one.compulsory == 3 * (state + rows) + heads
        assert one.moved == 3 * (2 * state + rows + 4 * 16 * 2) + heads

    def test_a_prefill_reads_states_of_sequences_that_have_tokens(self) -> None:
        definition = families.GDN_PREFILL
        which = workload(definition, total_seq_len=5, num_seqs=3, len_cu_seqlens=4)
        one = found(definition, which, {"cu_seqlens": ints(0, 5, 5, 5, dtype=torch.int64)})
        state, rows = 2 * 8 * 8 * 4, 3 * 2 * 8 * 2 + 2 * 2 * 4
        assert one.compulsory == state + 5 * rows
        # The states of the others are copied to the output.
        assert one.moved == 3 * 2 * state + 5 * (rows + 2 * 8 * 2) + 4 * 8

    def test_a_state_pool_is_read_where_slots_are_in_use(self) -> None:
        definition = families.MAMBA
        without_pool = definition.model_copy(
            update={"outputs": {"output": definition.outputs["output"]}}
        )
        which = workload(without_pool, batch_size=3, state_cache_size=100)
        one = found(without_pool, which, {"state_batch_indices": ints(7, -1, 9)})
        state, parameters = 4 * 8 * 16 * 2, 4 * 8 * 16 * 4 + 2 * (4 * 8 * 2)
        row = 2 * (4 * 8 * 2) + 2 * (2 * 16 * 2)
        assert one.compulsory == 2 * state + 2 * row + parameters
        assert one.moved == one.compulsory + 3 * 4 + 3 * 4 * 8 * 2

    def test_a_pool_that_is_an_output_is_copied_whole(self) -> None:
        definition = families.MAMBA
        which = workload(definition, batch_size=3, state_cache_size=100)
        one = found(definition, which, {"state_batch_indices": ints(7, -1, 9)})
        assert one.moved is not None and one.compulsory is not None
        assert one.moved > 2 * 100 * 4 * 8 * 16 * 2
        assert one.compulsory < 100 * 4 * 8 * 16 * 2
