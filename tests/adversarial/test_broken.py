"""Broken candidates end within their limits, by name; the judge goes on and nothing is left.

One session judges them all, one after the other; an honest candidate follows where a bound was hit
that all share, and at the end.
"""

from __future__ import annotations

import gc
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kernel_generator.domain.outcome import Outcome
from kernel_generator.evaluation.judge import Limits
from kernel_generator.evaluation.local import LocalJudge
from kernel_generator.runs.defaults import local_target
from tests.adversarial.broken import BROKEN, Broken
from tests.adversarial.courtroom import STRICT, descendants, planted
from tests.evaluation.judging import CORRECTNESS, solution, task

if TYPE_CHECKING:
    from collections.abc import Generator

    from kernel_generator.domain.evaluation import Evaluation
    from kernel_generator.evaluation.session import LocalSession
    from tests.adversarial.courtroom import Planted

LIMITS = Limits(build_s=25.0, first_call_s=8.0, call_s=8.0)
_GRACE_S = 15.0
"""Starting and ending a sandbox on a busy machine."""
GOOD = solution("def run(x):\n    return x * 2\n")


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Generator[Planted]:
    with planted(tmp_path_factory.mktemp("planted")) as found:
        yield found


@pytest.fixture(scope="module")
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Generator[Path]:
    """The only folder that the judge makes temporary files in, while these tests run."""
    folder = tmp_path_factory.mktemp("t")
    old, tempfile.tempdir = tempfile.tempdir, str(folder)
    yield folder
    tempfile.tempdir = old


@pytest.fixture(scope="module")
def cpu(here: Planted, temporary: Path) -> Generator[LocalSession]:
    yield from _session("CPU")


@pytest.fixture(scope="module")
def gpu(here: Planted, temporary: Path) -> Generator[LocalSession]:
    yield from _session(local_target().name)


def _session(target: str) -> Generator[LocalSession]:
    session = LocalJudge(LIMITS).open(task(target=target))
    try:
        session.prepare()
        yield session
    finally:
        session.close()


def _marks(case: Broken) -> list[pytest.MarkDecorator]:
    gpu = [pytest.mark.gpu] if case.device == "cuda" else []
    return gpu + ([] if case.quick else [pytest.mark.slow])


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=case.name, marks=_marks(case)) for case in BROKEN]
)
def test_a_broken_candidate_ends_by_name(
    case: Broken, here: Planted, request: pytest.FixtureRequest
) -> None:
    session: LocalSession = request.getfixturevalue("gpu" if case.device == "cuda" else "cpu")
    if case.contained:
        _needs_strict(session, case)
    found = _judged(session, case)
    if case.contained or case.device == "cuda":
        _goes_on(session)
    assert found.outcome in case.outcomes, f"{found.outcome}: {found.message[:1000]}"
    assert found.seconds <= _longest(case)
    assert len(found.log) < 100_000
    assert len(found.message) < 100_000
    assert here.left_behind() == []


def test_an_honest_candidate_passes_after_all_of_them(cpu: LocalSession) -> None:
    _goes_on(cpu)


@pytest.mark.slow
def test_nothing_is_left_of_a_session_with_broken_candidates(
    here: Planted, temporary: Path
) -> None:
    kinds = ("endless call", "os._exit in a call", "segmentation fault", "syntax error")
    # What the first session of a process makes once and keeps is not counted.
    _pass_through(kinds[:1])
    before = _belongings(temporary)
    _pass_through(kinds)
    assert _belongings(temporary) == before


def _pass_through(kinds: tuple[str, ...]) -> None:
    session = LocalJudge(LIMITS).open(task())
    try:
        session.prepare()
        for case in BROKEN:
            if case.name in kinds:
                _judged(session, case)
    finally:
        session.close()


def _belongings(temporary: Path) -> dict[str, object]:
    """Processes below this one, its file handles, and files of its making."""
    gc.collect()
    return {
        "processes": len(descendants()),
        "file handles": len(list(Path("/proc/self/fd").iterdir())),
        "temporary files": sorted(path.name for path in temporary.iterdir()),
        "shared memory": sorted(
            path.name for path in Path("/dev/shm").iterdir() if "kernel" in path.name
        ),
    }


def _judged(session: LocalSession, case: Broken) -> Evaluation:
    candidate = solution(
        case.source, language=case.language, passing=case.passing, entry=case.entry
    )
    return session.evaluate(candidate, CORRECTNESS)


def _goes_on(session: LocalSession) -> None:
    after = session.evaluate(GOOD, CORRECTNESS)
    assert after.outcome.is_result, f"the next candidate: {after.outcome}: {after.message[:1000]}"


def _longest(case: Broken) -> float:
    """Seconds that no evaluation of it may exceed: each step's limit once."""
    return LIMITS.build_s + LIMITS.first_call_s + LIMITS.call_s + _GRACE_S


def _needs_strict(session: LocalSession, case: Broken) -> None:
    found = session.evaluate(GOOD, CORRECTNESS)
    assert found.isolation is not None
    if found.isolation.level != STRICT:
        pytest.fail(
            f"not run: '{case.name}' harms this machine unless it is contained, and the judge "
            f"reached isolation level '{found.isolation.level}', not '{STRICT}'"
        )


def test_only_a_result_or_a_named_failure_is_expected_of_any() -> None:
    assert all(case.outcomes for case in BROKEN)
    assert not any(Outcome.NOT_RUN in case.outcomes for case in BROKEN)
