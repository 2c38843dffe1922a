"""Workloads whose inputs were captured: one small batch of paged sequences, saved or only named."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from flashinfer_bench.data import SafetensorsInput
from safetensors.torch import save_file

from tests.evaluation.values import defining

if TYPE_CHECKING:
    from pathlib import Path

    from flashinfer_bench import Definition, Workload

    from kernel_generator.evaluation.values import Values

LENGTHS = [2, 0, 3, 1]
AXES = {"batch_size": 4, "num_pages": 9, "len_indptr": 5, "num_kv_indices": 6}
PAGES = {
    "kv_indptr": torch.tensor([0, 2, 2, 5, 6], dtype=torch.int32),
    # The first and the third sequence share their first page.
    "kv_indices": torch.tensor([7, 1, 7, 3, 4, 8], dtype=torch.int32),
}


def captured(
    definition: Definition, root: Path, tensors: dict[str, torch.Tensor], **axes: int
) -> Workload:
    """A workload with these tensors saved below `root`."""
    save_file(tensors, root / "a.safetensors")
    return named(definition, tuple(tensors), **axes)


def named(definition: Definition, names: tuple[str, ...], **axes: int) -> Workload:
    """A workload with these inputs captured in a file, which need not be there."""
    which = defining.workload(definition, **axes)
    blobs = {n: SafetensorsInput(path="a.safetensors", tensor_key=n) for n in names}
    return which.model_copy(update={"inputs": {**which.inputs, **blobs}})


def sequences(values: Values) -> list[list[int]]:
    """The pages of each sequence."""
    offsets = values.tensors["kv_indptr"].diff().tolist()
    return [s.tolist() for s in values.tensors["kv_indices"].split(offsets)]
