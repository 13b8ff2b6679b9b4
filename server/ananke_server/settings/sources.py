"""Sources: where settings come from. The environment wins over config.yaml, that over the preset, that over the GPU's profile."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import yaml
from pydantic_settings import BaseSettings, EnvSettingsSource, InitSettingsSource
from pydantic_settings.sources.utils import parse_env_vars

from ananke_server.launch import PROJECT
from ananke_server.settings.nearest import no_such
from ananke_server.settings.presets import GPU_PROFILES, PRESETS, Presets
from ananke_server.settings.sections import SECTIONS

PREFIX = "ANANKE_"
CONFIG_VARIABLE = "ANANKE_CONFIG"
CONFIG_FILE = PROJECT / "config.yaml"

CAN_BE_NONE = {"preset"} | {
    name for section in SECTIONS.values() for name, field in section.model_fields.items() if type(None) in get_args(field.annotation)
}
"""Settings that have a meaning where they have no value, to which a stronger source can set them back."""
_WANTED = {bool: "true or false", int: "a valid integer", float: "a valid number"}
_GIVEN = {bool: "a boolean", int: "an integer", float: "a number with a fraction", str: "a string", list: "a list", dict: "a mapping"}
NONE = ("none", "null")
"""How such a setting is set to no value in the environment; in a file YAML's own ``null`` does it too."""

ENVIRONMENT: ContextVar[Mapping[str, str] | None] = ContextVar("environment", default=None)
"""Read in place of this process's environment where it is set."""


class ConfigError(ValueError):
    """The configuration is wrong: one line that says where, why, and what to do."""


def environment() -> Mapping[str, str]:
    """The variables that settings are read from."""
    given = ENVIRONMENT.get()
    return os.environ if given is None else given


def config_file() -> Path | None:
    """The file that $ANANKE_CONFIG names, else the project's config.yaml; None where that does not exist."""
    if named := environment().get(CONFIG_VARIABLE):
        return Path(named).expanduser()
    return CONFIG_FILE if CONFIG_FILE.is_file() else None


class EnvironmentSource(EnvSettingsSource):
    """The variables ``ANANKE_...``; an empty one counts as unset."""

    def __call__(self) -> dict[str, Any]:
        return {key: _told(key, value) for key, value in super().__call__().items()}

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return parse_env_vars(environment(), self.case_sensitive, self.env_ignore_empty, self.env_parse_none_str)


class FileSource(InitSettingsSource):
    """config.yaml; a key without a value sets a setting that can be none to none, and counts as left out of any other."""

    def __init__(self, settings_cls: type[BaseSettings]) -> None:
        file = config_file()
        super().__init__(settings_cls, {} if file is None else read_config(file))


class PresetSource(InitSettingsSource):
    """What the preset, or the profile, sets that the stronger sources have chosen."""

    def __init__(self, settings_cls: type[BaseSettings], key: str, presets: Presets) -> None:
        super().__init__(settings_cls, {})
        self._key = key
        self._presets = presets

    def __call__(self) -> dict[str, Any]:
        return preset_values(self._presets, self.current_state.get(self._key))


def preset_values(presets: Presets, name: object) -> dict[str, Any]:
    """What a preset sets; nothing where there is none of that name, which is told when the settings are validated."""
    return dict(presets.get(name, {})) if isinstance(name, str) else {}


def sources(settings_cls: type[BaseSettings]) -> tuple[InitSettingsSource | EnvSettingsSource, ...]:
    """All sources, the strongest first.

    Raises:
        ConfigError: the file cannot be read, or has something that no setting is.
    """
    return (
        EnvironmentSource(settings_cls),
        FileSource(settings_cls),
        PresetSource(settings_cls, "preset", PRESETS),
        PresetSource(settings_cls, "gpu_profile", GPU_PROFILES),
    )


def read_config(file: Path) -> dict[str, Any]:
    """The settings of a file in the form of config.yaml, by key.

    Raises:
        ConfigError: it cannot be read, is not YAML, or has something that no setting is.
    """
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), _UniqueKeys)
    except OSError as fault:
        raise ConfigError(f"{file}: cannot be read: {fault.strerror}; ${CONFIG_VARIABLE} names another file") from None
    except yaml.MarkedYAMLError as fault:
        place = f":{fault.problem_mark.line + 1}:{fault.problem_mark.column + 1}" if fault.problem_mark else ""
        raise ConfigError(f"{file}{place}: not YAML: {fault.problem}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as fault:
        raise ConfigError(f"{file}: not YAML: {' '.join(str(fault).split())}") from None
    try:
        return _by_key(_mapping(content, "the file"))
    except ConfigError as fault:
        raise ConfigError(f"{file}: {fault}") from None


def _by_key(content: Mapping[str, Any]) -> dict[str, Any]:
    """The sections' settings in one mapping."""
    values: dict[str, Any] = {}
    for section, settings in content.items():
        if section == "preset":
            values["preset"] = _told("preset", settings)
            continue
        if section not in SECTIONS:
            raise ConfigError(_unknown(section))
        known = SECTIONS[section].model_fields
        for key, value in _mapping(settings, section).items():
            if key not in known:
                raise ConfigError(_unknown(key, section))
            annotation, place = known[key].annotation, f"{section}.{key}"
            if is_dataclass(annotation):
                given = _given(_mapping(value, place))
                types = get_type_hints(annotation)
                for inner in types.keys() & given.keys():
                    _require_type(types[inner], given[inner], f"{place}.{inner}")
                values[key] = given or None
            else:
                values[key] = _told(key, value)
                _require_type(annotation, values[key], place)
    return {key: value for key, value in values.items() if value is not None or key in CAN_BE_NONE}


def _told(key: str, value: Any) -> Any:
    """A setting's value as its source has it, with the words for no value understood where the setting can have none."""
    return None if key in CAN_BE_NONE and isinstance(value, str) and value in NONE else value


def _require_type(annotation: Any, value: Any, place: str) -> None:
    """A file has types of its own, so that `true` is no number and `"12"` none either; the environment has texts alone.

    Raises:
        ConfigError: a truth or a number is wanted and something else is given.
    """
    wanted = next((kind for kind in _WANTED if annotation is kind or kind in _alternatives(annotation)), None)
    # YAML writes a whole number as one where a fraction would do too.
    if wanted is None or value is None or type(value) is wanted or (wanted is float and type(value) is int):
        return
    is_shown = isinstance(value, str | int | float)
    raise ConfigError(place + (f"={str(value)[:60]}" if is_shown else "") + f": it should be {_WANTED[wanted]}, not {_named(value)}")


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else ()


def _named(value: Any) -> str:
    return _GIVEN.get(type(value), type(value).__name__)


def _unknown(name: str, section: str | None = None) -> str:
    """What to say of a name that stands where no such name belongs."""
    for home, settings in SECTIONS.items():
        if name in settings.model_fields:
            return f"{name!r} belongs in the section {home!r}" + ("" if section is None else f", not in {section!r}")
    if section is None:
        return no_such("section", name, ["preset", *SECTIONS])
    return f"in {section}: " + no_such("key", name, SECTIONS[section].model_fields)


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{where} must hold keys with values, not {type(value).__name__}")
    return {str(key): inner for key, inner in value.items()}


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


class _UniqueKeys(yaml.SafeLoader):  # type: ignore[misc]
    """YAML in which a key stands once: of two, one would be ignored."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is repeated", key_node.start_mark)
            seen.add(key)
        made: dict[Any, Any] = super().construct_mapping(node, deep)
        return made
