"""References made from the sections: config.yaml with every key at its default, and the tables of docs/CONFIGURATION.md."""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from ananke_server.settings import Settings
from ananke_server.settings.effective import shown
from ananke_server.settings.presets import GPU_PROFILES, PRESETS, Presets
from ananke_server.settings.sections import SECTIONS
from ananke_server.settings.sources import CAN_BE_NONE

_WIDTH = 120
_HEAD = (
    "The configuration of the server: every key, at its default. To set one, remove the # before it.\n\n"
    "Stronger than this file are environment variables: a key's name in capitals after ANANKE_, as ANANKE_MAX_NUM_SEQS, and for a "
    "key within another key two underscores, as ANANKE_LIMITS__BYTES. Weaker are the preset and the GPU's profile. Where the default "
    "is null, null here or `none` in the environment sets the key back to it, whatever a preset says. `make config` prints what "
    "holds and where it came from; ANANKE_CONFIG names another file than this. docs/CONFIGURATION.md has the same as tables."
)


def config_text() -> str:
    """The text of config.yaml: keys are commented out with ``#`` alone, descriptions with ``#`` and a space."""
    lines = [*_comment(_HEAD), "", *_entry("preset", Settings.model_fields["preset"], PRESETS)]
    for section, settings in SECTIONS.items():
        lines += ["", *_comment(settings.__doc__ or ""), f"{section}:"]
        for name, field in settings.model_fields.items():
            lines += [f"  {line}" for line in _entry(name, field, GPU_PROFILES if name == "gpu_profile" else None)]
    return "\n".join(lines) + "\n"


def _entry(name: str, field: FieldInfo, presets: Presets | None) -> Iterator[str]:
    yield from _comment(_description(field, presets))
    if not is_dataclass(field.annotation):
        yield f"#{name}:{' null' if name in CAN_BE_NONE else _yaml(_default(field))}"
        return
    yield f"#{name}:"
    described = _docstrings(field.annotation)
    for inner in fields(field.annotation):
        assert inner.default is not MISSING
        yield from (f"  {line}" for line in _comment(described.get(inner.name, "")))
        yield f"#  {inner.name}:{_yaml(inner.default)}"


def tables() -> str:
    """The settings as Markdown tables, one for each section."""
    head = ["| key | variable | default | meaning |", "|---|---|---|---|"]
    lines = [*head, *_rows("preset", Settings.model_fields["preset"]), "", *_preset_table("preset", PRESETS)]
    for section, settings in SECTIONS.items():
        lines += ["", f"## {section}", "", settings.__doc__ or "", "", *head]
        for name, field in settings.model_fields.items():
            lines += _rows(name, field)
        if section == "gpu":
            lines += ["", *_preset_table("gpu_profile", GPU_PROFILES)]
    return "\n".join(lines) + "\n"


def _rows(name: str, field: FieldInfo) -> Iterator[str]:
    if not is_dataclass(field.annotation):
        default = " `none` " if name in CAN_BE_NONE else _cell(_default(field))
        yield f"| `{name}` | `ANANKE_{name.upper()}` |{default}| {_description(field)} |"
        return
    yield f"| `{name}` | | | {_description(field)} |"
    described = _docstrings(field.annotation)
    for inner in fields(field.annotation):
        variable = f"ANANKE_{name}__{inner.name}".upper()
        yield f"| `{name}.{inner.name}` | `{variable}` |{_cell(inner.default)}| {described.get(inner.name, '')} |"


def _preset_table(title: str, presets: Presets) -> Iterator[str]:
    keys = list(dict.fromkeys(key for values in presets.values() for key in values))
    yield f"| `{title}` | {' | '.join(f'`{key}`' for key in keys)} |"
    yield "|---" * (len(keys) + 1) + "|"
    for name, values in presets.items():
        yield f"| `{name}` |" + "|".join(_cell(values.get(key)) for key in keys) + "|"


def _cell(value: Any) -> str:
    text = _yaml(value).strip()
    return f" `{text}` " if text else " "


def _description(field: FieldInfo, presets: Presets | None = None) -> str:
    """The field's docstring, and what its values can be."""
    text = " ".join((field.description or "").replace("\\\\n", "\\n").split())
    annotation = next((part for part in get_args(field.annotation) if get_origin(part) is Literal), field.annotation)
    if get_origin(annotation) is Literal:
        text += f" One of {', '.join(f'`{value}`' for value in get_args(annotation))}."
    for name, values in (presets or {}).items():
        text += f"\n{name}: " + ", ".join(f"{key} {_yaml(value).strip()}" for key, value in values.items())
    return text


def _docstrings(cls: Any) -> dict[str, str]:
    """The docstrings of a dataclass's fields."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    described = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            described[ast.unparse(field.target)] = " ".join(str(text.value.value).replace("``", "`").split())
    return described


def _default(field: FieldInfo) -> Any:
    """The default; None where the machine decides it."""
    if field.default_factory in (list, dict):
        return field.get_default(call_default_factory=True)
    return None if field.is_required() or field.default_factory else field.default


def _yaml(value: Any) -> str:
    """A default behind its key's colon; nothing where a key without a value says the same."""
    if value is None:
        return ""
    return " " + (shown(value) if isinstance(value, str | Path) else json.dumps(value))


def _comment(text: str) -> list[str]:
    return [f"# {line}".rstrip() for paragraph in text.splitlines() for line in textwrap.wrap(paragraph, _WIDTH) or [""]]
