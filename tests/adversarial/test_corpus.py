"""Every cheat ends as its record says, and no honest solution is turned away."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from kernel_generator.domain.outcome import Outcome
from tests.adversarial.cheats import CHEATS
from tests.adversarial.courtroom import (
    STRICT,
    Courtroom,
    Place,
    Planted,
    devices_of,
    place_of,
    planted,
    reference_case,
)
from tests.adversarial.honest import HONEST
from tests.adversarial.records import Case, Cheat, Honest, Labelled, Neutralised, Rejected

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from kernel_generator.domain.evaluation import Evaluation

NOISE = 1.5
"""A cheat that is credited no more than this times its honest twin gained nothing that shows."""
_AGAIN = 2
"""So often what seems to have gained is judged again, beside its twin."""


@pytest.fixture(scope="module")
def courtroom() -> Generator[Courtroom]:
    with Courtroom() as found:
        yield found


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Generator[Planted]:
    with planted(tmp_path_factory.mktemp("planted")) as found:
        yield found


def _each(cases: Sequence[Case]) -> list[object]:
    """A parameter for each case and device, those that share a session next to each other."""
    every = [(case, device) for case in cases for device in devices_of(case)]
    every.sort(key=lambda one: _order(place_of(*one), one[1]))
    return [
        pytest.param(case, device, id=f"{case.name} ({device})", marks=_marks(case, device))
        for case, device in every
    ]


def _order(place: Place, device: str) -> tuple[str, ...]:
    return (device, place.definition, place.target, place.language)


def _marks(case: Case, device: str) -> list[pytest.MarkDecorator]:
    marks = [] if case.quick else [pytest.mark.slow]
    if device == "cuda":
        marks.append(pytest.mark.gpu)
    elif case.language == "triton":
        reason = "with a GPU, Triton compiles: the interpreter is not used"
        marks.append(pytest.mark.skipif(torch.cuda.is_available(), reason=reason))
    return marks


@pytest.mark.parametrize(("case", "device"), _each(CHEATS))
def test_a_cheat_ends_as_it_must(
    case: Cheat, device: str, courtroom: Courtroom, here: Planted
) -> None:
    if case.contained:
        _needs_strict(courtroom, case, device)
    found = courtroom.judge(case, device, here)
    left = here.left_behind()
    match case.ends:
        case Rejected(outcomes):
            assert found.outcome in outcomes, _told(found)
        case Labelled(words):
            assert found.outcome.is_result, _told(found)
            assert _has_label(found, words), found.labels
        case Neutralised(twin, found_out):
            honest = courtroom.judge_once(_twin(case, twin), device)
            for _ in range(_AGAIN):
                # What is gained is gained each time; noise is not. One that is refused at times has
                # escaped at others.
                if not found.outcome.is_result or not _gained(found, honest):
                    break
                found = courtroom.judge(case, device, here)
                assert found.outcome.is_result, f"credited once, then {_told(found)}"
                honest = courtroom.judge(_twin(case, twin), device)
            if found.outcome.is_result:
                assert not _gained(found, honest), (
                    f"credited {found.speedup}, its honest twin {honest.speedup}"
                )
            else:
                assert found.outcome in found_out, _told(found)
            left += here.left_behind()
    assert left == []


@pytest.mark.parametrize(("case", "device"), _each(HONEST))
def test_an_honest_solution_is_not_turned_away(
    case: Honest, device: str, courtroom: Courtroom
) -> None:
    found = courtroom.judge(case, device)
    interpreted = case.language == "triton" and device == "cpu"
    expected = Outcome.CORRECT_NOT_MEASURED if interpreted else Outcome.PASSED
    assert found.outcome is expected, _told(found)
    assert _has_label(found, case.label), found.labels


def test_the_corpus_is_as_large_as_it_is_meant_to_be() -> None:
    names = [case.name for case in (*CHEATS, *HONEST)]
    assert len(set(names)) == len(names)
    assert len(CHEATS) >= 44
    assert len(HONEST) >= 22
    assert len({case.definition for case in CHEATS}) >= 5
    assert {case.language for case in CHEATS} == {"python", "triton", "cpp", "cuda"}


def _needs_strict(courtroom: Courtroom, case: Cheat, device: str) -> None:
    """Fail before harm is done, where the judge does not keep its candidates apart."""
    found = courtroom.judge_once(reference_case(case.definition), device)
    assert found.isolation is not None
    if found.isolation.level != STRICT:
        pytest.fail(
            f"not run: '{case.name}' harms this machine unless it is contained, and the judge "
            f"reached isolation level '{found.isolation.level}', not '{STRICT}'"
        )


def _twin(case: Cheat, name: str) -> Case:
    if not name:
        return reference_case(case.definition)
    return next(one for one in HONEST if one.name == name)


def _gained(found: Evaluation, honest: Evaluation) -> bool:
    assert honest.outcome.is_result, _told(honest)
    if found.speedup is None or honest.speedup is None:
        return found.speedup is not honest.speedup
    return found.speedup.low > NOISE * honest.speedup.high


def _has_label(found: Evaluation, words: str) -> bool:
    return not words or any(words in label.lower() for label in found.labels)


def _told(found: Evaluation) -> str:
    return f"{found.outcome}: {found.message[:2000]} {found.speedup or ''} {found.log[-500:]}"
