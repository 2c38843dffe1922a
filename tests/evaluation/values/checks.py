"""What holds of every set of inputs, and how a reference answers it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from flashinfer_bench.utils import dtype_str_to_torch_dtype

if TYPE_CHECKING:
    from flashinfer_bench import Definition, Workload

    from kernel_generator.evaluation.values import Values


def run_reference(definition: Definition, values: Values) -> dict[str, torch.Tensor]:
    """Outputs of the reference, which is given copies."""
    namespace: dict = {}
    exec(definition.reference, namespace)
    given = {n: t.clone() for n, t in values.tensors.items()} | values.scalars
    outputs = namespace["run"](**given)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    return dict(zip(definition.outputs, outputs, strict=True))


def raw(tensor: torch.Tensor) -> bytes:
    """Every bit, of any dtype."""
    return tensor.reshape(-1).view(torch.uint8).numpy().tobytes()


def assert_fits(definition: Definition, which: Workload, values: Values) -> None:
    """Names, shapes and dtypes are those declared, and index structure is valid."""
    shapes = dict(zip(definition.inputs, definition.get_input_shapes(which.axes), strict=True))
    assert set(values.tensors) == {n for n, s in shapes.items() if s is not None}
    assert set(values.scalars) == {n for n, s in shapes.items() if s is None}
    for name, tensor in values.tensors.items():
        assert tuple(tensor.shape) == tuple(shapes[name])
        assert tensor.dtype == dtype_str_to_torch_dtype(definition.inputs[name].dtype)
        assert tensor.is_contiguous()
    assert_indices_valid(definition, which, values)


def assert_indices_valid(definition: Definition, which: Workload, values: Values) -> None:
    """Offsets rise from 0 to their totals; pages, slots, positions and tokens exist."""
    axes = {**definition.const_axes, **which.axes}
    t = values.tensors
    ends = {
        "kv_indptr": axes.get("num_kv_indices", axes.get("total_kv")),
        "qo_indptr": axes.get("total_q"),
        "seq_indptr": axes.get("total_tokens"),
        "cu_seqlens": axes.get("total_seq_len"),
    }
    for name, end in ends.items():
        if name in t:
            assert t[name][0] == 0
            assert bool((t[name].diff() >= 0).all())
            assert t[name][-1] == end
    size = axes.get("page_size", 1)
    bounds = {
        "kv_indices": (0, axes.get("num_pages")),
        "block_table": (0, axes.get("num_pages")),
        "block_tables": (0, axes.get("num_pages")),
        "sparse_indices": (-1, axes.get("num_pages", 1) * size),
        "kv_last_page_len": (1, size + 1),
        "positions": (0, axes.get("max_positions", axes.get("max_seq_len"))),
        "state_batch_indices": (-1, axes.get("state_cache_size")),
        "token_selected_experts": (0, axes.get("num_experts")),
        "top_k": (1, axes.get("vocab_size", 0) + 1),
    }
    for name, (low, high) in bounds.items():
        if name in t and t[name].numel():
            assert int(t[name].min()) >= low
            assert int(t[name].max()) < high
    for name in ("sparse_indices", "token_selected_experts"):
        for row in t.get(name, torch.empty(0)).tolist():
            kept = [x for x in row if x != -1]
            assert len(set(kept)) == len(kept)
    if "state_batch_indices" in t:
        kept = [x for x in t["state_batch_indices"].tolist() if x != -1]
        assert len(set(kept)) == len(kept)
    if "seq_lens" in t:
        table = t.get("block_table", t.get("block_tables"))
        assert int(t["seq_lens"].min()) >= 0
        assert int(t["seq_lens"].max()) <= table.shape[1] * size
    if "top_p" in t:
        assert 0.0 < float(t["top_p"].min()) <= float(t["top_p"].max()) <= 1.0
    if "probs" in t:
        assert torch.allclose(t["probs"].sum(-1), torch.ones(len(t["probs"])), atol=1e-4)
    if {"qo_indptr", "kv_indptr"} <= set(t):
        keys = t["kv_indptr"].diff() * size
        if "kv_last_page_len" in t:
            keys = keys - size + t["kv_last_page_len"]
        queries = t["qo_indptr"].diff()
        assert bool(((keys >= queries) | (queries == 0)).all())
