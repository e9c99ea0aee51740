"""Files on a host: what differs from the wish, and how a file is replaced as a whole."""
