"""KServe's API as its own SDK types it, and what of a manifest does not fit; the SDK's server side is left unloaded."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from types import ModuleType
from typing import Any

_PLAIN = {"str": str, "int": int, "bool": bool}


def misfits(value: Any, type_name: str, place: str = "") -> list[str]:
    """Keys that the type does not have, and values of another type than it says; Kubernetes' own types are not looked into."""
    if container := re.fullmatch(r"(?:list\[(.*)\]|dict\(str, (.*)\))", type_name):
        items = enumerate(value) if isinstance(value, list) else value.items()
        return [each for key, item in items for each in misfits(item, container[1] or container[2], f"{place}/{key}")]
    if plain := _PLAIN.get(type_name):
        return [] if type(value) is plain else [f"{place}: {value!r} is no {type_name}"]
    known = _type(type_name)
    if known is None:
        return []
    if not isinstance(value, dict):
        return [f"{place}: {value!r} is no {type_name}"]
    types = {key: known.openapi_types[name] for name, key in known.attribute_map.items()}
    found = [f"{place}: {type_name} has no {key}" for key in value.keys() - types.keys()]
    return found + [each for key in value.keys() & types.keys() for each in misfits(value[key], types[key], f"{place}/{key}")]


def _type(name: str) -> Any:
    """The SDK's class of this name; None where it is Kubernetes'."""
    module = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    _models()
    try:
        return getattr(importlib.import_module(f"kserve.models.{module}"), name)
    except ModuleNotFoundError:
        return None


def _models() -> None:
    """The packages without what they import, a web server among it."""
    spec = importlib.util.find_spec("kserve") if "kserve" not in sys.modules else None
    if spec is None or spec.submodule_search_locations is None:
        return
    for name, folder in (("kserve", ""), ("kserve.models", "/models")):
        bare = ModuleType(name)
        bare.__path__ = [f"{path}{folder}" for path in spec.submodule_search_locations]
        sys.modules[name] = bare
