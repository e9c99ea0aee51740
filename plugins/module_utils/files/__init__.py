"""Files on a host: what differs from the wish, and how one is replaced whole."""
