"""A provider that fails in every way it can spoils no record; `benchmarks/faults.py` is one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kernel_generator import KernelGenerator
from kernel_generator.domain.errors import ProviderRefused
from kernel_generator.domain.outcome import Outcome
from kernel_generator.evaluation.judge import Opened
from kernel_generator.models.endpoint_model import EndpointModel
from kernel_generator.runs.journal import known_runs
from kernel_generator.runs.store import Store
from tests.loopback import LoopbackServer, fails, says, says_nothing
from tests.models.asking import HURRY, at
from tests.runs.sets import RIGHT, a_traceset, an_evaluation

if TYPE_CHECKING:
    from flashinfer_bench import Solution, TraceSet

    from kernel_generator.domain.evaluation import Evaluation
    from kernel_generator.domain.task import Task
    from kernel_generator.evaluation.judge import Profile
    from kernel_generator.runs.generated import GeneratedSolution

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "faults.py"


@pytest.mark.slow
def test_what_is_stored_and_counted_is_what_a_failing_provider_gave_and_nothing_is_left() -> None:
    """Scripted replies and a stub for a judge; the server, the client and the store are real."""
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), "--requests", "60", "--together", "8"],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| requests | replies |" in done.stdout


class Agrees:
    """A stub for a judge that finds everything right, at once."""

    opened = Opened()

    def open(self, task: Task) -> Agrees:
        """Itself."""
        return self

    def prepare(self) -> None:
        """Nothing to prepare."""

    def evaluate(self, solution: Solution, profile: Profile) -> Evaluation:
        """Passed."""
        return an_evaluation(Outcome.PASSED, sizes=(3,))

    def close(self) -> None:
        """Nothing to close."""


def work_on(
    server: LoopbackServer, traceset: TraceSet, path: Path, run_id: str | None = None
) -> GeneratedSolution:
    """A run at that server, begun or resumed."""
    generator = KernelGenerator(
        model=EndpointModel(at(server.base_url), patience=HURRY),
        language="python",
        target_gpu="CPU",
        store=path,
        judge=Agrees(),
    )
    definition = traceset.definitions["scale_add"]
    return generator.optimized_generate(traceset=traceset, definition=definition, run_id=run_id)


def test_a_model_that_is_gone_is_named_and_the_run_goes_on_once_it_is_back(
    tmp_path: Path, own_store: Path
) -> None:
    traceset = a_traceset(tmp_path, sizes=(3,))
    gone = fails(404, "The model does not exist")
    with LoopbackServer([says_nothing(), gone]) as server, pytest.raises(ProviderRefused):
        work_on(server, traceset, own_store)
    [[run], _] = known_runs(Store(own_store))
    with (
        LoopbackServer([gone]) as server,
        pytest.raises(ProviderRefused, match="check the model name 'local-model'") as raised,
    ):
        work_on(server, traceset, own_store, run.run_id)
    assert [a.outcome for a in raised.value.attempts] == [Outcome.EMPTY_REPLY]
    with LoopbackServer([says(RIGHT)]) as server:
        work_on(server, traceset, own_store, run.run_id)
    assert len(server.requests) == 1
    [[run], _] = known_runs(Store(own_store))
    assert [a.outcome for a in run.history.attempts] == [Outcome.EMPTY_REPLY, Outcome.PASSED]
