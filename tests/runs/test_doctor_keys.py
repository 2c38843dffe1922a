"""What `doctor` tells of keys and the base URL: that they are there, and nothing secret of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kernel_generator.models.settings import Settings
from kernel_generator.runs.doctor import Check, Status, _keys

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def bare_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working directory and no variable of ours."""
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


def checks() -> dict[str, Check]:
    return {check.name: check for check in _keys()}


def test_a_key_is_present_or_not_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-hidden")
    found = checks()
    assert found["OPENAI_API_KEY"].status is Status.WORKS
    assert found["LLM_API_KEY"].status is Status.MISSING
    assert "language model" not in found
    assert "hidden" not in str(found)


def test_without_any_key_it_says_what_is_left() -> None:
    assert "builtin:compiler" in checks()["language model"].detail


def test_a_base_url_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BASE_URL", "https://h.test:8443/v1")
    assert checks()["BASE_URL"] == Check("BASE_URL", Status.WORKS, "https://h.test:8443/v1")


@pytest.mark.parametrize(
    ("url", "detail", "advice"),
    [
        ("https://user:hidden@h.test/v1", "https://h.test/v1", "give the key as LLM_API_KEY"),
        ("https://h.test/v1?key=hidden", "https://h.test/v1", "give the path alone"),
        ("user:hidden@h.test/v1", "(not a web address)", "give http(s)://host/path"),
    ],
)
def test_a_base_url_with_a_secret_is_shown_without_it(
    monkeypatch: pytest.MonkeyPatch, url: str, detail: str, advice: str
) -> None:
    monkeypatch.setenv("BASE_URL", url)
    found = checks()["BASE_URL"]
    assert (found.status, found.detail) == (Status.LIMITED, detail)
    assert advice in found.advice
    assert "hidden" not in str(found)


def test_a_pair_from_two_places_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("BASE_URL=https://h.test/v1\n")
    monkeypatch.setenv("LLM_API_KEY", "llm")
    found = checks()["BASE_URL"]
    assert found.status is Status.LIMITED
    assert "BASE_URL comes from .env and LLM_API_KEY from the environment" in found.advice
