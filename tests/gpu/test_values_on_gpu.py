"""Inputs made on a GPU: valid, the same for the same seed, and without waiting for it."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from flashinfer_bench import Definition, TraceSet, Workload
from flashinfer_bench.data import RandomInput, ScalarInput

from kernel_generator.evaluation.values import (
    CPU,
    Values,
    Variant,
    Where,
    as_described,
    draw,
    edge_workloads,
    variants,
    vary,
)
from tests.evaluation.values import checks, defining, families
from tests.evaluation.values.capturing import AXES, PAGES, captured, named

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2] / "examples" / "traceset"
TRACESET = TraceSet.from_path(str(ROOT))
GPU = Where.on("cuda")
BUNDLED = pytest.mark.parametrize("name", sorted(TRACESET.definitions))
FAMILY = pytest.mark.parametrize("name", sorted(families.FAMILIES))


@pytest.fixture(autouse=True)
def never_waiting_by_default() -> Generator[None]:
    """Whatever a test does to the mode in which torch reports waiting ends with it."""
    yield
    torch.cuda.set_sync_debug_mode("default")


def generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def smallest(name: str) -> Workload:
    found = [trace.workload for trace in TRACESET.workloads[name]]
    return min(found, key=lambda w: math.prod(w.axes.values()))


def on_cpu(values: Values) -> Values:
    """A copy of values that lie on the GPU, all of them."""
    assert all(t.is_cuda for t in values.tensors.values())
    copied = {
        n: t.reshape(-1).view(torch.uint8).cpu().view(t.dtype).view(t.shape)
        for n, t in values.tensors.items()
    }
    return replace(values, tensors=copied, where=CPU)


def bits(values: Values) -> dict[str, bytes]:
    return {n: checks.raw(t) for n, t in on_cpu(values).tensors.items()}


def varied_without_waiting(
    definition: Definition, which: Workload, values: Values, seed: int = 2
) -> Values:
    """Raises where the host would wait for the GPU."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    made = vary(definition, which, values, generator(seed))
    torch.cuda.set_sync_debug_mode("default")
    return made


def holds(definition: Definition, which: Workload, variant: Variant, root: Path | None) -> None:
    """The values are valid, lie on the GPU and are the same for the same seed; the reference
    answers them."""
    values = draw(definition, which, root, generator(), variant, GPU)
    again = draw(definition, which, root, generator(), variant, GPU)
    assert bits(values) == bits(again)
    other = varied_without_waiting(definition, which, values)
    assert bits(other) == bits(varied_without_waiting(definition, which, again))
    assert bits(values) == bits(again), "a variation changed what it varies"
    for one in (values, other):
        checks.assert_fits(definition, which, on_cpu(one))
        for output in checks.run_reference(definition, on_cpu(one)).values():
            assert not output.isnan().any(), (which.uuid, variant)
    for name, tensor in values.tensors.items():
        if tensor.is_floating_point() and tensor.numel() > 8 and variant is Variant.RANDOM:
            assert bits(values)[name] != bits(other)[name], name


@BUNDLED
def test_bundled_definitions_in_every_variant(name: str) -> None:
    definition = TRACESET.definitions[name]
    for variant in variants(definition):
        holds(definition, smallest(name), variant, ROOT)


@FAMILY
def test_other_families_in_every_variant(name: str) -> None:
    definition = families.FAMILIES[name]
    for variant in variants(definition):
        for which in edge_workloads(definition, ())[2:4]:
            holds(definition, which, variant, None)


@FAMILY
def test_any_family_can_do_without_its_files(name: str, tmp_path: Path) -> None:
    definition = families.FAMILIES[name]
    everything = tuple(definition.inputs)
    which = named(definition, everything, **edge_workloads(definition, ())[3].axes)
    values = as_described(definition, which, tmp_path, generator(), GPU)
    checks.assert_fits(definition, which, on_cpu(values))
    assert values.synthetic == everything


def test_captured_tensors_are_given_bit_by_bit_and_varied_without_waiting(tmp_path: Path) -> None:
    definition = families.FAMILIES["mla_paged_decode"]
    which = captured(definition, tmp_path, PAGES, **AXES)
    values = as_described(definition, which, tmp_path, generator(), GPU)
    assert all(torch.equal(values.tensors[n].cpu(), t) for n, t in PAGES.items())
    other = varied_without_waiting(definition, which, values)
    checks.assert_fits(definition, which, on_cpu(other))
    lengths = [on_cpu(v).tensors["kv_indptr"].diff().tolist() for v in (values, other)]
    assert sorted(lengths[0]) == sorted(lengths[1])


@pytest.mark.parametrize("name", ["routing_logits", "hidden_states"])
def test_captured_floats_are_resampled_there(name: str, tmp_path: Path) -> None:
    definition = families.MOE
    kept = draw(definition, defining.workload(definition, seq_len=60), None, generator())
    which = captured(definition, tmp_path, {name: kept.tensors[name]}, seq_len=60)
    values = draw(definition, which, tmp_path, generator(), where=GPU)
    for one in (values, varied_without_waiting(definition, which, values)):
        found = on_cpu(one).tensors[name]
        assert torch.isin(found.float(), kept.tensors[name].float()).all()
        assert checks.raw(found) != checks.raw(kept.tensors[name])


@pytest.mark.parametrize(
    "dtype",
    ["float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float4_e2m1", "int8"],
)
def test_every_format_is_made_there_as_on_the_cpu(dtype: str) -> None:
    definition = defining.defined(
        "one",
        "normalisation",
        {"rows": None, "columns": 64},
        {"x": f"{dtype} rows columns"},
        {"y": "float32 rows"},
        "\ndef run(x):\n    return x\n",
    )
    which = defining.workload(definition, rows=4000)
    for variant in (Variant.RANDOM, Variant.OUTLIERS, Variant.ALTERNATING):
        here = draw(definition, which, None, generator(), variant, defining.DIRECT)
        values = draw(definition, which, None, generator(), variant, GPU)
        there = on_cpu(varied_without_waiting(definition, which, values))
        mine, theirs = here.tensors["x"], there.tensors["x"]
        if dtype == "float4_e2m1":
            mine, theirs = (t.view(torch.uint8) % 8 for t in (mine, theirs))
        mine, theirs = mine.float(), theirs.float()
        assert theirs.abs().mean() == pytest.approx(float(mine.abs().mean()), rel=0.1), variant
        if variant is Variant.RANDOM:
            assert theirs.std() == pytest.approx(float(mine.std()), rel=0.02)


def large() -> dict[str, tuple[Definition, Workload]]:
    norm = TRACESET.definitions["rmsnorm_h2048"]
    paged = TRACESET.definitions["gqa_paged_decode_h8_kv2_d64_ps16"]
    sampling = TRACESET.definitions["top_k_top_p_sampling_v32000"]
    pages = {"batch_size": 64, "num_pages": 68_237, "len_indptr": 65, "num_kv_indices": 58_966}

    def drawn(definition: Definition, **axes: int) -> tuple[Definition, Workload]:
        inputs = {
            n: ScalarInput(value=0.125) if s.shape is None else RandomInput()
            for n, s in definition.inputs.items()
        }
        return definition, Workload(axes=axes, inputs=inputs, uuid=f"large-{definition.name}")

    moe, eight = (
        families.MOE,
        defining.defined(
            "fp8",
            "normalisation",
            {"rows": None, "columns": 4096},
            {"x": "float8_e4m3fn rows columns"},
            {"y": "float32 rows"},
            "\ndef run(x):\n    return x\n",
        ),
    )
    return {
        "norm of one row": drawn(norm, batch_size=1),
        "norm of 118 MB": drawn(norm, batch_size=2 * 14_418),
        "paged decode, batch 8": drawn(
            paged, batch_size=8, num_pages=900, len_indptr=9, num_kv_indices=800
        ),
        "paged decode, many pages": drawn(paged, **pages),
        "sampling, 512 rows": drawn(sampling, batch_size=512),
        "eight bits, 100 MB": drawn(eight, rows=24_414),
        "small experts, 2048 tokens": drawn(moe, seq_len=2048),
    }


@pytest.mark.parametrize("case", large())
def test_how_long_a_variation_takes(case: str) -> None:
    definition, which = large()[case]
    values = draw(definition, which, None, generator(), where=GPU)
    size = sum(t.nbytes for t in values.tensors.values())
    g = generator(3)
    took = _milliseconds(lambda: vary(definition, which, values, g))
    assert all(math.isfinite(x) for x in took)
    host, device = took
    print(
        f"\n{case}: {size / 1e6:.1f} MB, host {host:.3f} ms, in all {device:.3f} ms, "
        f"{device / max(size / 1e8, 1e-9):.2f} ms per 100 MB"
    )


def _milliseconds(work: Callable[[], object], times: int = 20) -> tuple[float, float]:
    """Of one call, the median: until the host is free, and until the GPU is done."""
    host: list[float] = []
    whole: list[float] = []
    for _ in range(times):
        torch.cuda.synchronize()
        began = time.perf_counter()
        work()
        host.append(time.perf_counter() - began)
        torch.cuda.synchronize()
        whole.append(time.perf_counter() - began)
    return 1e3 * sorted(host)[times // 2], 1e3 * sorted(whole)[times // 2]
