"""The card of the CPU that this machine is."""

from __future__ import annotations

from kernel_generator.evaluation.processor import this_processor


def test_this_processor_is_described_by_what_was_measured_here() -> None:
    found = this_processor()
    assert found.name == "CPU"
    assert found.bandwidth_gb_s > 0
    assert found.memory_gib > 0
    assert set(found.peak_tflops) == {"fp32", "bf16"}
    assert all(rate > 0 for rate in found.peak_tflops.values())
    assert "measured" in found.source
