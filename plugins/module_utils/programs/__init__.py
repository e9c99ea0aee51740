"""The collection's own programs on a host: where each one is installed, and what differs from the wish."""
