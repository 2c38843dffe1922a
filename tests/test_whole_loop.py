"""The whole loop over HTTP: a real client asks, candidates fail and pass, feedback goes back."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from kernel_generator import KernelGenerator, NoPassingSolution
from kernel_generator.domain.conversation import Usage
from kernel_generator.domain.errors import ProviderRefused, ProviderUnavailable
from kernel_generator.domain.events import Attempted, RunFinished, RunStopped, Saved, StopKind
from kernel_generator.domain.outcome import Outcome
from kernel_generator.domain.proposal import Purpose
from kernel_generator.evaluation.judge import Limits
from kernel_generator.models.endpoint_model import EndpointModel
from kernel_generator.models.open_model import open_model
from kernel_generator.models.protocol import Patience
from tests.local_model import local_model_server
from tests.loopback import (
    REPORTED_MODEL,
    USAGE,
    LoopbackServer,
    fails,
    hangs_up_midway,
    is_a_web_page,
    is_cut,
    refuses,
    resets_midway,
    says,
    says_nothing,
    stalls_midway,
)
from tests.models.asking import at
from tests.runs.sets import RIGHT, WRONG, a_traceset, cpp_reply, python_reply

if TYPE_CHECKING:
    from pathlib import Path

    from flashinfer_bench import TraceSet

    from kernel_generator.domain.attempt import Attempt
    from kernel_generator.domain.events import Event
    from kernel_generator.generator import GeneratedSolution
    from tests.loopback import Behaviour, Recorded

KEY = "sk-planted-key-of-the-loop"

PYTHON = (
    python_reply("def run(x)\n    return x * 2 + 1"),
    python_reply("def run(x):\n    return double_and_add(x)"),
    WRONG,
    RIGHT,
)
PYTHON_EVIDENCE = (
    ("def run(x)\n", "SyntaxError: expected ':'"),
    ("main.py", "return double_and_add(x)", "NameError: name 'double_and_add' is not defined"),
)
CPP = (
    cpp_reply("for (int64_t i = 0; i < length; ++i) out[i] = in[i] * 2 + 1;"),
    cpp_reply('TVM_FFI_THROW(ValueError) << "planted: cannot take " << x.size(0) << " elements";'),
    cpp_reply("for (int64_t i = 0; i < x.size(0); ++i) out[i] = in[i] * 2;"),
    cpp_reply("for (int64_t i = 0; i < x.size(0); ++i) out[i] = in[i] * 2 + 1;"),
)
CPP_EVIDENCE = (
    ("kernel.cpp:10:", "was not declared in this scope", "i < length"),
    ("ValueError: planted: cannot take 3 elements",),
)
OUTCOMES = [
    Outcome.COMPILE_ERROR,
    Outcome.RUNTIME_ERROR,
    Outcome.WRONG_VALUES,
    Outcome.PASSED,
]
EACH_WIRE = pytest.mark.parametrize(
    ("dialect", "stream"),
    [
        pytest.param("chat", True, id="chat-stream"),
        pytest.param("chat", False, id="chat-whole", marks=pytest.mark.slow),
        pytest.param("responses", True, id="responses-stream", marks=pytest.mark.slow),
        pytest.param("responses", False, id="responses-whole", marks=pytest.mark.slow),
    ],
)


@dataclass(frozen=True)
class Story:
    """One finished run, seen from both ends of the wire."""

    language: str
    requests: list[Recorded]
    events: list[Event]
    solution: GeneratedSolution
    generator: KernelGenerator

    @property
    def attempts(self) -> list[Attempt]:
        """Oldest first."""
        return [e.attempt for e in self.events if isinstance(e, Attempted)]

    @property
    def evidence(self) -> tuple[tuple[str, ...], ...]:
        """What the prompts after the first two candidates have to quote."""
        return CPP_EVIDENCE if self.language == "cpp" else PYTHON_EVIDENCE


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(("chat", True, "cpp"), id="chat-stream-cpp"),
        pytest.param(("responses", False, "python"), id="responses-whole-python"),
    ],
)
def story(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Story:
    """compile error → runtime error → wrong values → passed, over one wire."""
    dialect, stream, language = request.param
    traceset = a_traceset(tmp_path_factory.mktemp("traceset"), sizes=(3,))
    events: list[Event] = []
    replies = CPP if language == "cpp" else PYTHON
    with LoopbackServer([says(reply) for reply in replies]) as server:
        # The public way in; only streaming cannot be turned off there.
        how = (
            {"model_name": "loopback", "api_key": KEY, "base_url": server.base_url}
            | {"dialect": dialect}
            if stream
            else {"model": a_model(server, dialect, stream=False)}
        )
        generator = KernelGenerator(
            language=language, target_gpu="CPU", on_event=events.append, **how
        )
        solution = generator.optimized_generate(
            traceset=traceset, definition=traceset.definitions["scale_add"], rounds=6
        )
    return Story(language, server.requests, events, solution, generator)


def a_model(
    server: LoopbackServer, dialect: str = "chat", *, stream: bool = True, retries: int = 1
) -> EndpointModel:
    """A model in a hurry."""
    # What is not streamed is one silence: there the answer's limit is the idle limit.
    patience = Patience(
        idle_s=0.5, answer_s=20.0 if stream else 2.0, max_retries=retries, backoff_s=0.01
    )
    return EndpointModel(at(server.base_url, dialect=dialect), patience=patience, stream=stream)


def observed(request: Recorded) -> str:
    """The part of a prompt that tells what was observed of the version it shows."""
    _, _, rest = request.prompt.partition("# What was observed of exactly this version")
    return rest.partition("\n# ")[0]


# --- compile error, runtime error, wrong values, passed --------------------------------------


@pytest.mark.slow
def test_the_loop_ends_with_the_first_version_that_passes(story: Story) -> None:
    assert [a.outcome for a in story.attempts] == OUTCOMES
    assert len(story.requests) == len(OUTCOMES)
    assert story.solution.evaluation is not None
    assert story.solution.evaluation.complete
    assert "in[i] * 2 + 1" in story.solution.sources[0].content or "x * 2 + 1" in (
        story.solution.sources[0].content
    )


@pytest.mark.slow
def test_a_draft_is_asked_for_first_and_then_repairs_of_the_last_version(story: Story) -> None:
    proposals = [a.proposal for a in story.attempts]
    assert [p.purpose for p in proposals] == [Purpose.DRAFT] + [Purpose.REPAIR] * 3
    assert [p.parent for p in proposals] == [None, 0, 1, 2]


@pytest.mark.slow
@pytest.mark.parametrize("failed", [0, 1], ids=["compile error", "runtime error"])
def test_a_prompt_quotes_the_evidence_of_the_version_before_it_alone(
    story: Story, failed: int
) -> None:
    told = observed(story.requests[failed + 1])
    assert all(line in told for line in story.evidence[failed]), told
    assert not any(line in told for line in story.evidence[1 - failed][1:])


@pytest.mark.slow
def test_a_prompt_tells_what_was_got_and_what_was_expected(story: Story) -> None:
    told = observed(story.requests[3])
    first = re.search(r"first y\[0\] is (\S+), expected ([^;.\s]+(?:\.\d+)?)", told)
    assert "output `y`: 3 of 3 elements are wrong" in told
    assert first is not None, told
    assert float(first[2].rstrip(".")) - float(first[1]) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.slow
def test_a_prompt_shows_the_very_source_that_failed(story: Story) -> None:
    assert "# Your version" not in story.requests[0].prompt
    for attempt, request in zip(story.attempts, story.requests[1:], strict=False):
        assert attempt.candidate is not None
        source = attempt.candidate.solution.sources[0].content.strip()
        shown = request.prompt.partition("# Your version")[2]
        assert source in shown.partition("# What was observed")[0]


@pytest.mark.slow
def test_each_attempt_knows_what_it_used(story: Story) -> None:
    used = Usage(**USAGE)
    for attempt in story.attempts:
        assert attempt.reply is not None
        assert attempt.reply.usage == used
        assert attempt.reply.model == REPORTED_MODEL
        assert attempt.reply.cost_usd is None, "a price that nobody knows is not 0"


@pytest.mark.slow
def test_the_run_says_why_it_ended(story: Story) -> None:
    finished = [e for e in story.events if isinstance(e, RunFinished)]
    assert [e.reason for e in finished] == ["a version passed on all workloads"]
    assert finished[0].best is story.attempts[-1]


@pytest.mark.slow
def test_saving_is_an_event_and_gives_a_file_that_flashinfer_bench_reads(
    story: Story, tmp_path: Path
) -> None:
    traceset = a_traceset(tmp_path, sizes=(3,))
    path = story.generator.save(story.solution, traceset)
    assert [e.path for e in story.events if isinstance(e, Saved)][-1] == path
    again = type(traceset).from_path(str(tmp_path))
    assert again.get_solution(story.solution.name) is not None
    assert len(again.traces["scale_add"]) == 1


# --- what a provider does to the loop --------------------------------------------------------


def run_loop(
    traceset: TraceSet, model: EndpointModel, rounds: int, **goal: bool
) -> tuple[GeneratedSolution, list[Event]]:
    events: list[Event] = []
    generator = KernelGenerator(
        model=model, language="python", target_gpu="CPU", on_event=events.append
    )
    solution = generator.optimized_generate(
        traceset=traceset, definition=traceset.definitions["scale_add"], rounds=rounds, **goal
    )
    return solution, events


@EACH_WIRE
def test_faults_that_pass_are_survived_and_useless_answers_are_told_back(
    tmp_path: Path, dialect: str, stream: bool
) -> None:
    script = [
        *(fails(429, retry_after_s=0.01), says_nothing()),
        *(fails(500), refuses("That is against my principles.")),
        *(resets_midway(), is_cut("```python main.py\ndef run(x):\n    retu")),
        # After three repairs in a row the loop turns away from what it has, and drafts anew.
        *(stalls_midway(), refuses()),
        *(hangs_up_midway(), says("I would rather talk about the weather.")),
        *(fails(503), refuses()),
    ]
    with LoopbackServer(script) as server, pytest.raises(NoPassingSolution) as raised:
        run_loop(a_traceset(tmp_path), a_model(server, dialect, stream=stream), rounds=6)
    assert [a.outcome for a in raised.value.attempts] == [
        Outcome.EMPTY_REPLY,
        Outcome.REFUSED_REPLY,
        Outcome.TRUNCATED_REPLY,
        Outcome.REFUSED_REPLY,
        Outcome.MALFORMED_REPLY,
        Outcome.REFUSED_REPLY,
    ]
    assert len(server.requests) == len(script)
    told = [observed(r) for r in server.requests[1::2]]
    assert "EMPTY_REPLY" in told[1]
    assert "The provider says: That is against my principles." in told[2]
    assert "The reply was cut by the length limit." in told[3]
    assert told[4] == "", "a draft builds on nothing"
    assert "The reply holds no code block." in told[5]
    assert "I would rather talk about the weather." in server.requests[-1].prompt


@pytest.mark.parametrize("dialect", ["chat", "responses"])
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        (fails(401, "no such key"), "check or renew that key"),
        (fails(404, "no such model"), "check the model name"),
        (is_a_web_page(), "the base URL is probably wrong"),
    ],
    ids=["401", "404", "HTML"],
)
def test_what_asking_again_cannot_mend_is_said_at_once(
    tmp_path: Path, behaviour: Behaviour, words: str, dialect: str, stream: bool
) -> None:
    with LoopbackServer([behaviour]) as server:
        model = a_model(server, dialect, stream=stream)
        generator = KernelGenerator(model=model, language="python", target_gpu="CPU")
        definition = a_traceset(tmp_path).definitions["scale_add"]
        with pytest.raises(ProviderRefused, match=words):
            generator.generate(definition)
    assert len(server.requests) == 1


def test_a_provider_that_says_no_ends_the_loop(tmp_path: Path) -> None:
    with (
        LoopbackServer([says("no code"), is_a_web_page()]) as server,
        pytest.raises(ProviderRefused, match="answered with a web page"),
    ):
        run_loop(a_traceset(tmp_path), a_model(server), rounds=5)
    assert len(server.requests) == 2


def test_a_provider_that_is_down_is_told_from_a_kernel_that_is_wrong(tmp_path: Path) -> None:
    with (
        LoopbackServer([fails(500)] * 2) as server,
        pytest.raises(ProviderUnavailable, match="kept answering 500"),
    ):
        run_loop(a_traceset(tmp_path), a_model(server, retries=1), rounds=5)


@pytest.mark.slow
def test_a_provider_that_fails_later_does_not_take_back_what_passed(tmp_path: Path) -> None:
    traceset = a_traceset(tmp_path, sizes=(3,))
    with LoopbackServer([says(RIGHT), stalls_midway()]) as server:
        model = a_model(server, retries=0)
        solution, events = run_loop(traceset, model, rounds=5, keep_improving=True)
    assert solution.evaluation is not None
    assert solution.evaluation.outcome is Outcome.PASSED
    [stopped] = [e for e in events if isinstance(e, RunStopped)]
    assert stopped.kind is StopKind.PROVIDER
    assert stopped.best is not None
    assert stopped.reason.startswith("stopped with what had passed: 127.0.0.1 gave no whole")


# --- a real language model -------------------------------------------------------------------


@pytest.mark.local_llm
@pytest.mark.parametrize("dialect", ["chat", "responses"])
def test_the_loop_asks_a_real_model_and_judges_whatever_it_says(
    tmp_path: Path, dialect: str
) -> None:
    traceset = a_traceset(tmp_path, sizes=(3,))
    events: list[Event] = []
    with local_model_server(context=8192, longest_answer=160) as url:
        model = open_model("smollm2", base_url=url, dialect=dialect, environment={})
        generator = KernelGenerator(
            model=model,
            language="python",
            target_gpu="CPU",
            on_event=events.append,
            # A model of this size may well write a loop without an end.
            limits=Limits(build_s=60.0, first_call_s=20.0, call_s=10.0),
        )
        try:
            solution = generator.optimized_generate(
                traceset=traceset, definition=traceset.definitions["scale_add"], rounds=2
            )
        except NoPassingSolution as error:
            attempts = list(error.attempts)
            assert len(attempts) == 2
            assert attempts == [e.attempt for e in events if isinstance(e, Attempted)]
        else:
            attempts = [e.attempt for e in events if isinstance(e, Attempted)]
            assert solution.evaluation is not None
            assert solution.evaluation.outcome is Outcome.PASSED
    for attempt in attempts:
        assert attempt.outcome in Outcome
        assert attempt.reply is not None
        assert attempt.reply.usage is not None
        assert attempt.reply.usage.prompt > 100, "the prompt was read"
        assert attempt.reply.usage.completion > 0
