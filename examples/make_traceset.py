"""Writes the bundled trace set: `python examples/make_traceset.py [FOLDER]`.

The definitions stand in `traceset_definitions.py`; their workloads, small enough for the CPU of a
laptop, stand here. The same files come out byte for byte on every run, so a change shows up as a
plain diff. Nothing is deleted: a definition that is renamed leaves its old files behind.
"""

from __future__ import annotations

import json
import random
import sys
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from flashinfer_bench import Definition, Trace, Workload
from flashinfer_bench.data import RandomInput, SafetensorsInput, ScalarInput
from safetensors.numpy import save_file
from traceset_definitions import (
    FUSED_ADD_RMSNORM,
    GEMM,
    MOE_ROUTING,
    PAGE_SIZE,
    PAGED_DECODE,
    RAGGED_PREFILL,
    RMSNORM,
    ROPE,
    SAMPLING,
    SILU_AND_MUL,
    VOCABULARY,
)

BUNDLED = Path(__file__).parent / "traceset"

SM_SCALE_D64 = 0.125
"""1 / sqrt(64), the usual softmax scale of 64-wide heads."""


@dataclass(frozen=True)
class Case:
    """One workload before it is written. Inputs that are not listed are random."""

    axes: dict[str, int]
    blobs: dict[str, np.ndarray] = field(default_factory=dict)
    scalars: dict[str, float] = field(default_factory=dict)


def offsets(lengths: list[int]) -> np.ndarray:
    """Where each sequence begins, and the end of the last: int32, one longer than `lengths`."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)


def rope_case(max_positions: int, starts_and_lengths: list[tuple[int, int]]) -> Case:
    """Sequences laid end to end, each going on from the position it had reached."""
    positions = [p for start, length in starts_and_lengths for p in range(start, start + length)]
    return Case(
        {"num_tokens": len(positions), "max_positions": max_positions},
        {"positions": np.array(positions, dtype=np.int64)},
    )


def paged_decode_case(lengths: list[int], num_pages: int) -> Case:
    """Sequences of those many tokens in pages drawn from a pool, each page used at most once."""
    page_counts = [-(-length // PAGE_SIZE) for length in lengths]
    pool = list(range(num_pages))
    random.Random(f"pages of {lengths} out of {num_pages}").shuffle(pool)
    kv_indptr = offsets(page_counts)
    return Case(
        {
            "batch_size": len(lengths),
            "num_pages": num_pages,
            "len_indptr": len(lengths) + 1,
            "num_kv_indices": int(kv_indptr[-1]),
        },
        {
            "kv_indptr": kv_indptr,
            "kv_indices": np.array(pool[: kv_indptr[-1]], dtype=np.int32),
            "kv_last_page_len": np.array(
                [(length - 1) % PAGE_SIZE + 1 for length in lengths], dtype=np.int32
            ),
        },
        {"sm_scale": SM_SCALE_D64},
    )


def spread(count: int, shortest: int, longest: int) -> list[int]:
    """`count` lengths within those bounds, in no order."""
    generator = random.Random(f"{count} lengths from {shortest} to {longest}")
    return [generator.randint(shortest, longest) for _ in range(count)]


def ragged_prefill_case(queries: list[int], cached: list[int]) -> Case:
    """Sequences of those many new tokens, each after those many keys that are cached already."""
    qo_indptr = offsets(queries)
    kv_indptr = offsets([new + old for new, old in zip(queries, cached, strict=True)])
    return Case(
        {
            "len_indptr": len(queries) + 1,
            "total_q": int(qo_indptr[-1]),
            "total_kv": int(kv_indptr[-1]),
        },
        {"qo_indptr": qo_indptr, "kv_indptr": kv_indptr},
        {"sm_scale": SM_SCALE_D64},
    )


def sampling_case(top_k: list[int], top_p: list[float]) -> Case:
    """One row for each pair of settings."""
    return Case(
        {"batch_size": len(top_k)},
        {"top_k": np.array(top_k, dtype=np.int32), "top_p": np.array(top_p, dtype=np.float32)},
    )


WORKLOADS: tuple[tuple[Definition, list[Case]], ...] = (
    (RMSNORM, [Case({"batch_size": n}) for n in (1, 7, 64, 509, 2048, 4096)]),
    (FUSED_ADD_RMSNORM, [Case({"batch_size": n}) for n in (1, 5, 48, 333, 1024, 4096)]),
    (SILU_AND_MUL, [Case({"num_tokens": n}) for n in (1, 6, 32, 250, 1024, 2048)]),
    (GEMM, [Case({"M": n}) for n in (1, 16, 100, 256, 515, 1024)]),
    (
        ROPE,
        [
            rope_case(512, [(511, 1)]),
            rope_case(2048, [(start, 1) for start in spread(32, 0, 2047)]),
            rope_case(1024, [(0, 129)]),
            rope_case(4096, [(0, 300), (1000, 200), (4000, 96), (77, 1)]),
            rope_case(4096, [(0, 2048)]),
        ],
    ),
    (
        PAGED_DECODE,
        [
            paged_decode_case([5], num_pages=4),
            paged_decode_case([16, 1, 17, 200], num_pages=64),
            paged_decode_case([1000], num_pages=256),
            paged_decode_case(spread(16, 1, 512), num_pages=1024),
            paged_decode_case([640, *spread(31, 1, 40)], num_pages=512),
            paged_decode_case(spread(64, 300, 768), num_pages=4096),
        ],
    ),
    (
        RAGGED_PREFILL,
        [
            ragged_prefill_case([1], cached=[0]),
            ragged_prefill_case([37], cached=[0]),
            ragged_prefill_case([1, 64, 129, 7], cached=[0, 0, 0, 0]),
            ragged_prefill_case([32, 96, 128], cached=[512, 0, 1000]),
            ragged_prefill_case(spread(12, 1, 127), cached=[0] * 12),
            ragged_prefill_case([768], cached=[0]),
        ],
    ),
    (
        SAMPLING,
        [
            sampling_case([50], [0.9]),
            sampling_case([1, 40, 1000, VOCABULARY], [1.0, 0.95, 0.5, 0.8]),
            sampling_case([20] * 8, [0.8] * 8),
            sampling_case([VOCABULARY] * 16, [1.0] * 16),
            sampling_case(spread(32, 1, 200), [n / 100 for n in spread(32, 10, 100)]),
        ],
    ),
    (MOE_ROUTING, [Case({"num_tokens": n}) for n in (1, 9, 64, 500, 2048, 8192)]),
)


def write_workload(root: Path, definition: Definition, case: Case) -> Trace:
    """The workload as a trace; its blobs, if it has any, are written under `root`."""
    name, op_type = definition.name, definition.op_type
    values = json.dumps([case.axes, {key: blob.tolist() for key, blob in case.blobs.items()}])
    identity = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{name} {values}"))
    blob_path = f"./blob/workloads/{op_type}/{name}/{name}_{identity}.safetensors"
    if case.blobs:
        (root / blob_path).parent.mkdir(parents=True, exist_ok=True)
        save_file(case.blobs, root / blob_path)

    inputs: dict[str, RandomInput | SafetensorsInput | ScalarInput] = {}
    for key in definition.inputs:
        if key in case.blobs:
            inputs[key] = SafetensorsInput(path=blob_path, tensor_key=key)
        elif key in case.scalars:
            inputs[key] = ScalarInput(value=case.scalars[key])
        else:
            inputs[key] = RandomInput()
    workload = Workload(uuid=identity, axes=case.axes, inputs=inputs)
    return Trace(definition=name, workload=workload)


def write_traceset(root: Path) -> None:
    """Writes every definition, workload and blob under `root`."""
    for definition, cases in WORKLOADS:
        path = Path(definition.op_type) / definition.name
        target = root / "definitions" / path.with_suffix(".json")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(definition.model_dump_json(indent=2, exclude_unset=True) + "\n")

        target = root / "workloads" / path.with_suffix(".jsonl")
        target.parent.mkdir(parents=True, exist_ok=True)
        traces = [write_workload(root, definition, case) for case in cases]
        target.write_text("".join(json.dumps(t.model_dump(mode="json")) + "\n" for t in traces))


if __name__ == "__main__":
    write_traceset(Path(sys.argv[1]) if len(sys.argv) > 1 else BUNDLED)
