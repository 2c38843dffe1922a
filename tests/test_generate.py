"""`generate`: independent solutions, asked for at once, and what is kept where some fail."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from typing import TYPE_CHECKING

import flashinfer_bench
import pytest

from kernel_generator import GeneratedSolution, KernelGenerator, NoPassingSolution
from kernel_generator.domain.conversation import Finish, Reply
from kernel_generator.domain.errors import (
    IncompleteGeneration,
    InvalidInput,
    ProviderUnavailable,
)
from kernel_generator.domain.events import (
    Asked,
    Attempted,
    Notice,
    Replied,
    SampleRead,
    SamplingStarted,
)
from kernel_generator.domain.outcome import Outcome
from kernel_generator.domain.proposal import Purpose
from kernel_generator.models.scripted import ScriptedModel
from kernel_generator.runs.tracesets import workloads_of
from tests.cli.commands import then
from tests.desk import a_desk, generator_of
from tests.loopback import LoopbackServer, says
from tests.runs.sets import (
    RIGHT,
    a_traceset,
)

if TYPE_CHECKING:
    from pathlib import Path

    from kernel_generator.domain.conversation import Request
    from kernel_generator.domain.events import Event
    from tests.loopback import Behaviour
    from tests.loopback_wire import Recorded


pytestmark = pytest.mark.usefixtures("bare_environment")


class Gathering:
    """A model that answers nobody before everybody has asked."""

    name = "gathering/model:1"

    def __init__(self, size: int) -> None:
        self._size = size
        self._all_here = asyncio.Event()
        self.asked: list[Request] = []

    async def ask(self, request: Request) -> Reply:
        self.asked.append(request)
        if len(self.asked) == self._size:
            self._all_here.set()
        await self._all_here.wait()
        return Reply(RIGHT, Finish.COMPLETE, self.name)

    async def close(self) -> None:
        """Nothing to close."""


@pytest.mark.timeout(60)
def test_samples_are_asked_for_concurrently_and_know_nothing_of_each_other(tmp_path: Path) -> None:
    model = Gathering(3)
    solutions = generator_of(model).generate(
        a_traceset(tmp_path).definitions["scale_add"], pass_k=3
    )
    assert len(solutions) == 3
    assert [r.proposal.purpose for r in model.asked] == [Purpose.DRAFT] * 3
    assert len({r.messages for r in model.asked}) == 1
    assert len({s.name for s in solutions}) == 3


def test_generated_solutions_are_real_ones_and_unevaluated(tmp_path: Path) -> None:
    traceset = a_traceset(tmp_path)
    [solution] = generator_of(Gathering(1)).generate(traceset.definitions["scale_add"])
    assert isinstance(solution, flashinfer_bench.Solution)
    assert solution.evaluation is None
    assert solution.author == "gathering/model:1"
    assert flashinfer_bench.Solution.model_validate_json(solution.to_json()) == solution


def test_workloads_given_to_generate_are_told_to_the_model(tmp_path: Path) -> None:
    traceset = a_traceset(tmp_path, sizes=(3, 12345))
    desk = a_desk(RIGHT)
    desk.generator.generate(
        traceset.definitions["scale_add"], workloads=workloads_of(traceset, "scale_add")
    )
    assert "n=12345" in desk.model.asked[0].messages[-1].text


def test_what_could_be_read_is_kept_where_something_could_not(tmp_path: Path) -> None:
    desk = a_desk(lambda request: "no code" if request.proposal.sample == 1 else RIGHT)
    with pytest.raises(IncompleteGeneration, match="2 of 3 solutions could be read") as raised:
        desk.generator.generate(a_traceset(tmp_path).definitions["scale_add"], pass_k=3)
    assert len(raised.value.solutions) == 2
    assert [(a.outcome, a.proposal.sample) for a in raised.value.attempts] == [
        (Outcome.MALFORMED_REPLY, 1)
    ] * 2, "each reply that could not be read"


def test_an_unreadable_sample_is_asked_once_more_with_the_reason(tmp_path: Path) -> None:
    desk = a_desk("no code", RIGHT)
    assert len(desk.generator.generate(a_traceset(tmp_path).definitions["scale_add"])) == 1
    assert "The reply holds no code block." in desk.model.asked[1].messages[-1].text


def test_a_provider_that_fails_some_samples_keeps_the_others(tmp_path: Path) -> None:
    desk = a_desk(ProviderUnavailable("is down"), RIGHT)
    with pytest.raises(IncompleteGeneration, match="1 of 2 solutions could be read; is down"):
        desk.generator.generate(a_traceset(tmp_path).definitions["scale_add"], pass_k=2)


def test_a_provider_that_fails_all_samples_is_the_error(tmp_path: Path) -> None:
    desk = a_desk(ProviderUnavailable("is down"), ProviderUnavailable("is down"))
    with pytest.raises(ProviderUnavailable, match="is down"):
        desk.generator.generate(a_traceset(tmp_path).definitions["scale_add"], pass_k=2)


@pytest.mark.parametrize("pass_k", [0, -1])
def test_no_solution_cannot_be_asked_for(tmp_path: Path, pass_k: int) -> None:
    desk = a_desk()
    with pytest.raises(InvalidInput, match=f"pass_k is {pass_k}: ask for at least 1"):
        desk.generator.generate(a_traceset(tmp_path).definitions["scale_add"], pass_k=pass_k)


def test_generate_has_an_async_twin(tmp_path: Path) -> None:
    definition = a_traceset(tmp_path).definitions["scale_add"]
    solutions = asyncio.run(generator_of(Gathering(2)).generate_async(definition, pass_k=2))
    assert len(solutions) == 2


def test_the_synchronous_one_works_inside_a_running_event_loop(tmp_path: Path) -> None:
    definition = a_traceset(tmp_path).definitions["scale_add"]

    async def notebook() -> list[GeneratedSolution]:
        return generator_of(Gathering(2)).generate(definition, pass_k=2)

    assert len(asyncio.run(notebook())) == 2


def test_the_embedded_model_proposes_a_different_mode_for_each_sample(tmp_path: Path) -> None:
    generator = KernelGenerator(target_gpu="CPU")
    assert generator.model_name == "builtin:compiler"
    definition = a_traceset(tmp_path).definitions["scale_add"]
    solutions = generator.generate(definition, pass_k=3)
    assert len({s.sources[0].content for s in solutions}) == 3
    assert all("@torch.compile(" in s.sources[0].content for s in solutions)
    with pytest.raises(IncompleteGeneration, match=r"all \d+ modes were proposed") as raised:
        generator.generate(definition, pass_k=40)
    assert 3 <= len(raised.value.solutions) < 40


# --- what is told ----------------------------------------------------------------------------


def test_each_sample_is_told_from_asking_to_reading(tmp_path: Path) -> None:
    desk = a_desk("no code", RIGHT)
    [solution] = desk.generator.generate(a_traceset(tmp_path).definitions["scale_add"])
    kinds = [SamplingStarted, Asked, Replied, Attempted, Asked, Replied, SampleRead]
    assert [type(e) for e in desk.events] == kinds
    assert desk.events[-1].solution == solution.name


def test_the_prompt_holds_the_floor_that_the_declared_tensors_give(tmp_path: Path) -> None:
    traceset = a_traceset(tmp_path, sizes=(1000,))
    desk = a_desk(RIGHT)
    desk.generator.generate(
        traceset.definitions["scale_add"], workloads=workloads_of(traceset, "scale_add")
    )
    # Read once and written once, four bytes each.
    assert "floor 8 kB" in desk.model.asked[0].messages[-1].text


def test_what_cannot_be_done_on_this_machine_is_told(tmp_path: Path) -> None:
    desk = a_desk(RIGHT, target="V100")
    desk.generator.generate(a_traceset(tmp_path).definitions["scale_add"])
    notices = [e.text for e in desk.events if isinstance(e, Notice)]
    assert notices == desk.generator.notices
    assert "V100" in notices[0]


@pytest.mark.parametrize(
    ("key", "words"),
    [(None, "set LLM_API_KEY"), ("OPENAI_API_KEY", "a key is set (OPENAI_API_KEY): name one")],
)
def test_the_embedded_default_is_told_and_how_to_use_a_language_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str | None, words: str
) -> None:
    if key is not None:
        monkeypatch.setenv(key, "sk-planted")
    events: list[Event] = []
    generator = KernelGenerator(target_gpu="CPU", on_event=events.append)
    generator.generate(a_traceset(tmp_path).definitions["scale_add"])
    [told] = [e.text for e in events if isinstance(e, Notice)]
    assert told.startswith("no model was named: using the embedded 'builtin:compiler'")
    assert words in told
    assert "sk-planted" not in told


# --- Ctrl-C ----------------------------------------------------------------------------------


@pytest.mark.timeout(60)
def test_an_interrupted_generate_leaves_what_was_read(tmp_path: Path) -> None:
    read = asyncio.Event()

    class StopsTheSecond(ScriptedModel):
        async def ask(self, request: Request) -> Reply:
            if request.proposal.sample == 1:
                await read.wait()
                os.kill(os.getpid(), signal.SIGINT)
                await asyncio.Event().wait()
            return await super().ask(request)

    generator = KernelGenerator(
        model=StopsTheSecond([RIGHT]),
        language="python",
        target_gpu="CPU",
        on_event=lambda event: read.set() if isinstance(event, SampleRead) else None,
    )
    with pytest.raises(KeyboardInterrupt):
        generator.generate(a_traceset(tmp_path).definitions["scale_add"], pass_k=2)
    assert [s.author for s in generator.interrupted] == ["scripted"]


# --- several runs at once --------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_that_ends_leaves_the_connections_of_the_others_alone(tmp_path: Path) -> None:
    second_asked, first_ended = threading.Event(), threading.Event()
    traceset = a_traceset(tmp_path, "alpha_op", "omega_op", sizes=(3,))

    def answers(request: Recorded) -> Behaviour:
        if "alpha_op" in request.prompt:
            return then(lambda: second_asked.wait(60), says("no code"))
        second_asked.set()
        return then(lambda: first_ended.wait(60), says("no code either"))

    async def run(generator: KernelGenerator, name: str) -> None:
        await generator.optimized_generate_async(
            traceset=traceset, definition=traceset.definitions[name], rounds=1
        )

    async def both(generator: KernelGenerator) -> list[BaseException | None]:
        async def first() -> None:
            try:
                await run(generator, "alpha_op")
            finally:
                first_ended.set()

        return await asyncio.gather(first(), run(generator, "omega_op"), return_exceptions=True)

    with LoopbackServer(answers) as server:
        generator = KernelGenerator(
            "some-model", "python", "CPU", api_key="sk-test", base_url=server.base_url
        )
        ended = asyncio.run(both(generator))
    assert [type(e) for e in ended] == [NoPassingSolution] * 2, ended
    assert len(server.requests) == 2, "neither had to ask again"
