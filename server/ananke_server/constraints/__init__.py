"""From a constraint's JSON text to a grammar that a matcher runs, or to the reasons why not."""

from ananke_server.constraints.compiled import UNCONSTRAINED, CompiledConstraint, Compiler

__all__ = ["UNCONSTRAINED", "CompiledConstraint", "Compiler"]
