"""The effective configuration: each setting's value, and where it came from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from ananke_server.launch import PROJECT
from ananke_server.settings import Settings
from ananke_server.settings.presets import GPU_PROFILES, PRESETS
from ananke_server.settings.sections import SECTIONS
from ananke_server.settings.sources import PREFIX, EnvironmentSource, FileSource, config_file, environment, preset_values

ENVIRONMENT_LAYER = "environment"

OTHER_VARIABLES = frozenset(
    f"{PREFIX}{name}"
    for name in (
        *("CONFIG", "HOME", "RUN_DIR", "DEVICE", "TORCH_INDEX", "BOARD", "CORES_KEPT", "STAGE_TIMES", "COMPLETE", "TRACEBACK"),
        *("GRPC_URL", "HTTP_URL", "API_KEY", "API_KEY_PATH", "CA_FILE", "CLIENT_CERTIFICATE_FILE", "CLIENT_KEY_FILE"),
    )
)
"""Variables of set-up, clients, tools and between processes, which are no settings."""


@dataclass(frozen=True)
class Effective:
    """One setting; ``key`` is dotted where it is within another."""

    section: str
    key: str
    value: Any
    origin: str


def effective(settings: Settings) -> list[Effective]:
    """The settings of this process's environment, in config.yaml's order.

    Raises:
        ConfigError: the file cannot be read, or has something that no setting is.
    """
    layers = _layers()
    rows = [Effective("", "preset", settings.preset, _origin(layers, "preset"))]
    for section, fields in SECTIONS.items():
        for name in fields.model_fields:
            value = getattr(settings, name)
            if is_dataclass(value) and not isinstance(value, type):
                rows += [Effective(section, f"{name}.{key}", inner, _origin(layers, name, key)) for key, inner in asdict(value).items()]
            else:
                rows.append(Effective(section, name, value, _origin(layers, name)))
    return rows


def shown(value: Any) -> str:
    """A value as a person reads it, without any secret."""
    if isinstance(value, SecretStr):
        return "****"
    if value is None:
        return "-"
    return str(value).lower() if isinstance(value, bool) else str(value).removeprefix(f"{PROJECT}/")


def fault_line(error: Mapping[str, Any]) -> str:
    """A fault of pydantic's in one line: each setting as its source names it, its value unless that is secret, and what is wrong."""
    message = str(error["msg"]).removeprefix("Value error, ").replace("Input should", "it should")
    path = [str(part) for part in error["loc"]]
    layers = _layers()
    at_fault = [_given(layers, path[0], path[1] if len(path) > 1 else None)] if path else []
    at_fault += [_given(layers, name) for name in error.get("ctx", {}).get("settings", ())]
    return ": ".join([*([", ".join(at_fault)] if at_fault else []), message])


def unknown_variables() -> Iterator[tuple[str, str | None]]:
    """Variables of the environment that nothing reads, each with the setting's that may be meant, None where none is like it."""
    known = [PREFIX + name.upper() for name in Settings.model_fields]
    for variable in sorted(environment()):
        if variable.startswith(PREFIX) and variable not in OTHER_VARIABLES and variable.partition("__")[0] not in known:
            yield variable, next(iter(get_close_matches(variable, known, n=1, cutoff=0.85)), None)


@dataclass(frozen=True)
class _Layer:
    kind: str
    values: Mapping[str, Any]

    def place(self, name: str, inner: str | None) -> str:
        """Where a setting stands in this layer."""
        path = name if inner is None else f"{name}__{inner}"
        if self.kind == ENVIRONMENT_LAYER:
            return PREFIX + path.upper()
        section = next((f"{section}." for section, fields in SECTIONS.items() if name in fields.model_fields), "")
        return f"{self.kind}: {section}{path.replace('__', '.')}"


def _layers() -> list[_Layer]:
    """The sources' values, the strongest first."""
    layers = [_Layer(ENVIRONMENT_LAYER, EnvironmentSource(Settings)()), _Layer(shown(config_file()), FileSource(Settings)())]
    for key, presets in (("preset", PRESETS), ("gpu_profile", GPU_PROFILES)):
        chosen = next((layer.values[key] for layer in layers if key in layer.values), None)
        layers.append(_Layer(f"{key} {chosen}", preset_values(presets, chosen)))
    return layers


def _given(layers: list[_Layer], name: str, inner: str | None = None) -> str:
    """A setting as its source names it, with its value unless that is secret."""
    layer = _strongest(layers, name, inner)
    value = layer.values[name] if layer else Settings.model_fields[name].get_default(call_default_factory=True)
    if isinstance(value, dict) and inner is not None:
        value = value.get(inner)
    is_shown = isinstance(value, str | int | float | Path) and "Secret" not in str(Settings.model_fields[name].annotation)
    origin = layer.place(name, inner) if layer else name
    return origin + (f"={str(value)[:60]}" if is_shown else "")


def _strongest(layers: list[_Layer], name: str, inner: str | None) -> _Layer | None:
    for layer in layers:
        if name in layer.values and (inner is None or not isinstance(value := layer.values[name], dict) or inner in value):
            return layer
    return None


def _origin(layers: list[_Layer], name: str, inner: str | None = None) -> str:
    layer = _strongest(layers, name, inner)
    if layer is None:
        return "default"
    return layer.place(name, inner) if layer.kind == ENVIRONMENT_LAYER else layer.kind
