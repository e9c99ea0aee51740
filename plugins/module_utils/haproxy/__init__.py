"""HAProxy's runtime socket and statistics."""
