"""Masking: processes that say which tokens each row of the engine's batch may sample, and the adapters for vLLM's two runners."""
