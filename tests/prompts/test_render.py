"""Rendered prompts: what each holds, and that the same records give the same text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kernel_generator.domain.conversation import Role
from kernel_generator.domain.errors import UnknownName
from kernel_generator.domain.evaluation import Evaluation
from kernel_generator.domain.outcome import Outcome
from kernel_generator.domain.proposal import Proposal, Purpose
from kernel_generator.domain.target import TARGETS
from kernel_generator.domain.task import LANGUAGES
from kernel_generator.prompts.blocks import find_blocks
from kernel_generator.prompts.render import fenced, render
from tests.prompts import records

if TYPE_CHECKING:
    from collections.abc import Sequence

    from syrupy.assertion import SnapshotAssertion

    from kernel_generator.domain.attempt import Attempt
    from kernel_generator.domain.task import Brief

DRAFT = Proposal(purpose=Purpose.DRAFT, round=1)
REPAIR = Proposal(purpose=Purpose.REPAIR, round=2, parent=0)
IMPROVE = Proposal(purpose=Purpose.IMPROVE, round=2, parent=0)

FAILED = Evaluation(
    outcome=Outcome.RUNTIME_ERROR, message="ValueError: the sizes of x and out do not agree"
)


def user_text(brief: Brief, proposal: Proposal = DRAFT, history: Sequence[Attempt] = ()) -> str:
    return render(brief, proposal, history)[1].text


@pytest.mark.parametrize("purpose", list(Purpose))
@pytest.mark.parametrize("language", LANGUAGES)
def test_the_prompt_of_each_language_and_purpose(
    language: str, purpose: Purpose, snapshot: SnapshotAssertion
) -> None:
    found = records.passed() if purpose is Purpose.IMPROVE else FAILED
    history = [] if purpose is Purpose.DRAFT else [records.attempt(found, language)]
    proposal = Proposal(purpose=purpose, round=2, parent=None if not history else 0)
    messages = render(records.brief(language), proposal, history)
    assert "\n".join(f"[{m.role}]\n{m.text}" for m in messages) == snapshot


def test_a_prompt_is_one_system_and_one_user_message() -> None:
    messages = render(records.brief(), DRAFT)
    assert [m.role for m in messages] == [Role.SYSTEM, Role.USER]


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_can_be_written_for(target: str) -> None:
    language = "cuda" if TARGETS[target].is_gpu else "cpp"
    assert f"# Target: {target}" in user_text(records.brief(language, target))


def test_only_hopper_is_told_how_wgmma_is_fenced() -> None:
    told = {t for t in TARGETS if "`wgmma.fence`" in user_text(records.brief("cuda", t))}
    assert told == {"H100", "H200"}


def test_an_unknown_floor_is_said_to_be_unknown_and_why() -> None:
    text = user_text(records.brief(floors={}))
    assert "floor in bytes not known (not worked out for this workload)" in text
    text = user_text(records.brief())
    assert "not known (indices decide which bytes are touched" in text


def test_values_that_look_like_templates_stay_as_they_are() -> None:
    hostile = records.DEFINITION.model_copy(update={"description": "{{ 7 * 7 }} {% raw %} <b>&"})
    assert "{{ 7 * 7 }} {% raw %} <b>&" in user_text(records.brief(definition=hostile))


def test_a_parents_source_with_fences_and_template_marks_is_quoted_whole() -> None:
    source = 'DOC = """\n```\n{{ x }}\n```\n"""\n\n\n\ndef run(x, scale, out): ...\n'
    history = [records.attempt(FAILED, files={"main.py": source})]
    blocks = find_blocks(user_text(records.brief(), REPAIR, history))
    assert isinstance(blocks, list)
    assert source in [b.text for b in blocks]


def test_a_repair_pairs_the_parent_with_its_own_evaluation() -> None:
    first = records.attempt(FAILED, files={"main.py": "first = 1\n"})
    other = Evaluation(outcome=Outcome.TIMEOUT, message="it ran too long")
    second = records.attempt(other, files={"main.py": "second = 2\n"})
    text = user_text(records.brief(), REPAIR, [first, second])
    assert "first = 1" in text and "sizes of x and out" in text
    assert "second = 2" not in text and "it ran too long" not in text


def test_outcomes_of_earlier_attempts_are_told_in_one_line() -> None:
    history = [records.attempt(FAILED), records.attempt(records.passed())]
    text = user_text(records.brief(), IMPROVE, history)
    assert "#1 draft: RUNTIME_ERROR; #2 draft: PASSED (2.00×)" in text


def test_a_reply_without_files_is_shown_to_its_author_with_the_reason() -> None:
    parent = records.unreadable(
        Outcome.MALFORMED_REPLY, "The reply holds no code block.", "I would use a fused kernel."
    )
    text = user_text(records.brief(), REPAIR, [parent])
    assert "I would use a fused kernel." in text
    assert "The reply holds no code block." in text


def test_a_long_unreadable_reply_is_clipped() -> None:
    parent = records.unreadable(Outcome.MALFORMED_REPLY, "No.", "a" * 50_000)
    text = user_text(records.brief(), REPAIR, [parent])
    assert "46000 characters left out" in text


def test_sampling_is_not_asked_to_repeat_its_bits() -> None:
    sampling = records.DEFINITION.model_copy(update={"op_type": "sampling"})
    assert "same bits" in user_text(records.brief())
    assert "same bits" not in user_text(records.brief(definition=sampling))


def test_a_machine_without_a_gpu_is_told() -> None:
    text = user_text(records.brief(toolchain=records.CPU_TOOLCHAIN))
    assert "The judging machine has no GPU: Triton runs in its interpreter" in text
    assert "no GPU" not in user_text(records.brief("cpp"))


def test_a_repair_without_a_parent_is_an_error() -> None:
    with pytest.raises(ValueError, match="name its parent"):
        render(records.brief(), Proposal(purpose=Purpose.REPAIR, round=2))


def test_an_unknown_language_is_named_with_the_known_ones() -> None:
    with pytest.raises(UnknownName, match="triton"):
        render(records.brief("tritan", "H100"), DRAFT)


def test_a_fence_is_longer_than_any_inside_it() -> None:
    assert fenced("a ```` b").startswith("`````\n")


def test_the_prompts_own_words_stay_short() -> None:
    for language in LANGUAGES:
        assert len(user_text(records.brief(language))) < 11_000
