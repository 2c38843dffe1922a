"""Keys and the base URL as the user's environment and `.env` hold them. A key is never shown.

`BASE_URL` and `LLM_API_KEY` belong together: where they come from is remembered, so that a `.env`
that happens to lie in the working directory cannot send an exported key to a host of its choosing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dotenv import dotenv_values
from pydantic import Field, PrivateAttr, SecretStr
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

if TYPE_CHECKING:
    from collections.abc import Mapping


_FILE = ".env"


class Settings(BaseSettings):
    """Environment variables, and `.env` in the working directory for those that are not set."""

    model_config = SettingsConfigDict(
        env_file=_FILE, env_file_encoding="utf-8", env_ignore_empty=True, extra="ignore"
    )

    llm_api_key: SecretStr | None = None
    """Goes together with `base_url` where that is set."""
    base_url: str | None = Field(default=None, repr=False)
    """May hold a password or a key by mistake: see `address.shown`."""
    openai_api_key: SecretStr | None = None
    anthropic_api_key: SecretStr | None = None
    gemini_api_key: SecretStr | None = None
    google_api_key: SecretStr | None = None

    _in_file: frozenset[str] = PrivateAttr(default=frozenset())
    """Fields whose value is the one that `.env` holds."""

    def key(self, variable: str) -> SecretStr | None:
        """The key in an environment variable, or None where it is unset or blank."""
        value: object = getattr(self, variable.lower())
        if isinstance(value, SecretStr) and value.get_secret_value().strip():
            return SecretStr(value.get_secret_value().strip())
        return None

    def keys_set(self) -> tuple[str, ...]:
        """Names of the variables that hold a key, `LLM_API_KEY` first; never their values."""
        return tuple(v for v in KEY_VARIABLES if self.key(v) is not None)

    def source(self, variable: str) -> str:
        """Where a variable's value is from: '.env' or 'the environment'.

        A value that both hold counts as the file's: `load_dotenv` copies the file into the
        environment, and an exported value looks no different.
        """
        return ".env" if variable.lower() in self._in_file else "the environment"

    def split_pair(self) -> str:
        """A sentence where `BASE_URL` and `LLM_API_KEY` come from two places; '' where not."""
        if not (self.base_url or "").strip() or self.key("LLM_API_KEY") is None:
            return ""
        url_from, key_from = self.source("BASE_URL"), self.source("LLM_API_KEY")
        if url_from == key_from:
            return ""
        return (
            f"BASE_URL comes from {url_from} and LLM_API_KEY from {key_from}, but the key goes to "
            "the host that it was set with only: set both in the same place"
        )

    @classmethod
    def of_this_process(cls) -> Settings:
        """The settings that hold now."""
        in_file = {name.upper(): value for name, value in dotenv_values(_FILE).items() if value}
        found, file = cls(), read_settings(in_file)
        found._in_file = frozenset(
            name
            for name in cls.model_fields
            if getattr(file, name) is not None and getattr(file, name) == getattr(found, name)
        )
        return found


KEY_VARIABLES = tuple(name.upper() for name in Settings.model_fields if name != "base_url")
"""Every environment variable that a key is read from."""


class _GivenSettings(Settings):
    """Reads what it is handed and nothing else."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


def read_settings(environment: Mapping[str, str] | None = None) -> Settings:
    """The settings of `environment`, or of the process and `.env` where it is None."""
    if environment is None:
        return Settings.of_this_process()
    known = {
        name: environment[name.upper()]
        for name in Settings.model_fields
        if environment.get(name.upper())
    }
    return _GivenSettings.model_validate(known)
