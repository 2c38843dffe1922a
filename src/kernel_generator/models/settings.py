"""Keys and the base URL as the user's environment and `.env` hold them. A key is never shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import SecretStr
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

if TYPE_CHECKING:
    from collections.abc import Mapping


class Settings(BaseSettings):
    """Environment variables, and `.env` in the working directory for those that are not set."""

    model_config = SettingsConfigDict(
        env_file=".env", env_file_encoding="utf-8", env_ignore_empty=True, extra="ignore"
    )

    llm_api_key: SecretStr | None = None
    """Goes together with `base_url` where that is set."""
    base_url: str | None = None
    openai_api_key: SecretStr | None = None
    anthropic_api_key: SecretStr | None = None
    gemini_api_key: SecretStr | None = None
    google_api_key: SecretStr | None = None

    def key(self, variable: str) -> SecretStr | None:
        """The key in an environment variable, or None where it is unset or blank."""
        value: object = getattr(self, variable.lower())
        if isinstance(value, SecretStr) and value.get_secret_value().strip():
            return SecretStr(value.get_secret_value().strip())
        return None


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
        return Settings()
    known = {
        name: environment[name.upper()]
        for name in Settings.model_fields
        if environment.get(name.upper())
    }
    return _GivenSettings.model_validate(known)
