"""The server side of Ananke for Triton: constraints, masks, the engine and their Triton models."""
