"""A running cluster as an inventory: what its hosts say, what would keep it, and what somebody has to decide."""
