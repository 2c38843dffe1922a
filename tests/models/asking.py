"""What the tests of this room share: a request, a provider table, and one way to ask."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from flashinfer_bench import Definition

from kernel_generator.domain.conversation import Message, Request, Role, Sampling
from kernel_generator.domain.proposal import Proposal, Purpose
from kernel_generator.domain.target import find_target
from kernel_generator.domain.task import Brief, Toolchain
from kernel_generator.models.credentials import Endpoint, resolve
from kernel_generator.models.directory import DIRECTORY, Directory
from kernel_generator.models.endpoint_model import EndpointModel
from kernel_generator.models.protocol import Patience

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kernel_generator.domain.conversation import Reply
    from kernel_generator.models.protocol import LanguageModel

HURRY = Patience(idle_s=0.3, answer_s=20.0, connect_s=5.0, max_retries=1, backoff_s=0.01)
"""Waits short enough for tests, long enough for a busy machine to answer."""

DOUBLE = Definition.model_validate(
    {
        "name": "double",
        "op_type": "elementwise",
        "axes": {"n": {"type": "var"}},
        "inputs": {"x": {"shape": ["n"], "dtype": "float32"}},
        "outputs": {"y": {"shape": ["n"], "dtype": "float32"}},
        "reference": "import torch\n\ndef run(x):\n    return x * 2\n",
    }
)


def a_request(
    *turns: tuple[Role, str],
    sampling: Sampling | None = None,
) -> Request:
    """A request about doubling a vector; by default one system and one user message."""
    turns = turns or ((Role.SYSTEM, "You write kernels."), (Role.USER, "Write one."))
    brief = Brief(
        definition=DOUBLE,
        workloads=(),
        target=find_target("CPU"),
        language="python",
        toolchain=Toolchain(python="3.11"),
    )
    return Request(
        messages=tuple(Message(role, text) for role, text in turns),
        brief=brief,
        proposal=Proposal(Purpose.DRAFT, round=1),
        sampling=sampling or Sampling(),
    )


def ask(model: LanguageModel, *requests: Request) -> list[Reply]:
    """Asks one after the other in one event loop, and closes."""

    async def all_of_them() -> list[Reply]:
        try:
            return [await model.ask(request) for request in requests or (a_request(),)]
        finally:
            await model.close()

    return asyncio.run(all_of_them())


def ask_together(model: LanguageModel, requests: Sequence[Request]) -> list[Reply]:
    """Asks all at once."""

    async def all_of_them() -> list[Reply]:
        try:
            return list(await asyncio.gather(*(model.ask(request) for request in requests)))
        finally:
            await model.close()

    return asyncio.run(all_of_them())


def at(base_url: str, *, dialect: str = "chat", model: str = "local-model") -> Endpoint:
    """An endpoint of nobody's at a loopback server."""
    return resolve(model, api_key="test-key", base_url=base_url, dialect=dialect, environment={})


def model_at(
    base_url: str,
    *,
    dialect: str = "chat",
    stream: bool = True,
    patience: Patience = HURRY,
) -> EndpointModel:
    """A model at a loopback server, in a hurry."""
    return EndpointModel(at(base_url, dialect=dialect), patience=patience, stream=stream)


def directory_at(**urls: str) -> Directory:
    """The real table with some providers' hosts replaced."""
    return Directory(
        providers=tuple(
            replace(p, base_url=urls[p.name], regional_hosts=()) if p.name in urls else p
            for p in DIRECTORY.providers
        ),
        families=DIRECTORY.families,
    )
