"""Event stores: their shape, ranges of them, archives, and their way out and in."""
