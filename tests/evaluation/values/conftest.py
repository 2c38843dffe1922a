"""Fixtures of these tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from collections.abc import Generator


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Generator[None]:
    """References loop over tiny tensors: threads would mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
