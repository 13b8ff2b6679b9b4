"""Judging: whether a text is what a JSON schema admits, by a complete validator that shares nothing with the masks."""
