"""What a supervisor is told at its start."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from ananke_server.constraints.kinds import Kinds
from ananke_server.constraints.limits import Limits


@dataclass(frozen=True, slots=True)
class SandboxOptions:
    """Whose tokenizer it has, its limits, what it takes, and how many workers."""

    model: str
    revision: str | None
    limits: Limits
    kinds: Kinds
    workers: int

    def to_text(self) -> str:
        """The options as one argument of a command line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> SandboxOptions:
        """The options of a text that ``to_text`` made."""
        fields = json.loads(text)
        return cls(**fields | {"limits": Limits(**fields["limits"]), "kinds": Kinds(**fields["kinds"])})
