"""Masking: llguidance matchers for the rows of an engine's batch, and the adapters for vLLM's two runners."""
