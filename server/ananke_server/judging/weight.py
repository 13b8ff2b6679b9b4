"""Weight: how much work a schema can make of one place in an output, so that only what is surely quick is judged in this process."""

from __future__ import annotations

import math
from typing import Any
from urllib.parse import unquote

_NEST = 100
_PATTERN = 100
_DYNAMIC = frozenset({"$dynamicRef", "$recursiveRef", "$id", "id", "$anchor", "$dynamicAnchor"})


def weight_of(schema: Any) -> float:
    """The size of a schema with its references unfolded; infinite where it recurses, or refers to more than its own places.

    An upper bound: what is no subschema counts too. Costs about a microsecond an object of the schema.
    """
    return _Weigher(schema).weigh(schema, 0)


class _Weigher:
    def __init__(self, root: Any) -> None:
        self._root = root
        self._known: dict[int, float] = {}

    def weigh(self, value: Any, level: int) -> float:
        if not isinstance(value, dict | list):
            return 0
        if level > _NEST:
            return math.inf
        known = self._known.get(id(value))
        if known is None:
            # Found again before it is known, it recurses.
            self._known[id(value)] = math.inf
            known = self._known[id(value)] = 1 + self._within(value, level + 1)
        return known

    def _within(self, value: dict[str, Any] | list[Any], level: int) -> float:
        if isinstance(value, list):
            return sum(self.weigh(member, level) for member in value)
        if not _DYNAMIC.isdisjoint(value):
            return math.inf
        weight = sum(self.weigh(member, level) for member in value.values())
        if isinstance(value.get("patternProperties"), dict):
            weight += _PATTERN * len(value["patternProperties"])
        if "pattern" in value:
            weight += _PATTERN
        if isinstance(value.get("$ref"), str):
            weight += self._referred(value["$ref"], level)
        return weight

    def _referred(self, reference: str, level: int) -> float:
        if reference != "#" and not reference.startswith("#/"):
            return math.inf
        target = self._root
        for part in unquote(reference).split("/")[1:]:
            part = part.replace("~1", "/").replace("~0", "~")
            if not isinstance(target, dict) or part not in target:
                return math.inf
            target = target[part]
        return self.weigh(target, level)
