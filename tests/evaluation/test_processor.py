"""The card of the CPU that this machine is."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from kernel_generator.domain.outcome import Outcome
from kernel_generator.evaluation import processor
from kernel_generator.evaluation.processor import cpus_of, this_processor
from tests.evaluation.judging import CORRECTNESS, opened, solution, task

if TYPE_CHECKING:
    from pathlib import Path


def test_this_processor_is_described_by_what_was_measured_here() -> None:
    found = this_processor()
    assert found.name == "CPU"
    assert found.bandwidth_gb_s > 0
    assert found.memory_gib > 0
    assert set(found.peak_tflops) == {"fp32", "bf16"}
    assert all(rate > 0 for rate in found.peak_tflops.values())
    assert "measured" in found.source


@pytest.fixture
def hyperthreads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two cores of two CPUs each: 0 and 2, 1 and 3."""
    for cpu in range(4):
        folder = tmp_path / f"cpu{cpu}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{cpu % 2},{cpu % 2 + 2}")
    monkeypatch.setattr(processor, "_CPUS", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    cpus_of.cache_clear()


@pytest.mark.usefixtures("hyperthreads")
def test_threads_have_cores_of_their_own_first() -> None:
    assert cpus_of(2) == (0, 1)
    assert cpus_of(3) == (0, 1, 2)
    cpus_of.cache_clear()


def test_a_candidate_runs_on_those_cpus_only() -> None:
    source = "import os\ndef run(x):\n    assert 0, sorted(os.sched_getaffinity(0))\n"
    with opened(task()) as session:
        found = session.evaluate(solution(source), CORRECTNESS)
    assert found.outcome is Outcome.RUNTIME_ERROR
    threads = processor.torch.get_num_threads()
    assert str(sorted(cpus_of(threads))) in found.message
