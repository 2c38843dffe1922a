"""A generator with a scripted model, what it was asked and what it told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from kernel_generator import GeneratedSolution, KernelGenerator
from kernel_generator.domain.events import Attempted, RunFinished, RunStopped
from kernel_generator.evaluation.toolchain import gpu_name
from kernel_generator.models.scripted import ScriptedModel

if TYPE_CHECKING:
    from flashinfer_bench import TraceSet

    from kernel_generator.domain.events import Event
    from kernel_generator.domain.outcome import Outcome
    from kernel_generator.models.protocol import LanguageModel

without_a_gpu = pytest.mark.skipif(
    gpu_name() is not None, reason="says what happens on a machine without a GPU"
)


@dataclass
class Desk:
    """A generator, what it was told and what it tells."""

    generator: KernelGenerator
    model: ScriptedModel
    events: list[Event] = field(default_factory=list)

    @property
    def outcomes(self) -> list[Outcome]:
        return [e.attempt.outcome for e in self.events if isinstance(e, Attempted)]

    @property
    def reason(self) -> str:
        return next(e.reason for e in self.events if isinstance(e, RunFinished | RunStopped))


def a_desk(*replies: Any, target: str = "CPU", language: str = "python") -> Desk:
    """A generator whose model answers with `replies` in turn, or as one function says."""
    script = replies[0] if len(replies) == 1 and callable(replies[0]) else list(replies)
    model, events = ScriptedModel(script), []
    made = KernelGenerator(
        model=model, language=language, target_gpu=target, on_event=events.append
    )
    return Desk(made, model, events)


def optimize(desk: Desk, traceset: TraceSet, **goal: Any) -> GeneratedSolution:
    return desk.generator.optimized_generate(
        traceset=traceset, definition=traceset.definitions["scale_add"], **goal
    )


def generator_of(model: LanguageModel) -> KernelGenerator:
    return KernelGenerator(model=model, language="python", target_gpu="CPU")
