"""The engine: vLLM's AsyncLLM with guides, from a request to its checked result."""
