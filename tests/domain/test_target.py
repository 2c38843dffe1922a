"""The hardware table: complete, consistent, and matched to the right devices."""

from __future__ import annotations

import pytest

from kernel_generator.domain.errors import UnknownName
from kernel_generator.domain.target import TARGETS, Target, find_target, target_of_device

GPUS = [t for t in TARGETS.values() if t.is_gpu]


def test_the_table_holds_the_promised_targets() -> None:
    assert set(TARGETS) == {"H100", "H200", "B200", "A100", "V100", "L40S", "RTX4090", "CPU"}


@pytest.mark.parametrize(
    ("name", "architecture"),
    [("H100", "9.0a"), ("H200", "9.0a"), ("B200", "10.0a"), ("A100", "8.0"), ("V100", "7.0"),
     ("L40S", "8.9"), ("RTX4090", "8.9"), ("CPU", "")],
)  # fmt: skip
def test_each_target_has_its_architecture(name: str, architecture: str) -> None:
    assert TARGETS[name].architecture == architecture


@pytest.mark.parametrize("target", GPUS, ids=lambda t: t.name)
def test_every_gpu_has_every_figure_and_its_source(target: Target) -> None:
    assert target.multiprocessors > 0
    assert target.memory_gib > 0
    assert target.bandwidth_gb_s > 0
    assert target.shared_memory_kib > 0
    assert target.l2_mib > 0
    assert {"fp16 tensor", "fp32"} <= set(target.peak_tflops)
    assert target.features and target.source and target.product_names
    assert target.min_cuda > (0, 0)


@pytest.mark.parametrize("target", GPUS, ids=lambda t: t.name)
def test_half_the_width_is_at_least_the_rate(target: Target) -> None:
    order = ["fp4 tensor", "fp8 tensor", "bf16 tensor", "tf32 tensor", "fp32"]
    rates = [target.peak_tflops[form] for form in order if form in target.peak_tflops]
    assert rates == sorted(rates, reverse=True)


def test_volta_has_no_bf16_and_ended_with_cuda_12_and_triton_3_2() -> None:
    volta = TARGETS["V100"]
    assert "bf16 tensor" not in volta.peak_tflops
    assert volta.last_cuda == (12, 9)
    assert volta.last_triton == "3.2"


def test_a_cpu_has_no_static_figures() -> None:
    assert TARGETS["CPU"] == Target(name="CPU", kind="cpu")


@pytest.mark.parametrize(
    ("device", "target"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA B200", "B200"),
        ("NVIDIA GB200", "B200"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("A100-PCIE-40GB", "A100"),
        ("Tesla V100-SXM2-16GB", "V100"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA GeForce RTX 4090", "RTX4090"),
        ("NVIDIA RTX A1000", None),
        ("NVIDIA GH200 480GB", None),
        ("NVIDIA L40", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA T4", None),
        ("", None),
    ],
)
def test_a_devices_name_finds_its_target(device: str, target: str | None) -> None:
    found = target_of_device(device)
    assert (found.name if found else None) == target


def test_a_target_is_found_in_any_case() -> None:
    assert find_target(" rtx4090 ").name == "RTX4090"


def test_an_unknown_target_offers_the_closest_name() -> None:
    with pytest.raises(UnknownName, match="H100"):
        find_target("H10")
