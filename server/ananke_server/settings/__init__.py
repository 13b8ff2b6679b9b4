"""Settings of the server: from the environment, from config.yaml, from a preset, or their defaults."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Literal

from pydantic import ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from ananke_server.launch import PROJECT
from ananke_server.settings.agreement import require_agreement
from ananke_server.settings.nearest import no_such
from ananke_server.settings.sections import (
    ConstraintsSection,
    ContainerSection,
    GenerationSection,
    GpuSection,
    LoggingSection,
    ModelSection,
    MonitoringSection,
    PerformanceSection,
    ProvenanceSection,
    SecuritySection,
    ServiceSection,
)
from ananke_server.settings.sources import ENVIRONMENT, PREFIX, ConfigError, sources

__all__ = ["ConfigError", "Settings", "is_loopback", "load_settings"]


class Settings(
    ServiceSection,
    ModelSection,
    GpuSection,
    ContainerSection,
    GenerationSection,
    ConstraintsSection,
    PerformanceSection,
    LoggingSection,
    ProvenanceSection,
    SecuritySection,
    MonitoringSection,
    BaseSettings,
):
    """Every setting of every section: no name is in two of them, so an environment variable is ``ANANKE_`` and the name in capitals."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", env_ignore_empty=True, frozen=True, extra="forbid", hide_input_in_errors=True
    )

    preset: Literal["development", "production"] | None = None
    """Defaults for a purpose; whatever is set elsewhere wins over them."""

    @model_validator(mode="after")
    def _available(self) -> Settings:
        available = {_model_name(name): name for name in self.available_models}
        if available and _model_name(self.model) not in available:
            fault = no_such("available model", self.model, available.values())
            raise ValueError(f"{fault} (available_models lists those that may be served)")
        return self

    @model_validator(mode="after")
    def _agree(self) -> Settings:
        require_agreement(self)
        return self

    @model_validator(mode="after")
    def _encrypted(self) -> Settings:
        certificate, key, authorities = self.tls_certificate_file, self.tls_key_file, self.tls_client_ca_file
        if (certificate is None) != (key is None):
            raise ValueError("tls_certificate_file and tls_key_file belong together: set both, or neither")
        if authorities is not None and certificate is None:
            raise ValueError("tls_client_ca_file asks for certificates over TLS: set tls_certificate_file and tls_key_file too")
        if certificate is not None and self.http_host is not None and not is_loopback(self.http_host):
            cure = "set http_host to 127.0.0.1 and put a proxy with TLS before it"
            raise ValueError(f"http_host is {self.http_host}, but Triton's HTTP has no TLS, and TLS is asked for: {cure}")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings, *sources(settings_cls))


def load_settings(environment: Mapping[str, str] | None = None) -> Settings:
    """The settings of an environment, this process's by default.

    Raises:
        ConfigError: one of them is wrong; the text is one line.
    """
    from ananke_server.settings.effective import fault_line  # here, as it needs Settings

    token = ENVIRONMENT.set(environment)
    try:
        return Settings()
    except ValidationError as fault:
        raise ConfigError("; ".join(fault_line(error) for error in fault.errors())) from None
    except SettingsError as fault:
        raise ConfigError(_unparsed(str(fault))) from None
    finally:
        ENVIRONMENT.reset(token)


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _unparsed(message: str) -> str:
    """What to say of a variable whose text is not the JSON that its type needs."""
    for name in Settings.model_fields:
        if f'"{name}"' in message:
            return f"{PREFIX}{name.upper()}: must be JSON"
    return message


def _model_name(model: str) -> str:
    """A folder by its absolute path, a hub's name as it stands."""
    folder = PROJECT / Path(model).expanduser()
    return str(folder.resolve()) if folder.is_dir() else model
