"""Provenance on the server's side: what serves, the key that signs, and the log of what was signed."""
