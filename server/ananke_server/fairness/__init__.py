"""Fair shares: what clients wait for is given them in turn, and a flood of one gives way to another's single request."""
