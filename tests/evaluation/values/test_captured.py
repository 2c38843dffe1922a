"""Captured inputs keep what they describe; missing ones are generated and named."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from flashinfer_bench.data import SafetensorsInput

from kernel_generator.evaluation.inputs import InputsUnavailable
from kernel_generator.evaluation.values import Values, Where, draw, edge_workloads, vary
from tests.evaluation.values import attention, checks, defining, families
from tests.evaluation.values.capturing import AXES, LENGTHS, PAGES, captured, named, sequences

if TYPE_CHECKING:
    from pathlib import Path

    from flashinfer_bench import Definition, Workload


def two(definition: Definition, which: Workload, root: Path, where: Where) -> tuple[Values, Values]:
    """A draw and its variation."""
    values = draw(definition, which, root, torch.Generator().manual_seed(7), where=where)
    return values, vary(definition, which, values, torch.Generator().manual_seed(8))


class TestPages:
    @defining.EITHER_WAY
    def test_keep_the_lengths_of_sequences_in_some_order(
        self, tmp_path: Path, where: Where
    ) -> None:
        which = captured(attention.MLA_DECODE, tmp_path, PAGES, **AXES)
        for values in two(attention.MLA_DECODE, which, tmp_path, where):
            checks.assert_fits(attention.MLA_DECODE, which, values)
            assert sorted(len(s) for s in sequences(values)) == sorted(LENGTHS)

    @defining.EITHER_WAY
    def test_are_renumbered_so_that_shared_ones_stay_shared(
        self, tmp_path: Path, where: Where
    ) -> None:
        which = captured(attention.MLA_DECODE, tmp_path, PAGES, **AXES)
        for values in two(attention.MLA_DECODE, which, tmp_path, where):
            pairs = {len(s): s for s in sequences(values)}
            assert pairs[2][0] == pairs[3][0]
            assert len({page for s in sequences(values) for page in s}) == 5

    @defining.EITHER_WAY
    def test_differ_from_trial_to_trial(self, tmp_path: Path, where: Where) -> None:
        which = captured(attention.MLA_DECODE, tmp_path, PAGES, **AXES)
        values, other = two(attention.MLA_DECODE, which, tmp_path, where)
        tables = [PAGES["kv_indices"], *(v.tensors["kv_indices"] for v in (values, other))]
        assert len({checks.raw(t) for t in tables}) == 3

    @defining.EITHER_WAY
    def test_are_named_by_nothing_as_synthetic(self, tmp_path: Path, where: Where) -> None:
        which = captured(attention.MLA_DECODE, tmp_path, PAGES, **AXES)
        assert two(attention.MLA_DECODE, which, tmp_path, where)[0].synthetic == ()

    @defining.EITHER_WAY
    def test_that_are_missing_follow_the_offsets_that_are_there(
        self, tmp_path: Path, where: Where
    ) -> None:
        which = captured(attention.MLA_DECODE, tmp_path, {"kv_indptr": PAGES["kv_indptr"]}, **AXES)
        elsewhere = SafetensorsInput(path="b.safetensors", tensor_key="kv_indices")
        which = which.model_copy(update={"inputs": {**which.inputs, "kv_indices": elsewhere}})
        for values in two(attention.MLA_DECODE, which, tmp_path, where):
            checks.assert_fits(attention.MLA_DECODE, which, values)
            assert values.synthetic == ("kv_indices",)
            assert sorted(len(s) for s in sequences(values)) == sorted(LENGTHS)


@defining.EITHER_WAY
def test_pages_move_even_where_captured_offsets_make_no_sense(tmp_path: Path, where: Where) -> None:
    falling = {**PAGES, "kv_indptr": torch.tensor([0, 9, 2, 5, 6], dtype=torch.int32)}
    which = captured(attention.MLA_DECODE, tmp_path, falling, **AXES)
    for values in two(attention.MLA_DECODE, which, tmp_path, where):
        counts = [
            t.unique(return_counts=True)[1].sort().values.tolist()
            for t in (values.tensors["kv_indices"], PAGES["kv_indices"])
        ]
        assert counts[0] == counts[1]


@defining.EITHER_WAY
def test_missing_files_are_replaced_and_named(tmp_path: Path, where: Where) -> None:
    which = named(attention.MLA_DECODE, ("kv_indptr", "kv_indices"), **AXES)
    for values in two(attention.MLA_DECODE, which, tmp_path, where):
        checks.assert_fits(attention.MLA_DECODE, which, values)
        assert values.synthetic == ("kv_indptr", "kv_indices")
        assert checks.run_reference(attention.MLA_DECODE, values)["output"].isfinite().all()


@defining.EITHER_WAY
@pytest.mark.parametrize("name", sorted(families.FAMILIES))
def test_any_family_can_do_without_its_files(name: str, tmp_path: Path, where: Where) -> None:
    definition = families.FAMILIES[name]
    edge = next(w for w in edge_workloads(definition, ()) if w.uuid == "edge-skewed-37")
    everything = tuple(definition.inputs)
    which = named(definition, everything, **edge.axes)
    for values in two(definition, which, tmp_path, where):
        checks.assert_fits(definition, which, values)
        assert values.synthetic == everything
        for output in checks.run_reference(definition, values).values():
            assert not output.isnan().any()


def test_a_missing_captured_scalar_gets_a_sensible_value(tmp_path: Path) -> None:
    values = draw(
        attention.MLA_DECODE,
        named(attention.MLA_DECODE, ("sm_scale",), **AXES),
        tmp_path,
        torch.Generator(),
    )
    assert values.synthetic == ("sm_scale",)
    assert values.scalars["sm_scale"] == pytest.approx(136**-0.5)


def test_a_captured_scalar_is_a_number(tmp_path: Path) -> None:
    which = captured(attention.MLA_DECODE, tmp_path, {"sm_scale": torch.tensor(0.5)}, **AXES)
    assert draw(attention.MLA_DECODE, which, tmp_path, torch.Generator()).scalars == {
        "sm_scale": 0.5
    }


def test_a_file_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    wrong = {**PAGES, "kv_indices": PAGES["kv_indices"][:-1].clone()}
    which = captured(attention.MLA_DECODE, tmp_path, wrong, **AXES)
    with pytest.raises(InputsUnavailable, match=r"'kv_indices' .* says torch.int32 \[6\]"):
        draw(attention.MLA_DECODE, which, tmp_path, torch.Generator())


@defining.EITHER_WAY
def test_captured_floats_are_resampled_from_themselves(tmp_path: Path, where: Where) -> None:
    kept = {"dt_bias": torch.linspace(-7, -3, 4), "state": torch.rand(50, 4, 16, 16) * 3 - 10}
    which = captured(families.GDN_DECODE, tmp_path, kept, batch_size=50)
    for values in two(families.GDN_DECODE, which, tmp_path, where):
        for name, tensor in kept.items():
            assert torch.isin(values.tensors[name], tensor).all()
        assert not torch.equal(values.tensors["state"], kept["state"])


@defining.EITHER_WAY
def test_captured_routing_keeps_the_load_of_the_local_experts(tmp_path: Path, where: Where) -> None:
    logits = torch.randn(60, 32) + torch.arange(32) / 8
    which = captured(families.MOE, tmp_path, {"routing_logits": logits}, seq_len=60)
    block = (logits.topk(4).indices // 4).flatten().bincount(minlength=8)
    for values in two(families.MOE, which, tmp_path, where):
        shuffled = values.tensors["routing_logits"]
        assert not torch.equal(shuffled, logits)
        again = (shuffled.topk(4).indices // 4).flatten().bincount(minlength=8)
        assert torch.equal(again, block)


@defining.EITHER_WAY
def test_captured_slots_stay_distinct_and_padding_stays_padding(
    tmp_path: Path, where: Where
) -> None:
    slots = {"state_batch_indices": torch.tensor([4, -1, 0, 9], dtype=torch.int32)}
    which = captured(families.MAMBA, tmp_path, slots, batch_size=4, state_cache_size=10)
    for values in two(families.MAMBA, which, tmp_path, where):
        checks.assert_fits(families.MAMBA, which, values)
        assert int((values.tensors["state_batch_indices"] == -1).sum()) == 1


@defining.EITHER_WAY
def test_captured_sparse_tokens_move_with_their_pages(tmp_path: Path, where: Where) -> None:
    rows = torch.full((3, 48), -1, dtype=torch.int32)
    rows[:, :4] = torch.tensor([16, 17, 31, 70])
    which = captured(
        attention.DSA_ATTENTION, tmp_path, {"sparse_indices": rows}, num_tokens=3, num_pages=6
    )
    for values in two(attention.DSA_ATTENTION, which, tmp_path, where):
        checks.assert_fits(attention.DSA_ATTENTION, which, values)
        moved = values.tensors["sparse_indices"][0, :4]
        assert (moved % 16).tolist() == [0, 1, 15, 6]
        assert len(set((moved // 16).tolist())) == 2


@defining.EITHER_WAY
def test_integers_of_unknown_meaning_stay_and_are_reported(tmp_path: Path, where: Where) -> None:
    codes = {"codes": torch.arange(72, dtype=torch.int16).view(3, 24)}
    which = captured(families.UNKNOWN, tmp_path, codes, rows=3)
    for values in two(families.UNKNOWN, which, tmp_path, where):
        assert torch.equal(values.tensors["codes"], codes["codes"])
        (sentence,) = values.unvaried
        assert sentence.startswith("input 'codes' (int16 [3, 24]) is the captured one")


def test_where_everything_can_be_varied_nothing_is_reported() -> None:
    values = draw(
        families.UNKNOWN, defining.workload(families.UNKNOWN, rows=3), None, torch.Generator()
    )
    assert values.unvaried == ()
