"""The bundled trace set: complete, valid, runnable on a CPU, and made by its script."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from flashinfer_bench import Definition, TraceSet, Workload
from flashinfer_bench.bench.utils import gen_inputs, load_safetensors
from flashinfer_bench.utils import dtype_str_to_torch_dtype

EXAMPLES = Path(__file__).parent.parent / "examples"
FOLDER = EXAMPLES / "traceset"
TRACESET = TraceSet.from_path(str(FOLDER))
DEFINITIONS = sorted(TRACESET.definitions)
PAGED_DECODE = "gqa_paged_decode_h8_kv2_d64_ps16"
RAGGED_PREFILL = "gqa_ragged_prefill_causal_h8_kv2_d64"
SAMPLING = "top_k_top_p_sampling_v32000"
ROPE = "rope_neox_d64"


def workloads(name: str) -> list[Workload]:
    return [trace.workload for trace in TRACESET.workloads[name]]


def each_workload(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        ("definition", "workload"),
        [
            pytest.param(TRACESET.definitions[name], workload, id=f"{name}-{index}")
            for name in names
            for index, workload in enumerate(workloads(name))
        ],
    )


def inputs_of(definition: Definition, workload: Workload) -> dict[str, torch.Tensor | float]:
    """As FlashInfer-Bench makes them."""
    blobs = load_safetensors(definition, workload, FOLDER)
    return dict(zip(definition.inputs, gen_inputs(definition, workload, "cpu", blobs), strict=True))


def run_reference(definition: Definition, inputs: dict) -> dict[str, torch.Tensor]:
    namespace: dict = {}
    exec(definition.reference, namespace)
    outputs = namespace["run"](*inputs.values())
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    return dict(zip(definition.outputs, outputs, strict=True))


def test_there_are_at_least_eight_definitions_with_at_least_four_workloads_each():
    assert len(DEFINITIONS) >= 8
    assert all(len(TRACESET.workloads[name]) >= 4 for name in DEFINITIONS)


def test_every_family_that_the_documentation_promises_is_there():
    families = {definition.op_type for definition in TRACESET.definitions.values()}
    expected = "rmsnorm activation gemm rope gqa_paged gqa_ragged sampling moe"
    assert set(expected.split()) <= families


def test_every_file_lies_where_its_operator_and_name_say():
    for name, definition in TRACESET.definitions.items():
        path = Path(definition.op_type) / name
        assert (FOLDER / "definitions" / path.with_suffix(".json")).is_file()
        assert (FOLDER / "workloads" / path.with_suffix(".jsonl")).is_file()


def test_workload_identifiers_are_unique_across_the_set():
    identifiers = [w.uuid for name in DEFINITIONS for w in workloads(name)]
    assert len(set(identifiers)) == len(identifiers)


def test_the_set_stays_small_enough_to_ship():
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < 1_000_000


@each_workload(*DEFINITIONS)
def test_a_workload_describes_every_input_and_every_variable_axis(
    definition: Definition, workload: Workload
):
    assert list(workload.inputs) == list(definition.inputs)
    assert set(workload.axes) == set(definition.var_axes)


@each_workload(*DEFINITIONS)
def test_inputs_can_be_made_with_the_declared_shapes_and_dtypes(
    definition: Definition, workload: Workload
):
    inputs = inputs_of(definition, workload)
    shapes = definition.get_input_shapes(workload.axes)
    for (name, spec), shape in zip(definition.inputs.items(), shapes, strict=True):
        value = inputs[name]
        if shape is None:
            assert isinstance(value, float)
            continue
        assert isinstance(value, torch.Tensor)
        assert tuple(value.shape) == tuple(shape)
        assert value.dtype == dtype_str_to_torch_dtype(spec.dtype)


def test_no_blob_is_left_that_no_workload_names():
    named = {
        (FOLDER / spec.path).resolve()
        for name in DEFINITIONS
        for workload in workloads(name)
        for spec in workload.inputs.values()
        if spec.type == "safetensors"
    }
    assert named == {path.resolve() for path in (FOLDER / "blob").rglob("*.safetensors")}


@pytest.mark.parametrize("which", ["smallest", "largest"])
@pytest.mark.parametrize("name", DEFINITIONS)
@pytest.mark.timeout(60)
def test_the_reference_runs_on_a_cpu(name: str, which: str):
    definition = TRACESET.definitions[name]
    by_size = sorted(
        workloads(name),
        key=lambda w: sum(math.prod(s) for s in definition.get_input_shapes(w.axes) if s),
    )
    workload = by_size[0 if which == "smallest" else -1]
    inputs = inputs_of(definition, workload)
    before = {k: v.clone() for k, v in inputs.items() if isinstance(v, torch.Tensor)}

    outputs = run_reference(definition, inputs)

    shapes = definition.get_output_shapes(workload.axes)
    for (output, spec), shape in zip(definition.outputs.items(), shapes, strict=True):
        assert tuple(outputs[output].shape) == tuple(shape)
        assert outputs[output].dtype == dtype_str_to_torch_dtype(spec.dtype)
        assert torch.isfinite(outputs[output]).all()
    assert all(torch.equal(inputs[k], v) for k, v in before.items()), "an input was modified"


def assert_offsets(indptr: torch.Tensor, total: int):
    assert indptr[0] == 0
    assert (indptr.diff() > 0).all()
    assert indptr[-1] == total


@each_workload(PAGED_DECODE)
def test_page_tables_are_valid(definition: Definition, workload: Workload):
    inputs, axes = inputs_of(definition, workload), workload.axes
    assert_offsets(inputs["kv_indptr"], axes["num_kv_indices"])
    assert axes["len_indptr"] == axes["batch_size"] + 1
    pages = inputs["kv_indices"]
    assert pages.min() >= 0
    assert pages.max() < axes["num_pages"]
    assert pages.unique().numel() == pages.numel()
    assert inputs["kv_last_page_len"].min() >= 1
    assert inputs["kv_last_page_len"].max() <= definition.const_axes["page_size"]


def test_paged_workloads_cover_one_page_partial_pages_and_ragged_batches():
    definition = TRACESET.definitions[PAGED_DECODE]
    inputs = [inputs_of(definition, workload) for workload in workloads(PAGED_DECODE)]
    assert any((i["kv_indptr"].diff() == 1).any() for i in inputs)
    assert any((i["kv_last_page_len"] < 16).any() for i in inputs)
    assert any((i["kv_last_page_len"] == 16).any() for i in inputs)
    assert any(i["kv_indptr"].diff().unique().numel() > 2 for i in inputs)


@each_workload(RAGGED_PREFILL)
def test_sequence_offsets_are_valid(definition: Definition, workload: Workload):
    inputs, axes = inputs_of(definition, workload), workload.axes
    assert_offsets(inputs["qo_indptr"], axes["total_q"])
    assert_offsets(inputs["kv_indptr"], axes["total_kv"])
    assert (inputs["qo_indptr"].diff() <= inputs["kv_indptr"].diff()).all()


@each_workload(ROPE)
def test_positions_are_rows_of_the_cache(definition: Definition, workload: Workload):
    positions = inputs_of(definition, workload)["positions"]
    assert positions.min() >= 0
    assert positions.max() < workload.axes["max_positions"]


@each_workload(SAMPLING)
def test_sampling_settings_are_valid(definition: Definition, workload: Workload):
    inputs = inputs_of(definition, workload)
    assert torch.allclose(inputs["probs"].sum(dim=-1), torch.ones(workload.axes["batch_size"]))
    assert inputs["top_k"].min() >= 1
    assert inputs["top_k"].max() <= definition.const_axes["vocab_size"]
    assert inputs["top_p"].min() > 0
    assert inputs["top_p"].max() <= 1


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, hidden_keys: int):
    """One query [8, 64] over keys and values [tokens, 2, 64] but the last `hidden_keys`."""
    seen = k.shape[0] - hidden_keys
    if seen <= 0:
        return torch.zeros(8, 64), torch.full((8,), -math.inf)
    k, v = (x[:seen].float().repeat_interleave(4, dim=1) for x in (k, v))
    logits = torch.einsum("hd,thd->ht", q.float(), k) * 0.125
    output = torch.einsum("ht,thd->hd", logits.softmax(dim=-1), v)
    return output, logits.exp().sum(dim=-1).log2()


def assert_attention(outputs: dict[str, torch.Tensor], expected: list):
    output, lse = (torch.stack(x) for x in zip(*expected, strict=True))
    torch.testing.assert_close(outputs["output"], output.to(torch.bfloat16), atol=1e-2, rtol=1e-2)
    torch.testing.assert_close(outputs["lse"], lse, atol=1e-4, rtol=1e-4)


def test_paged_decode_attends_to_the_tokens_of_each_sequence_alone():
    pages = [[5, 0, 3], [], [2], [7, 1]]
    last_page_len = torch.tensor([16, 1, 1, 9], dtype=torch.int32)
    q = torch.randn(4, 8, 64, dtype=torch.bfloat16)
    k_cache, v_cache = torch.randn(2, 8, 16, 2, 64).to(torch.bfloat16).unbind()
    indptr = torch.tensor([0, 3, 3, 4, 6], dtype=torch.int32)
    indices = torch.tensor([5, 0, 3, 2, 7, 1], dtype=torch.int32)

    outputs = run_reference(
        TRACESET.definitions[PAGED_DECODE],
        dict(enumerate((q, k_cache, v_cache, indptr, indices, last_page_len, 0.125))),
    )

    def alone(i: int):
        k, v = k_cache[pages[i]].flatten(0, 1), v_cache[pages[i]].flatten(0, 1)
        return attend(q[i], k, v, hidden_keys=16 - int(last_page_len[i]))

    assert_attention(outputs, [alone(i) for i in range(4)])


def test_ragged_prefill_lets_a_query_see_its_own_past_alone():
    queries, keys = [3, 5, 0, 2], [3, 9, 4, 1]
    q = torch.randn(10, 8, 64, dtype=torch.bfloat16)
    k, v = torch.randn(2, 17, 2, 64).to(torch.bfloat16).unbind()
    qo_indptr = torch.tensor([0, 3, 8, 8, 10], dtype=torch.int32)
    kv_indptr = torch.tensor([0, 3, 12, 16, 17], dtype=torch.int32)

    outputs = run_reference(
        TRACESET.definitions[RAGGED_PREFILL],
        dict(enumerate((q, k, v, qo_indptr, kv_indptr, 0.125))),
    )

    expected = []
    sequences = zip(q.split(queries), k.split(keys), v.split(keys), strict=True)
    for q_i, k_i, v_i in sequences:
        last = len(q_i) - 1
        expected += [attend(q_i[j], k_i, v_i, hidden_keys=last - j) for j in range(len(q_i))]
    assert_attention(outputs, expected)


def test_sampling_draws_every_token_that_may_be_drawn_and_no_other():
    probs = torch.full((400, 32000), 1e-9)
    probs[:, [7, 300, 9000, 31999]] = torch.tensor([0.1, 0.4, 0.3, 0.2])
    top_k = torch.full((400,), 3, dtype=torch.int32)
    top_p = torch.full((400,), 0.7)

    # Of the three most likely, renormalised to 4/9, 3/9 and 2/9, the first two reach 0.7.
    outputs = run_reference(TRACESET.definitions[SAMPLING], dict(enumerate((probs, top_k, top_p))))

    assert set(outputs["samples"].tolist()) == {300, 9000}


def test_the_script_writes_the_bundled_files_byte_for_byte(tmp_path: Path):
    subprocess.run([sys.executable, EXAMPLES / "make_traceset.py", tmp_path], check=True)

    def contents(root: Path) -> dict[str, bytes]:
        parts = [root / part for part in ("definitions", "workloads", "blob")]
        files = [path for part in parts for path in part.rglob("*") if path.is_file()]
        return {str(path.relative_to(root)): path.read_bytes() for path in files}

    written, bundled = contents(tmp_path), contents(FOLDER)
    assert written.keys() == bundled.keys()
    assert [path for path in written if written[path] != bundled[path]] == []
