"""Settings from the environment and `.env`, and that no way of looking at them shows a key."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kernel_generator.models.settings import Settings, read_settings

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def bare_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working directory and no variable of ours."""
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


def secret(settings: Settings, variable: str) -> str | None:
    key = settings.key(variable)
    return None if key is None else key.get_secret_value()


def test_the_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_API_KEY", "llm")
    monkeypatch.setenv("BASE_URL", "http://127.0.0.1:1/v1")
    settings = read_settings()
    assert (secret(settings, "LLM_API_KEY"), settings.base_url) == ("llm", "http://127.0.0.1:1/v1")


def test_dotenv_of_the_working_directory_fills_what_is_unset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("LLM_API_KEY=file\nOPENAI_API_KEY=file\nUNRELATED=1\n")
    monkeypatch.setenv("OPENAI_API_KEY", "process")
    settings = read_settings()
    assert secret(settings, "LLM_API_KEY") == "file"
    assert secret(settings, "OPENAI_API_KEY") == "process"


def test_a_given_environment_is_all_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("LLM_API_KEY=file\n")
    monkeypatch.setenv("OPENAI_API_KEY", "process")
    settings = read_settings({"GEMINI_API_KEY": "given", "PATH": "/bin"})
    assert [secret(settings, v) for v in ("LLM_API_KEY", "OPENAI_API_KEY", "GEMINI_API_KEY")] == [
        None,
        None,
        "given",
    ]


def test_the_keys_that_are_set_are_told_by_name() -> None:
    environment = {"ANTHROPIC_API_KEY": "a", "LLM_API_KEY": "b", "OPENAI_API_KEY": " "}
    assert read_settings(environment).keys_set() == ("LLM_API_KEY", "ANTHROPIC_API_KEY")
    assert read_settings({"BASE_URL": "http://127.0.0.1:1/v1"}).keys_set() == ()


@pytest.mark.parametrize(
    ("file", "exported", "expected"),
    [
        ("K=file", {}, ".env"),
        ("", {"K": "exported"}, "the environment"),
        ("K=file", {"K": "exported"}, "the environment"),
        # What `load_dotenv` has copied is still the file's.
        ("K=file", {"K": "file"}, ".env"),
        ("K=file", {"K": ""}, ".env"),
        ("k=file", {}, ".env"),
    ],
)
@pytest.mark.parametrize("variable", ["LLM_API_KEY", "BASE_URL"])
def test_it_is_known_where_a_value_comes_from(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    file: str,
    exported: dict[str, str],
    expected: str,
    variable: str,
) -> None:
    (tmp_path / ".env").write_text(
        file.replace("K=", f"{variable}=").replace("k=", f"{variable.lower()}=")
    )
    for value in exported.values():
        monkeypatch.setenv(variable, value)
    assert read_settings().source(variable) == expected


def test_a_base_url_is_not_shown_with_the_settings() -> None:
    settings = read_settings({"BASE_URL": "https://user:hidden@h.test/v1?key=hidden"})
    assert "hidden" not in repr(settings) + str(settings)


def test_a_key_is_shown_nowhere() -> None:
    settings = read_settings({"LLM_API_KEY": "sk-hidden", "OPENAI_API_KEY": "sk-hidden"})
    assert "hidden" not in repr(settings) + str(settings) + settings.model_dump_json()
