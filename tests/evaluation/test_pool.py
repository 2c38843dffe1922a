"""Children of a session: what was retired or closed is gone."""

from __future__ import annotations

import pytest

from kernel_generator.domain.errors import SandboxError
from kernel_generator.evaluation.nursery import Nursery
from kernel_generator.evaluation.pool import Pool
from kernel_generator.sandbox.isolation import Isolation, Level
from tests.evaluation.judging import DOUBLE, task


@pytest.fixture
def pool() -> Pool:
    return Pool(task(DOUBLE), Nursery("cpu", Isolation(Level.PROCESS)))


def test_a_retired_child_is_gone_once_the_pool_has_settled(pool: Pool) -> None:
    worker = pool.start()
    pool.retire(worker)
    pool.settle()
    assert not worker.alive
    pool.close()


def test_a_closed_pool_leaves_none_that_was_being_retired(pool: Pool) -> None:
    workers = [pool.start() for _ in range(3)]
    for worker in workers:
        pool.retire(worker)
    pool.close()
    assert not any(worker.alive for worker in workers)


def test_a_closed_pool_starts_none_and_still_closes_what_it_is_given(pool: Pool) -> None:
    worker = pool.start()
    pool.close()
    pool.retire(worker)
    assert not worker.alive
    with pytest.raises(SandboxError, match="closed"):
        pool.start()
